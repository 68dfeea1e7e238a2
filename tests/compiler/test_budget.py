from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dspy_toolkit.compiler.course import Course
from dspy_toolkit.compiler.job import CompileResult
from dspy_toolkit.compiler.runs import find_run
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.programs.limits import Budget, BudgetSpent
from tests.compiler.small import USABLE, answering, options
from tests.compiler.test_resume import Place, place, program, same, whole

__all__ = ["place", "whole"]


def limited(place: Place, budget: Budget, **how: Any) -> CompileResult:
    return place.compiled(course=Course(budget=budget), **how)


def test_a_spent_budget_keeps_the_best_candidate_so_far(
    place: Place, whole: tuple[CompileResult, int]
) -> None:
    """12 calls before, 12 after, and 6 a candidate; the second candidate is the first good one."""
    result = limited(place, Budget(calls=40))
    report = result.report

    assert place.answers <= 40
    assert report["stopped"] == "budget"
    assert report["candidates"] == whole[0].report["candidates"][:2] == [0.75, 1.0]
    assert report["compiled"]["score"] == 1.0
    assert find_run(place.settings, report["run"]).status == "budget"
    assert "the best candidate so far is kept" in (result.folder / "run.log").read_text()


def test_a_budget_of_one_trial_is_enough_and_less_is_refused(place: Place) -> None:
    with pytest.raises(InvalidInput, match=r"29 calls is too small .* takes 24, .* at least 30"):
        limited(place, Budget(calls=29))
    assert place.answers == 0

    report = limited(place, Budget(calls=30)).report
    assert (report["candidates"], report["stopped"]) == ([0.75], "budget")
    # What came out is the bare program, whose test answers are known.
    assert report["compiled"]["score"] == report["baseline"]["score"]


def test_a_run_with_a_spent_budget_goes_on_with_a_larger_one(
    place: Place, whole: tuple[CompileResult, int]
) -> None:
    run = limited(place, Budget(calls=40)).report["run"]
    before = place.answers
    with pytest.raises(InvalidInput, match="spent its budget; give it a larger one"):
        place.compiled(course=Course(resume=run, budget=Budget(calls=40)))
    with pytest.raises(InvalidInput, match=rf"spent {before} calls of the 36 .*--max-calls"):
        place.compiled(course=Course(resume=run, budget=Budget(calls=36)))
    assert place.answers == before
    result = place.compiled(course=Course(resume=run, budget=Budget(calls=500)))

    assert result.report["run"] == run
    assert same(result.report) == {**same(whole[0].report), "calls": result.report["calls"]}
    assert program(result) == program(whole[0])
    # The final score of the interrupted candidate is all that was made beside.
    assert before < place.answers <= whole[1] + 12
    assert find_run(place.settings, run).status == "finished"


def test_the_same_command_after_a_spent_budget_begins_anew(place: Place) -> None:
    first = limited(place, Budget(calls=40)).report["run"]

    assert limited(place, Budget(calls=40)).report["run"] != first


@pytest.mark.parametrize("threads", [1, 4])
def test_tokens_are_never_overspent(
    place: Place, whole: tuple[CompileResult, int], threads: int
) -> None:
    spent = tokens(whole[0])
    result = limited(place, Budget(tokens=int(0.6 * spent)), threads=threads)

    assert 0.3 * spent < tokens(result) <= 0.6 * spent
    assert result.report["stopped"] == "budget"
    assert result.report["compiled"]["n"] == 12


def tokens(result: CompileResult) -> int:
    lines = (result.folder / "events.jsonl").read_text().splitlines()
    calls = [event for line in lines if (event := json.loads(line))["event"] == "CallFinished"]
    return sum(each["input_tokens"] + each["output_tokens"] for each in calls if not each["cached"])


def test_a_budget_too_small_to_score_the_result_says_what_to_do(place: Place) -> None:
    with pytest.raises(BudgetSpent, match="tokens is spent; go on with `--resume RUN"):
        limited(place, Budget(tokens=5_000))
    assert find_run(place.settings, place.run()).status == "failed"


def test_the_budget_of_a_task_holds_and_the_commands_wins(place: Place) -> None:
    file = place.task / "task.toml"
    file.write_text(file.read_text() + "\n[budget]\ncalls = 40\n")

    assert place.compiled().report["stopped"] == "budget"
    assert limited(place, Budget(calls=1000)).report["stopped"] is None


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", USABLE)
def test_every_optimizer_keeps_to_its_budget(tmp_path: Path, optimizer: str) -> None:
    how = {**options(optimizer), "answer": answering(optimizer), "threads": 4}
    place = Place(tmp_path, optimizer)
    calls = 72 if "avatar" in optimizer else 36
    result = limited(place, Budget(calls=calls), **how)

    assert place.answers <= calls
    assert result.report["compiled"]["n"] == 12
    assert result.artifact is not None or result.report["gate"]["verdict"] == "worse"
