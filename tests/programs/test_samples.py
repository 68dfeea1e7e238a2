from __future__ import annotations

import asyncio

import dspy

from dspy_toolkit.programs.formats import prompt_format
from dspy_toolkit.programs.lm import LocalLM

QUESTION = "Where is the order that the customer wrote about? " * 6


def sampled(lm: LocalLM, **config: object) -> list[str]:
    with dspy.context(lm=lm, adapter=prompt_format("guided")):
        predict = dspy.Predict("question -> answer", temperature=1.0, max_tokens=24, **config)
        found: list[str] = predict(question=QUESTION).completions.answer
        return found


def test_samples_are_read_once_and_decoded_together(lm: LocalLM) -> None:
    before = lm.engine.stats()
    answers = sampled(lm, n=6)
    after = lm.engine.stats()
    prompt = after.read - before.read

    assert len(set(answers)) == 6
    assert after.reused - before.reused >= 4 * 0.9 * prompt
    assert (after.rows_run - before.rows_run) / (after.runs - before.runs) > 2


def test_samples_repeat_and_rollouts_have_others(lm: LocalLM) -> None:
    first = sampled(lm, n=3)

    assert sampled(lm, n=3) == first
    assert sampled(lm, n=2) == first[:2]
    assert not set(sampled(lm, n=3, rollout_id=1)) & set(first)
    assert sampled(lm, rollout_id=1) == sampled(lm, n=3, rollout_id=1)[:1]


def test_coroutines_get_the_same_samples(lm: LocalLM) -> None:
    async def ask() -> list[str]:
        with dspy.context(lm=lm, adapter=prompt_format("guided")):
            predict = dspy.Predict("question -> answer", temperature=1.0, max_tokens=24, n=3)
            found: list[str] = (await predict.acall(question=QUESTION)).completions.answer
            return found

    assert asyncio.run(ask()) == sampled(lm, n=3)
