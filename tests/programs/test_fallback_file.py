"""A file that names programs and who answers for whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dspy
import pytest
from typer.testing import CliRunner

from dspy_toolkit.cli.main import app
from dspy_toolkit.errors import InvalidInput, NotFound, UnknownKey
from dspy_toolkit.programs.artifact import save_artifact
from dspy_toolkit.programs.fallback_file import load_fallback_program
from dspy_toolkit.programs.modules import plan_of
from dspy_toolkit.programs.opening import local_lm
from dspy_toolkit.programs.signature import load_signature
from dspy_toolkit.programs.speaking import speaking
from tests.engine.tiny import write_model

FILE = """
primary = "heads"
deadline_s = 5

[programs.heads]
head_model = "heads"
fallback = "memory"
timeouts = { whole_s = 2 }

[programs.memory]
remember = 10
fallback = "default"

[programs.default]
answer = { team = "unknown", urgent = false }
"""


def write(folder: Path, content: str) -> Path:
    path = folder / "fallbacks.toml"
    path.write_text(content)
    return path


def test_a_file_is_refused_with_the_reason_before_anything_is_opened(tmp_path: Path) -> None:
    def opened(folder: Path) -> Any:
        raise AssertionError(f"{folder} was opened")

    cases = [
        ("whole_s = 2", "whole_s = 9", InvalidInput, "longer than the deadline"),
        ('fallback = "memory"', 'fallback = "heads"', InvalidInput, "falls back to itself"),
        ("answer =", 'fallback = "heads"\nanswer =', InvalidInput, "circle"),
        ("timeouts", "timeout", UnknownKey, "did you mean 'timeouts'"),
        ("remember = 10", "remember = 10\nmodel = 'x'", InvalidInput, "does not belong"),
        ("remember = 10\n", "", InvalidInput, "one of artifact"),
        ("deadline_s", "deadlines", UnknownKey, "did you mean 'deadline_s'"),
        ("deadline_s = 5", "deadline_s 5", InvalidInput, "TOML"),
    ]
    for old, new, error, message in cases:
        path = write(tmp_path, FILE.replace(old, new))
        with pytest.raises(error, match=message):
            load_fallback_program(path, open_heads=opened)


def test_a_file_names_programs_that_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="open_heads"):
        load_fallback_program(write(tmp_path, FILE))
    with pytest.raises(NotFound, match="nowhere"):
        load_fallback_program(
            write(tmp_path, FILE.replace('head_model = "heads"', 'artifact = "nowhere"'))
        )


def test_a_file_of_real_artifacts_answers_by_the_command_and_says_who_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSPY_TK_HOME", str(tmp_path / "home"))
    signature = load_signature("classify")
    program = speaking(dspy.Predict(signature), "chat")
    lm = local_lm(str(write_model(tmp_path / "tiny")), max_tokens=4)
    save_artifact(
        tmp_path / "artifact",
        program,
        plan_of(program),
        lm,
        {"inputs": list(signature.input_fields), "seed": 0, "prompt_format": "chat"},
    )
    lm.release()
    file = write(
        tmp_path,
        """
primary = "model"
[programs.model]
artifact = "artifact"
fallback = "default"
[programs.default]
answer = { label = "none" }
""",
    )
    inputs = json.dumps({"text": "no heat", "options": ["heating", "none"], "guide": None})
    done = CliRunner().invoke(app, ["run", str(file), "--input", inputs, "--json"])
    wrong = CliRunner().invoke(app, ["run", str(file), "--input", '{"txt": "a"}'])

    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout) == {"label": "none"}
    assert "default answered" in done.stderr
    assert isinstance(wrong.exception, InvalidInput)
