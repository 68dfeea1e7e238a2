from __future__ import annotations

import sys
import threading
from types import SimpleNamespace
from typing import Any

import dspy
import pytest

from dspy_toolkit.compiler.dspy_scope import corrected
from dspy_toolkit.compiler.evaluation import Evaluation, evaluate
from dspy_toolkit.errors import EngineError
from dspy_toolkit.programs.metrics import Metric, MetricError, named_metric
from tests.programs.tasks import chat, number_in, right, rows, scripted_lm

EXAMPLES = [dspy.Example(**row).with_inputs("text") for row in rows("test", 24)]
METRIC = named_metric("per_field", ["team", "urgent"])


def scored(answer: Any, metric: Metric = METRIC, **settings: Any) -> Evaluation:
    program = dspy.Predict("text: str -> team: str, urgent: bool")
    adapter = dspy.ChatAdapter(use_json_adapter_fallback=False)
    with dspy.context(lm=scripted_lm(answer), adapter=adapter):
        return evaluate(program, EXAMPLES, metric, **{"threads": 4, **settings})


def failing(numbers: set[int]) -> Any:
    return lambda request: "garbage" if number_in(request) in numbers else right(request)


@pytest.mark.parametrize("threads", [1, 4])
def test_scores_stand_in_the_order_of_the_examples(threads: int) -> None:
    evaluation = scored(lambda request: chat(team="atlas", urgent=False), threads=threads)
    expected = [((n % 2 == 0) + (n % 3 != 0)) / 2 for n in range(24)]

    assert evaluation.scores == expected
    assert evaluation.score == sum(expected) / 24


@pytest.mark.parametrize("threads", [1, 4])
def test_more_failures_than_dspy_allows_do_not_end_an_evaluation(threads: int) -> None:
    evaluation = scored(failing(set(range(15))), threads=threads)

    assert evaluation.scores == [0.0] * 15 + [1.0] * 9
    assert len(evaluation.failures) == 15
    assert all("AdapterParseError" in str(outcome.error) for outcome in evaluation.failures)


def test_a_failure_keeps_its_reason_in_one_line() -> None:
    (failure,) = scored(failing({3})).failures

    assert failure.unreadable
    assert failure.error is not None
    assert "\n" not in failure.error
    assert len(failure.error) <= 300


def test_answers_that_can_never_be_read_are_a_score_of_zero() -> None:
    evaluation = scored(lambda request: "garbage")

    assert evaluation.score == 0.0
    assert evaluation.interval[1] > 0.0


def test_a_model_that_never_answers_is_an_error() -> None:
    def broken(request: str) -> str:
        raise dspy.lm15.ServerError("out of memory")

    with pytest.raises(EngineError, match=r"failed on every example; the first: .*out of memory"):
        scored(broken)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_metric_at_fault_ends_the_evaluation_at_once(threads: int) -> None:
    asked: list[int] = []

    def bad(example: dspy.Example, prediction: dspy.Prediction, trace: Any) -> float:
        asked.append(1)
        return float("nan")

    metric = Metric("bad", bad).located(lambda example: "data/test.jsonl:1")
    with pytest.raises(MetricError, match=r"returned nan on data/test\.jsonl:1"):
        scored(right, metric, threads=threads)

    assert len(asked) <= threads


def test_progress_counts_up_with_the_mean_so_far() -> None:
    seen: list[tuple[int, float]] = []
    evaluation = scored(failing({0}), progress=lambda done, mean: seen.append((done, mean)))

    assert [done for done, _ in seen] == list(range(1, 25))
    assert seen[-1][1] == pytest.approx(evaluation.score)


def test_threads_work_at_once() -> None:
    gate = threading.Barrier(4, timeout=20)

    def answer(request: str) -> str:
        gate.wait()
        return right(request)

    assert scored(answer, threads=4).score == 1.0


def test_dspys_own_evaluation_submits_no_slow_example_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    release = threading.Event()
    # Let DSPy believe that minutes pass; it submits again what runs longer than two.
    clock = iter(range(0, 10**9, 500))
    stand_in = SimpleNamespace(time=lambda: float(next(clock)))
    monkeypatch.setattr("dspy.utils.parallelizer.time", stand_in)

    def slow(request: str) -> str:
        asked.append(request)
        if len(asked) == 24:
            release.wait(1.5)
        return right(request)

    program = dspy.Predict("text: str -> team: str, urgent: bool")
    with corrected(lambda line: None), dspy.context(lm=scripted_lm(slow)):
        dspy.Evaluate(devset=EXAMPLES, metric=METRIC, num_threads=4)(program)

    assert len(asked) == 24


def test_what_dspy_and_user_code_print_goes_to_the_log() -> None:
    lines: list[str] = []
    before = sys.stdout
    with corrected(lines.append):
        sys.stdout.write("said by user code\n")
        dspy.Evaluate(devset=EXAMPLES, metric=lambda *_: 1.0, num_threads=2, display_progress=True)(
            lambda text: dspy.Prediction()
        )

    assert "said by user code" in lines
    assert any(line.startswith("Average Metric: 24.0 / 24") for line in lines)
    assert sys.stdout is before


def test_corrections_of_two_runs_at_once_are_undone_after_the_last() -> None:
    before = sys.stdout
    first, second = corrected(lambda line: None), corrected(lambda line: None)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    between = sys.stdout
    second.__exit__(None, None, None)

    assert between is not before
    assert sys.stdout is before
    assert dspy.evaluate.evaluate.ParallelExecutor.__name__ == "ParallelExecutor"
