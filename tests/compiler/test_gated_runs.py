from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dspy
import pytest

from dspy_toolkit.compiler.job import CompileResult
from dspy_toolkit.compiler.outcomes import FILE, read_outcomes
from dspy_toolkit.compiler.report import read_report
from dspy_toolkit.compiler.run import CompileOptions, compile_program, compile_task
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import EngineError, IntegrityError, InvalidInput, NotFound
from dspy_toolkit.programs.task import load_task
from tests.programs.tasks import (
    SIGNATURE,
    TASK,
    chat,
    learner,
    number_in,
    right,
    rows,
    scripted_lm,
    write_lines,
    write_task,
)

TESTS = 40


def compiled(
    folder: Path, settings: Settings, answer: Any = learner, text: str = TASK, **options: Any
) -> CompileResult:
    write_task(folder, text, options.pop("signature", SIGNATURE))
    write_lines(folder / "data" / "test.jsonl", rows("test", TESTS))
    return compile_task(
        load_task(folder), CompileOptions(lm=scripted_lm(answer), **options), settings
    )


def shown(request: str) -> bool:
    return len(re.findall(r"message \d+", request)) > 1


def spoilt(request: str) -> str:
    """Demonstrations make it forget the teams."""
    return chat(team="comet", urgent=False) if shown(request) else right(request)


def test_a_clear_gain_is_better(tmp_path: Path, settings: Settings) -> None:
    report = compiled(tmp_path / "routing", settings).report

    assert report["gate"]["verdict"] == "better"
    assert report["gate"]["e_better"] > 40 > 1 > report["gate"]["e_worse"]
    assert (report["gate"]["n"], report["gate"]["against"]) == (TESTS, None)


def test_no_change_is_not_shown_better_and_makes_an_artifact(
    tmp_path: Path, settings: Settings
) -> None:
    result = compiled(tmp_path / "routing", settings, right)

    assert result.report["gate"]["verdict"] == "not shown better"
    assert result.artifact is not None


def test_a_worse_result_is_recorded_and_makes_no_artifact(
    tmp_path: Path, settings: Settings
) -> None:
    result = compiled(tmp_path / "routing", settings, spoilt, output=tmp_path / "out")

    assert result.report["gate"]["verdict"] == "worse"
    assert (result.artifact, result.report["artifact"]) == (None, None)
    assert not (result.folder / "artifact").exists()
    assert not (tmp_path / "out").exists()
    assert read_report(result.folder) == result.report


def test_a_worse_result_is_kept_when_that_is_asked_for(tmp_path: Path, settings: Settings) -> None:
    result = compiled(tmp_path / "routing", settings, spoilt, keep_anyway=True)

    assert result.report["gate"]["verdict"] == "worse"
    assert result.artifact == result.folder / "artifact"
    assert (result.artifact / "program.json").is_file()


def test_a_smaller_error_rate_asks_for_more_evidence(tmp_path: Path, settings: Settings) -> None:
    result = compiled(tmp_path / "routing", settings, alpha=1e-6)

    assert result.report["gate"]["alpha"] == 1e-6
    assert result.report["gate"]["verdict"] == "not shown better"


def test_a_result_can_be_held_against_an_artifact(tmp_path: Path, settings: Settings) -> None:
    good = compiled(tmp_path / "routing", settings)
    again = compiled(tmp_path / "routing", settings, against=good.folder, seed=3).report

    assert again["gate"]["against"] == str(good.artifact)
    assert again["gate"]["verdict"] == "not shown better"
    assert again["baseline"]["score"] == good.report["compiled"]["score"] == 1.0


def test_an_artifact_is_scored_in_its_own_prompt_format(tmp_path: Path, settings: Settings) -> None:
    def speaker(request: str) -> str:
        if '"team"' in request and "[[ ## completed" not in request:
            n = number_in(request)
            team = "atlas" if n % 2 == 0 else "comet"
            return f'{{"team": "{team}", "urgent": {str(n % 3 == 0).lower()}}}'
        return learner(request)

    first = compiled(
        tmp_path / "a", settings, speaker, TASK.replace("[metric]", 'format = "json"\n[metric]')
    )
    second = compiled(tmp_path / "b", settings, speaker, against=first.artifact)

    assert first.report["baseline"]["score"] == 1.0
    assert second.report["baseline"]["score"] == 1.0
    assert second.report["prompt_format"] == "chat"


class Own(dspy.Module):  # type: ignore[misc]  # DSPy ships no types
    def __init__(self) -> None:
        super().__init__()
        self.step = dspy.Predict("text: str -> team: str, urgent: bool")

    def forward(self, text: str) -> dspy.Prediction:
        return self.step(text=text)


def test_a_program_made_in_python_is_held_against_its_artifact(settings: Settings) -> None:
    def run(**options: Any) -> CompileResult:
        splits = {
            split: [dspy.Example(**row).with_inputs("text") for row in rows(split, count)]
            for split, count in (("train", 8), ("validation", 6), ("test", TESTS))
        }
        return compile_program(
            Own(),
            **splits,
            metric="per_field",
            lm=scripted_lm(learner),
            options=CompileOptions(optimizer="labeled_few_shot", **options),
            settings=settings,
        )

    first = run()
    second = run(against=first.folder)

    assert (first.report["baseline"]["score"], first.report["gate"]["verdict"]) == (0.75, "better")
    assert second.report["baseline"]["score"] == 1.0
    assert second.report["gate"]["against"] == str(first.artifact)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("1.0.0", "1.1.0"), r"answers route@1\.0\.0, the task route@1\.1\.0; compare with"),
        (("takes the message", "takes it"), r"answers route@1\.0\.0 with other content, the task"),
    ],
)
def test_an_artifact_of_another_signature_is_refused_before_anything_runs(
    tmp_path: Path, settings: Settings, change: tuple[str, str], message: str
) -> None:
    first = compiled(tmp_path / "a", settings)

    with pytest.raises(InvalidInput, match=message):
        compiled(
            tmp_path / "b",
            settings,
            against=first.artifact,
            signature=SIGNATURE.replace(*change),
        )
    assert len(list(settings.runs.iterdir())) == 1


def test_what_cannot_be_compared_with_is_refused(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        compiled(tmp_path / "a", settings, against=tmp_path / "none")
    with pytest.raises(InvalidInput, match="alpha must lie between 0 and 1, got 2"):
        compiled(tmp_path / "b", settings, alpha=2.0)
    assert not settings.runs.exists()


def test_every_example_keeps_its_score_and_its_reason(tmp_path: Path, settings: Settings) -> None:
    def answer(request: str) -> str:
        return "hm" if number_in(request) == 5 and not shown(request) else learner(request)

    result = compiled(
        tmp_path / "a", settings, answer, TASK.replace("[metric]", 'format = "chat_only"\n[metric]')
    )
    kept = read_outcomes(result.folder)
    means = {name: sum(each.score for each in lines) / TESTS for name, lines in kept.items()}

    assert means == {
        name: pytest.approx(result.report[name]["score"]) for name in ("baseline", "compiled")
    }
    assert [each.example for each in kept["baseline"] if each.error] == ["data/test.jsonl:6"]
    assert "AdapterParseError" in str(kept["baseline"][5].error)
    assert not any(each.error for each in kept["compiled"])


def test_a_run_that_fails_later_keeps_the_scores_it_had(tmp_path: Path, settings: Settings) -> None:
    def answer(request: str) -> str:
        if shown(request):
            raise RuntimeError("gone")
        return right(request)

    with pytest.raises(EngineError):
        compiled(tmp_path / "a", settings, answer)
    (folder,) = settings.runs.iterdir()

    assert {name: len(lines) for name, lines in read_outcomes(folder).items()} == {
        "baseline": TESTS
    }


def test_damaged_scores_are_one_line(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"phase": "baseline"}\n')

    assert read_outcomes(tmp_path / "none") == {}
    with pytest.raises(IntegrityError, match=r"examples\.jsonl:1 is damaged"):
        read_outcomes(tmp_path)
