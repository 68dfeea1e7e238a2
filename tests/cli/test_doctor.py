from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from dspy_toolkit.cli.doctor import doctor
from dspy_toolkit.config import Settings
from dspy_toolkit.engine import checkup
from dspy_toolkit.engine.checkup import Finding, check_machine

app = typer.Typer()
app.command()(doctor)
linux = pytest.mark.skipif(sys.platform != "linux", reason="MLX uses the system's BLAS elsewhere")


def found(findings: list[Finding], subject: str) -> Finding:
    return next(finding for finding in findings if finding.subject == subject)


def test_machines_get_every_finding_and_the_verdict_in_one_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSPY_TK_HOME", str(tmp_path))
    monkeypatch.setenv("DSPY_TK_BLAS", "off")
    result = CliRunner().invoke(app, ["--json"])
    verdict = json.loads(result.stdout)
    levels = [finding["level"] for finding in verdict["findings"]]

    assert verdict["ok"] is ("problem" not in levels)
    assert result.exit_code == (0 if verdict["ok"] else 1)
    assert {"platform", "python", "mlx", "device", "home", "embedded model"} <= {
        finding["subject"] for finding in verdict["findings"]
    }
    assert all(finding["fix"] for finding in verdict["findings"] if finding["level"] != "ok")


def test_people_get_a_table_and_exit_code_one_when_there_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In the way of the file that is written to see whether files can be.
    (tmp_path / ".doctor").mkdir()
    monkeypatch.setenv("DSPY_TK_HOME", str(tmp_path))
    monkeypatch.setenv("DSPY_TK_BLAS", "off")
    result = CliRunner().invoke(app, [])

    assert result.exit_code == 1
    assert "DSPY_TK_HOME" in result.stdout
    assert "problems found" in result.stderr


@linux
def test_a_blas_that_cannot_be_loaded_is_a_problem(tmp_path: Path) -> None:
    finding = found(check_machine(Settings(home=tmp_path, blas="/nowhere/libblas.so")), "BLAS")

    assert finding.level == "problem"
    assert "cannot be loaded" in finding.found


@linux
def test_the_measured_speeds_are_told(tmp_path: Path) -> None:
    finding = found(check_machine(Settings(home=tmp_path)), "BLAS")

    assert "GFLOP/s" in finding.found


def test_a_gpu_that_is_asked_for_and_not_there_is_a_problem(tmp_path: Path) -> None:
    import mlx.core as mx

    if mx.metal.is_available() or mx.cuda.is_available():
        pytest.skip("this machine has a GPU")
    finding = checkup._device(Settings(home=tmp_path, device="gpu"))

    assert (finding.level, finding.fix) == ("problem", "set device = 'auto'")


def test_a_damaged_embedded_model_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dspy_toolkit.store.manifest import write_manifest
    from tests.engine.tiny import write_model

    folder = write_model(tmp_path / "embedded")
    monkeypatch.setattr(checkup, "EMBEDDED_FOLDER", folder)
    write_manifest(folder, {})
    whole = checkup._embedded()
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    changed = checkup._embedded()

    assert (whole.level, "digests match" in whole.found) == ("ok", True)
    assert (changed.level, "was changed" in changed.found) == ("problem", True)
