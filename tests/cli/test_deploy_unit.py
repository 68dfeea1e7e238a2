from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dspy_toolkit.cli.main import main
from dspy_toolkit.config import Settings
from dspy_toolkit.deployment import Deployments, PushOptions
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
