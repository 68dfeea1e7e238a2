from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dspy_toolkit.cli.serving_plan import (
    ensemble_with_whole_paths,
    make_plan,
    with_whole_paths,
)
from dspy_toolkit.config import Settings
from dspy_toolkit.deployment import Deployments, PushOptions
from dspy_toolkit.programs.shelf import Shelf
from tests.cli.conftest import Command
from tests.deployment.making import write_artifact


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an artifact in `art`, which is deployed as `triage` in `home`."""
    folder = tmp_path_factory.mktemp("place")
    settings = Settings(home=folder / "home", device="cpu", cache=False)
    write_artifact(folder / "art", settings)
    Deployments(settings).named("triage").push(folder / "art", settings, PushOptions())
    return folder


@pytest.fixture
def here(place: Path, dspy_tk: Command, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place, with its home and as the folder one is in."""
    monkeypatch.setenv("DSPY_TK_HOME", str(place / "home"))
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def unit(dspy_tk: Command) -> Command:
    return lambda *words: dspy_tk("deploy", "unit", *words, "--kind", "systemd")


@pytest.mark.parametrize(
    "words", [["nope"], ["--ensemble", "best=vote:nope@1,nope@2"], ["x=./nope"]]
)
def test_a_unit_for_what_is_not_there_is_refused(unit: Command, words: list[str]) -> None:
    done = unit(*words)

    assert done.code != 0
    assert done.err.startswith("error: ")
    assert "nope" in done.err
    assert done.err.count("\n") == 1


def test_a_unit_names_folders_by_their_whole_path_and_deployments_as_they_are(
    here: Path, unit: Command
) -> None:
    done = unit("x=./art", "triage", "--ensemble", "best=vote:art,triage@1")

    assert done.code == 0
    (line,) = (each for each in done.out.splitlines() if each.startswith("ExecStart="))
    served = line.partition(" serve ")[2]
    assert served == (
        f"x={here}/art triage --ensemble best=vote:{here}/art,triage@1 --host 127.0.0.1 --port 8000"
    )


def test_the_task_folder_a_deployment_was_named_after_is_not_taken_for_it(
    here: Path, unit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "triage").mkdir()
    (tmp_path / "triage" / "task.toml").write_text("")
    served, mistyped = unit("triage"), unit("traige")

    assert served.code == 0
    assert " serve triage " in served.out
    assert mistyped.code == 3
    assert "if a deployment is meant: did you mean 'triage'?" in mistyped.err


def test_a_folder_beside_a_deployment_of_its_name_is_no_member(
    here: Path, unit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "triage@1").mkdir()
    done = unit("--ensemble", "best=vote:triage@1,triage@1")

    assert done.code == 0
    assert "--ensemble best=vote:triage@1,triage@1 " in done.out


def test_a_whole_path_may_hold_what_parts_names(place: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a=b:c"
    odd.mkdir()
    shutil.copytree(place / "art", odd / "art")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(odd)
        written = [with_whole_paths("./art"), with_whole_paths("x=art")]
        ensemble = ensemble_with_whole_paths("best=vote:art,art")
    settings = Settings(home=tmp_path / "home", device="cpu", cache=False)
    plan = make_plan(written, [ensemble], settings, Shelf())

    assert written[1] == f"x={odd}/art"
    assert ensemble == f"best=vote:{odd}/art,{odd}/art"
    assert plan.names[1:] == ["x", "best"]


def test_a_member_in_a_folder_with_a_comma_is_refused(
    place: Path, unit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "a,b"
    odd.mkdir()
    shutil.copytree(place / "art", odd / "art")
    monkeypatch.chdir(odd)
    done = unit("--ensemble", "best=vote:art,art")

    assert done.code != 0
    assert "holds a comma" in done.err
    assert done.err.count("\n") == 1
