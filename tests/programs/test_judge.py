from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import dspy
import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.programs.cache import under
from dspy_toolkit.programs.metrics import named_metric
from dspy_toolkit.registry import find, save
from tests.engine.tiny import write_model
from tests.programs.tasks import chat, scripted_lm

EXAMPLE = dspy.Example(question="Which city?", answer="Canberra").with_inputs("question")


def judged(verdict: str, answer: str = "Sydney") -> tuple[float, str]:
    lm = scripted_lm(lambda request: verdict)
    metric = named_metric("judge", ["answer"], {"criteria": "The city is right."})
    with dspy.context(lm=lm):
        score = metric(EXAMPLE, dspy.Prediction(answer=answer))
    return float(score), lm.engine.requests[0]


@pytest.mark.parametrize(("stars", "score"), [(1, 0.0), (3, 0.5), (5, 1.0)])
def test_the_verdict_becomes_a_score(stars: int, score: float) -> None:
    assert judged(chat(reason="It says so.", score=stars))[0] == score


def test_the_judge_sees_question_answer_criteria_and_reference() -> None:
    _, request = judged(chat(reason="It says so.", score=1))

    assert all(
        part in request for part in ("Which city?", "Sydney", "The city is right.", "Canberra")
    )


def test_a_verdict_out_of_range_is_a_failed_example_not_a_score() -> None:
    with pytest.raises(dspy.AdapterParseError):
        judged(chat(reason="It says so.", score=9))


def test_the_judges_steps_are_not_the_programs() -> None:
    trace: list[object] = []
    lm = scripted_lm(lambda request: chat(reason="It says so.", score=4))
    with dspy.context(lm=lm, trace=trace):
        passed = named_metric("judge", ["answer"])(EXAMPLE, dspy.Prediction(answer="x"), trace)

    assert passed is True
    assert trace == []


def engine_threads() -> int:
    return sum(thread.name == "dspy-tk engine judge" for thread in threading.enumerate())


def test_a_judge_gives_its_own_model_back_and_opens_it_again(tmp_path: Path) -> None:
    # Equal models are opened once in a process, so this one has to be like no other test's.
    more = {"max_position_embeddings": 1025}
    model = str(write_model(tmp_path / "judge", more=more))
    metric = named_metric("judge", ["answer"], {"model": model})
    counts = []
    for _ in range(2):
        with under(Settings(home=tmp_path)), pytest.raises(dspy.DSPyError):
            metric(EXAMPLE, dspy.Prediction(answer="x"))
        counts.append(engine_threads())
        metric.close()
        counts.append(engine_threads())

    assert counts == [1, 0, 1, 0]


def test_a_judge_takes_signature_and_model_from_the_settings_around_it(tmp_path: Path) -> None:
    own = replace(find("judge"), version="9.0.0", instructions="Be strict, this is an exam.")
    folder = Settings(home=tmp_path).signatures
    save(own, folder)
    metric = named_metric("judge", ["answer"])
    lm = scripted_lm(lambda request: chat(reason="It says so.", score=1))

    with under(Settings(home=tmp_path)), dspy.context(lm=lm):
        metric(EXAMPLE, dspy.Prediction(answer="x"))

    assert "this is an exam" in lm.engine.requests[0]
