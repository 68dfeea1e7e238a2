from __future__ import annotations

import pytest

from dspy_toolkit.errors import (
    EngineError,
    IntegrityError,
    InvalidInput,
    MissingExtra,
    NotFound,
    StorageError,
    ToolkitError,
    UnknownKey,
    nearest,
    reject_unknown_keys,
)


def test_each_kind_of_error_has_its_own_exit_code() -> None:
    kinds: list[type[ToolkitError]] = [
        ToolkitError,
        NotFound,
        InvalidInput,
        IntegrityError,
        EngineError,
        StorageError,
        MissingExtra,
    ]

    assert [kind.exit_code for kind in kinds] == [1, 3, 4, 5, 6, 7, 8]


def test_an_unknown_key_names_the_nearest_known_one() -> None:
    with pytest.raises(UnknownKey, match=r"task\.toml: unknown key 'modle'; did you mean 'model'"):
        reject_unknown_keys(["name", "modle"], ["name", "model", "metric"], "task.toml")


def test_a_name_near_nothing_lists_what_is_known() -> None:
    assert nearest("zzz", ["b", "a"]) == "known: a, b"
    assert nearest("zzz", []) == "none is known"


def test_a_missing_extra_says_how_to_install_it() -> None:
    error = MissingExtra("mlflow", "mlflow", "exporting runs")

    assert "pip install 'dspy-toolkit[mlflow]'" in str(error)
