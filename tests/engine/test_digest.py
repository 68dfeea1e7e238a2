from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dspy_toolkit.engine import EngineOptions
from dspy_toolkit.engine.digest import answer_digest, model_digest

LONG_AGO = (1_000_000_000, 1_000_000_000)


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def change_template(path: Path) -> None:
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "chat_template": config["chat_template"] + " "}))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.safetensors", flip_last_byte),
        ("tokenizer_config.json", change_template),
        ("config.json", lambda path: path.write_text(path.read_text() + " ")),
        ("chat_template.jinja", lambda path: path.write_text("{{ messages }}")),
    ],
)
def test_whatever_may_change_an_answer_changes_the_digest(
    folder: Path, tmp_path: Path, name: str, change: Callable[[Path], Any]
) -> None:
    before = model_digest(folder, None, tmp_path)
    change(folder / name)

    assert model_digest(folder, None, tmp_path) != before


def test_a_readme_changes_nothing(folder: Path, tmp_path: Path) -> None:
    before = model_digest(folder, None, tmp_path)
    (folder / "README.md").write_text("hello")

    assert model_digest(folder, None, tmp_path) == before


def test_the_adapter_counts(folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapters.safetensors").write_bytes(b"1")
    first = model_digest(folder, adapter, tmp_path)
    (adapter / "adapters.safetensors").write_bytes(b"2")

    assert (
        len({model_digest(folder, None, tmp_path), first, model_digest(folder, adapter, tmp_path)})
        == 3
    )


def test_weights_that_stayed_the_same_are_not_read_again(folder: Path, tmp_path: Path) -> None:
    weights = folder / "model.safetensors"
    os.utime(weights, LONG_AGO)
    home = tmp_path / "home"
    before = model_digest(folder, None, home)
    (remembered,) = (home / "digests").iterdir()
    record = json.loads(remembered.read_text())
    remembered.write_text(json.dumps({**record, "sha256": "0" * 64}))

    assert model_digest(folder, None, home) != before
    os.utime(weights, (1_000_000_001, 1_000_000_001))
    assert model_digest(folder, None, home) == before


def test_weights_written_this_moment_are_not_remembered(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").touch()
    model_digest(folder, None, tmp_path / "home")

    assert not (tmp_path / "home" / "digests").exists()


def test_a_damaged_memory_is_as_none(folder: Path, tmp_path: Path) -> None:
    os.utime(folder / "model.safetensors", LONG_AGO)
    before = model_digest(folder, None, tmp_path)
    (remembered,) = (tmp_path / "digests").iterdir()
    remembered.write_text("{")

    assert model_digest(folder, None, tmp_path) == before


def test_a_home_that_cannot_be_written_costs_nothing_but_time(folder: Path, tmp_path: Path) -> None:
    os.utime(folder / "model.safetensors", LONG_AGO)
    (tmp_path / "file").write_text("")

    assert model_digest(folder, None, tmp_path / "file") == model_digest(folder, None, tmp_path)


def test_what_changes_answers_counts_and_what_changes_speed_does_not() -> None:
    plain = answer_digest("m", "float32", EngineOptions())
    others = {
        answer_digest("m", "float16", EngineOptions()),
        answer_digest("n", "float32", EngineOptions()),
        answer_digest("m", "float32", EngineOptions(min_p=0.1)),
        answer_digest("m", "float32", EngineOptions(max_tokens=5)),
        answer_digest("m", "float32", EngineOptions(template={"a": 1})),
    }

    assert len(others | {plain}) == 6
    assert answer_digest("m", "float32", EngineOptions(rows=3, prefill_tokens=9)) == plain
