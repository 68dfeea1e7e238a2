from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dspy_toolkit.cli.main import main
from dspy_toolkit.cli.serving_plan import (
    ensemble_with_whole_paths,
    make_plan,
    with_whole_paths,
)
from dspy_toolkit.config import Settings
from dspy_toolkit.deployment import Deployments, PushOptions
from dspy_toolkit.programs.shelf import Shelf
from tests.deployment.making import write_artifact


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DSPY_TK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def unit(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int | str | None, str]:
    """Exit code, and what the command printed or complained of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dspy-tk", "deploy", "unit", *words, "--kind", "systemd"])
        with pytest.raises(SystemExit) as ended:
            main()
    shown = capsys.readouterr()
    return ended.value.code, shown.out or shown.err


@pytest.mark.parametrize(
    "words", [["nope"], ["--ensemble", "best=vote:nope@1,nope@2"], ["x=./nope"]]
)
def test_a_unit_for_what_is_not_there_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    code, said = unit(capsys, *words)

    assert code != 0
    assert said.startswith("error: ")
    assert "nope" in said
    assert said.count("\n") == 1


def test_a_unit_names_folders_by_their_whole_path_and_deployments_as_they_are(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(home=home / "home", device="cpu", cache=False)
    write_artifact(home / "art", settings)
    Deployments(settings).named("triage").push(home / "art", settings, PushOptions())
    words = ["x=./art", "triage", "--ensemble", "best=vote:art,triage@1"]
    code, said = unit(capsys, *words)

    assert code == 0
    (line,) = (each for each in said.splitlines() if each.startswith("ExecStart="))
    served = line.partition(" serve ")[2]
    assert served == (
        f"x={home}/art triage --ensemble best=vote:{home}/art,triage@1 --host 127.0.0.1 --port 8000"
    )


def test_the_task_folder_a_deployment_was_named_after_is_not_taken_for_it(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(home=home / "home", device="cpu", cache=False)
    write_artifact(home / "art", settings)
    Deployments(settings).named("triage").push(home / "art", settings, PushOptions())
    (home / "triage").mkdir()
    (home / "triage" / "task.toml").write_text("")
    served, unit_file = unit(capsys, "triage")
    mistyped, said = unit(capsys, "traige")

    assert served == 0
    assert " serve triage " in unit_file
    assert mistyped == 3
    assert "if a deployment is meant: did you mean 'triage'?" in said


def test_a_folder_beside_a_deployment_of_its_name_is_no_member(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(home=home / "home", device="cpu", cache=False)
    write_artifact(home / "art", settings)
    Deployments(settings).named("triage").push(home / "art", settings, PushOptions())
    (home / "triage@1").mkdir()
    code, said = unit(capsys, "--ensemble", "best=vote:triage@1,triage@1")

    assert code == 0
    assert "--ensemble best=vote:triage@1,triage@1 " in said


def test_a_whole_path_may_hold_what_parts_names(home: Path) -> None:
    settings = Settings(home=home / "home", device="cpu", cache=False)
    odd = home / "a=b:c"
    odd.mkdir()
    write_artifact(odd / "art", settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(odd)
        written = [with_whole_paths("./art"), with_whole_paths("x=art")]
        ensemble = ensemble_with_whole_paths("best=vote:art,art")
    plan = make_plan(written, [ensemble], settings, Shelf())

    assert written[1] == f"x={odd}/art"
    assert ensemble == f"best=vote:{odd}/art,{odd}/art"
    assert plan.names[1:] == ["x", "best"]


def test_a_member_in_a_folder_with_a_comma_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=home / "home", device="cpu", cache=False)
    (home / "a,b").mkdir()
    write_artifact(home / "a,b" / "art", settings)
    monkeypatch.chdir(home / "a,b")
    code, said = unit(capsys, "--ensemble", "best=vote:art,art")

    assert code != 0
    assert "holds a comma" in said
    assert said.count("\n") == 1
