from __future__ import annotations

from pathlib import Path

import pytest

from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.errors import InvalidInput, UnknownKey


def write(home: Path, text: str) -> dict[str, str]:
    (home / "config.toml").write_text(text)
    return {"DSPY_TK_HOME": str(home)}


def test_defaults_hold_where_nothing_is_set(tmp_path: Path) -> None:
    settings = load_settings(environ={"DSPY_TK_HOME": str(tmp_path)})

    assert settings == Settings(home=tmp_path)


def test_a_flag_wins_over_a_variable_which_wins_over_the_file(tmp_path: Path) -> None:
    environ = write(tmp_path, 'model = "file"\nthreads = 2\ndevice = "cpu"\n')
    environ |= {"DSPY_TK_MODEL": "variable", "DSPY_TK_THREADS": "3"}

    settings = load_settings({"model": "flag", "threads": None}, environ)

    assert (settings.model, settings.threads, settings.device) == ("flag", 3, "cpu")


def test_what_a_command_usually_does_yields_to_any_setting(tmp_path: Path) -> None:
    usual = {"supervised": True}
    nothing = {"DSPY_TK_HOME": str(tmp_path)}

    assert load_settings(environ=nothing, defaults=usual).supervised
    assert not load_settings(
        environ={**nothing, "DSPY_TK_SUPERVISED": "no"}, defaults=usual
    ).supervised
    assert not load_settings({"supervised": False}, nothing, usual).supervised
    assert not load_settings(
        environ=write(tmp_path, "supervised = false\n"), defaults=usual
    ).supervised


def test_everything_lies_under_home(tmp_path: Path) -> None:
    settings = load_settings({"home": tmp_path}, {})

    places = (settings.runs, settings.database, settings.call_cache, settings.signatures)

    assert all(place.parent == tmp_path for place in places)


def test_an_unknown_key_in_the_file_is_refused(tmp_path: Path) -> None:
    environ = write(tmp_path, "thread = 4\n")

    with pytest.raises(UnknownKey, match="did you mean 'threads'"):
        load_settings(environ=environ)


def test_a_file_that_is_not_toml_is_refused(tmp_path: Path) -> None:
    environ = write(tmp_path, "threads = = 4\n")

    with pytest.raises(InvalidInput, match=r"config\.toml cannot be read"):
        load_settings(environ=environ)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("threads", "many", "a whole number above 0"),
        ("threads", "0", "a whole number above 0"),
        ("device", "tpu", "one of auto, gpu, cpu"),
        ("cache", "perhaps", "true or false"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(key: str, value: str, expected: str) -> None:
    with pytest.raises(InvalidInput, match=f"setting {key} must be {expected}, got '?{value}'?"):
        load_settings(environ={f"DSPY_TK_{key.upper()}": value, "DSPY_TK_HOME": "/nowhere"})


@pytest.mark.parametrize(("text", "value"), [("false", False), ("1", True), ("No", False)])
def test_a_boolean_variable_is_read_as_people_write_it(text: str, value: bool) -> None:
    assert load_settings(environ={"DSPY_TK_CACHE": text}).cache is value


def test_the_users_folder_is_meant_by_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")

    assert Settings().home == Path("/somewhere/.dspy-toolkit")
    assert Settings(home=Path("relative")).home.is_absolute()


def test_a_home_below_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()

    with pytest.raises(InvalidInput, match=rf"home {file}/a/b cannot be: {file} is no folder"):
        load_settings(environ={"DSPY_TK_HOME": str(file / "a" / "b")})


def test_a_misspelt_flag_or_variable_is_refused() -> None:
    with pytest.raises(UnknownKey, match="did you mean 'model'"):
        load_settings({"modle": "x"}, {})
    with pytest.raises(UnknownKey, match="did you mean 'DSPY_TK_THREADS'"):
        load_settings(environ={"DSPY_TK_TREADS": "2"})
