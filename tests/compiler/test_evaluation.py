from __future__ import annotations

import logging
import sys
import threading
from types import SimpleNamespace
from typing import Any

import dspy
import pytest
from dspy.utils.parallelizer import ParallelExecutor

from dspy_toolkit.compiler.dspy_scope import corrected, patient_executor
from dspy_toolkit.compiler.evaluation import Evaluation, evaluate
from dspy_toolkit.errors import EngineError, InvalidInput
from dspy_toolkit.programs.metrics import Metric, MetricError, named_metric
from tests.programs.tasks import chat, number_in, right, rows, scripted_lm

EXAMPLES = [dspy.Example(**row).with_inputs("text") for row in rows("test", 24)]
METRIC = named_metric("per_field", ["team", "urgent"])


def scored(answer: Any, metric: Any = METRIC, **settings: Any) -> Evaluation:
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


def test_a_function_at_fault_on_one_example_ends_the_evaluation() -> None:
    weights = {n: 1.0 for n in range(23)}

    def weighted(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> float:
        return weights[number_in(example.text)]

    with pytest.raises(MetricError, match=r"test_evaluation\.py:\d+: KeyError: 23"):
        scored(right, weighted)


def test_a_metric_may_be_given_by_name() -> None:
    assert scored(lambda request: chat(team="atlas", urgent=False), "exact").score == 8 / 24
    with pytest.raises(InvalidInput, match="did you mean 'exact'"):
        scored(right, "exct")


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "there are no examples"),
        ([dspy.Example(text="a")], "example 0 says not what its inputs are"),
    ],
)
def test_examples_that_cannot_be_asked_are_refused(
    examples: list[dspy.Example], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        evaluate(dspy.Predict("text -> team"), examples, "exact", threads=1)


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


def test_what_other_threads_print_and_log_is_left_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines: list[str] = []

    def host() -> None:
        sys.stdout.write("said by the host\n")
        logging.getLogger("dspy.host").warning("warned by the host")

    with corrected(lines.append):
        other = threading.Thread(target=host)
        other.start()
        other.join()
    printed = capsys.readouterr()

    assert printed.out == "said by the host\n"
    assert "warned by the host" in printed.err
    assert lines == []


def test_runs_at_once_each_hear_their_own_lines_the_last_one_unfinished_too() -> None:
    heard: dict[str, list[str]] = {"a": [], "b": []}
    both = threading.Barrier(2, timeout=20)

    def run(name: str) -> None:
        with corrected(heard[name].append):
            both.wait()
            for number in range(50):
                patient_executor(2).execute(lambda n: sys.stdout.write(f"{name}\n"), [1, 2])
                sys.stdout.write(f"{name}{number}\n")
            sys.stdout.write(f"{name} at last")

    threads = [threading.Thread(target=run, args=(name,)) for name in heard]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for name, lines in heard.items():
        assert sorted(lines) == sorted(
            [name] * 100 + [f"{name}{n}" for n in range(50)] + [f"{name} at last"]
        )


def test_a_correction_that_cannot_be_made_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = sys.stdout
    with monkeypatch.context() as patch:
        patch.delattr("dspy.teleprompt.bootstrap.tqdm")
        with pytest.raises(AttributeError), corrected(lambda line: None):
            pass
    executor = dspy.evaluate.evaluate.ParallelExecutor
    with corrected(lambda line: None):
        inside = dspy.evaluate.evaluate.ParallelExecutor

    assert sys.stdout is before
    assert executor is ParallelExecutor is not inside
    assert dspy.evaluate.evaluate.ParallelExecutor is executor


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
