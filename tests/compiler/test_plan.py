from __future__ import annotations

from pathlib import Path

import pytest

from dspy_toolkit.compiler.plan import Plan, plan_task
from dspy_toolkit.compiler.run import CompileOptions, compile_task
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.task import load_task
from tests.programs.tasks import TASK, learner, scripted_lm, write_task

SEARCH = {"max_bootstrapped_demos": 2, "max_labeled_demos": 4, "num_candidate_programs": 2}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", threads=2)


def planned(
    tmp_path: Path,
    settings: Settings,
    optimizer: str = "bootstrap_few_shot_with_random_search",
    lm: LocalLM | None = None,
    probe: int = 4,
    **given: float,
) -> Plan:
    options = SEARCH if "search" in optimizer else {}
    asked = CompileOptions(optimizer=optimizer, options=options, lm=lm or scripted_lm(learner))
    task = load_task(write_task(tmp_path / "task", TASK))
    return plan_task(task, asked, settings, probe=probe, **given)


def test_the_calls_foretold_are_those_of_the_run(tmp_path: Path, settings: Settings) -> None:
    plan = planned(tmp_path, settings)
    options = CompileOptions(
        optimizer="bootstrap_few_shot_with_random_search", options=SEARCH, lm=scripted_lm(learner)
    )
    report = compile_task(load_task(tmp_path / "task"), options, settings).report

    assert plan.total.calls == pytest.approx(report["calls"]["made"], rel=0.2)
    assert [step.phase for step in plan.steps] == ["baseline", "optimize", "test"]
    assert [plan.steps[0].calls, plan.steps[2].calls] == [12, 12]


def test_no_call_is_made_beside_the_probe(tmp_path: Path, settings: Settings) -> None:
    lm = scripted_lm(learner)
    plan = planned(tmp_path, settings, lm=lm, probe=3)
    silent = scripted_lm(learner)
    without = planned(tmp_path / "other", settings, lm=silent, probe=0)

    assert len(lm.engine.requests) == plan.probe_calls == 3
    assert silent.engine.requests == []
    assert without.total.seconds is None
    assert without.total.calls == pytest.approx(plan.total.calls, rel=0.2)


def test_prompts_with_demonstrations_are_longer(tmp_path: Path, settings: Settings) -> None:
    lm = scripted_lm(learner)
    baseline, _, test = planned(tmp_path, settings, lm=lm, probe=0).steps

    assert test.prompt_tokens > 1.2 * baseline.prompt_tokens
    # A character is a token to a script, and four are taken for one.
    assert baseline.prompt_tokens / baseline.calls == pytest.approx(
        len_of_first(tmp_path / "task") / 4, rel=0.05
    )


def len_of_first(folder: Path) -> int:
    lm = scripted_lm(learner)
    program = load_task(folder).program()
    program.set_lm(lm)
    program(text="test message 1")
    return len(lm.engine.requests[0])


def test_a_stated_rate_gives_the_time(tmp_path: Path, settings: Settings) -> None:
    plan = planned(tmp_path, settings, probe=0, tokens_per_second=100.0)

    assert plan.total.seconds == pytest.approx(plan.total.prompt_tokens / 100, abs=0.3)


def test_what_cannot_be_foretold_is_said(tmp_path: Path, settings: Settings) -> None:
    notes = " ".join(planned(tmp_path, settings, "gepa", probe=0).notes)

    assert "the calls of gepa can differ" in notes
    assert "go to the prompt model" in notes
    assert "four characters each" in notes
    assert "no time is told" in notes


def test_a_plan_refuses_what_the_run_would(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(InvalidInput, match="simba needs at least 32 training examples"):
        planned(tmp_path, settings, "simba")
