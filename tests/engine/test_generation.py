from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import pytest
from dspy import lm15
from mlx_lm.generate import stream_generate
from mlx_lm.utils import load

from dspy_toolkit.config import Settings
from dspy_toolkit.engine import EngineOptions, open_engine
from dspy_toolkit.engine.mlx_engine import mailbox
from dspy_toolkit.engine.sequence import Failed, Message
from dspy_toolkit.engine.source import EMBEDDED_FOLDER
from dspy_toolkit.events import Event, GenerationFinished, subscribed
from tests.conformance.engine_contract import ask, collect, in_time, text_of

if TYPE_CHECKING:
    from dspy_toolkit.engine.mlx_engine import MlxEngine

WORDS = (
    "order ticket policy refund late team atlas urgency low high question answer my where".split()
)
SYSTEM = "You answer."


def prompts(count: int) -> list[str]:
    chance = random.Random(3)
    return [" ".join(chance.choices(WORDS, k=chance.randint(1, 40))) for _ in range(count)]


def at_once(engine: MlxEngine, requests: list[lm15.Request]) -> list[lm15.Response]:
    with ThreadPoolExecutor(len(requests)) as threads:
        return list(threads.map(engine.complete, requests))


def reference(folder: Path, texts: list[str], max_tokens: int) -> list[tuple[str, list[int]]]:
    """What mlx-lm itself generates, in the number type the engine takes on a CPU."""
    return _reference(folder, tuple(texts), max_tokens)


@cache
def _reference(
    folder: Path, texts: tuple[str, ...], max_tokens: int
) -> list[tuple[str, list[int]]]:
    model, tokenizer = load(str(folder))[:2]
    model.set_dtype(mx.float32)
    answers = []
    for text in texts:
        turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True)
        steps = list(stream_generate(model, tokenizer, prompt, max_tokens=max_tokens))
        answers.append(("".join(step.text for step in steps), [step.token for step in steps]))
    return answers


@pytest.mark.parametrize(("which", "count"), [("tiny", 30), ("embedded", 16)])
def test_greedy_output_is_mlx_lms_token_for_token_alone_and_in_a_batch(
    which: str, count: int, model_folder: Path, settings: Settings
) -> None:
    if which == "embedded" and not (EMBEDDED_FOLDER / "config.json").is_file():
        pytest.skip("the embedded model is not here")
    folder = EMBEDDED_FOLDER if which == "embedded" else model_folder
    texts = prompts(count)
    engine = open_engine(str(folder), EngineOptions(), settings)
    requests = [ask(text, SYSTEM, max_tokens=12, logprobs=0) for text in texts]
    expected = reference(folder, texts, 12)
    alone = [engine.complete(request) for request in requests]
    together = at_once(engine, requests)
    engine.close()
    eos = {2} if which == "tiny" else set(engine.facts.eos)
    tokens = [[token for token in ids if token not in eos] for _, ids in expected]

    assert [response.text for response in alone] == [text for text, _ in expected]
    assert [ids_of(response) for response in alone] == tokens
    assert [ids_of(response) for response in together] == tokens


def ids_of(response: lm15.Response) -> list[int]:
    return [score.token_id or 0 for score in response.logprobs or ()]


def test_a_seeded_answer_is_the_same_alone_and_in_any_batch(engine: MlxEngine) -> None:
    requests = [
        ask(text, temperature=1.0, top_p=0.95, seed=number)
        for number, text in enumerate(prompts(12))
    ]
    alone = [engine.complete(request).text for request in requests]
    together = [response.text for response in at_once(engine, requests)]
    backwards = [response.text for response in at_once(engine, requests[::-1])]

    assert together == alone
    assert backwards[::-1] == alone


def test_without_a_seed_answers_differ(engine: MlxEngine) -> None:
    answers = {engine.complete(ask("Hello", temperature=1.5)).text for _ in range(4)}

    assert len(answers) == 4


def test_the_prompt_reaches_the_model(engine: MlxEngine) -> None:
    answers = {engine.complete(ask(text)).text for text in prompts(8)}

    assert len(answers) == 8


def test_greedy_scores_are_the_best_and_sum_to_one(engine: MlxEngine) -> None:
    vocabulary = 400
    response = engine.complete(ask("Hello", max_tokens=4, logprobs=vocabulary))
    scores = response.logprobs or ()

    assert len(scores) == 4
    for score in scores:
        assert score.token_id == score.top[0].token_id
        assert sum(math.exp(other.logprob) for other in score.top) == pytest.approx(1.0, abs=1e-4)
        assert [o.logprob for o in score.top] == sorted(
            (o.logprob for o in score.top), reverse=True
        )


def test_scores_are_given_only_when_asked_for(engine: MlxEngine) -> None:
    assert engine.complete(ask("Hello")).logprobs is None
    assert all(not s.top for s in engine.complete(ask("Hello", logprobs=0)).logprobs or ())


def test_a_stop_string_that_spans_tokens_cuts_between_them(engine: MlxEngine) -> None:
    response = engine.complete(ask("Hello", logprobs=0))
    scores = response.logprobs or ()
    whole = response.text or ""
    # A stop that begins in the last letter of one token and ends in the next.
    place = next(
        i
        for i in range(3, len(scores) - 1)
        if len(scores[i].token) > 1 and scores[i + 1].token.isascii()
    )
    stop = scores[place].token[-1] + scores[place + 1].token[0]
    cut = engine.complete(ask("Hello", logprobs=0, stop=(stop,)))

    assert cut.text == whole[: whole.index(stop)]
    assert cut.finish_reason == "stop"
    assert len(cut.logprobs or ()) < len(scores)
    assert not cut.logprobs_complete


def test_streams_of_scores_and_text_are_those_of_the_whole_answer(engine: MlxEngine) -> None:
    request = ask("Hello", logprobs=1, stop=("zz",))
    # Once read, the prompt counts as reused in both.
    engine.complete(request)
    events = list(engine.stream(request))

    assert lm15.materialize_response(iter(events), request) == engine.complete(request)


def test_usage_counts_prompt_and_drawn_tokens(engine: MlxEngine) -> None:
    chat = engine._chat
    prompt = chat.encode(chat.render([{"role": "user", "content": "Hello"}], [], {}))
    usage = engine.complete(ask("Hello", max_tokens=5)).usage

    assert (usage.input_tokens, usage.output_tokens) == (len(prompt), 5)


def test_an_answer_ends_where_the_context_does(model_folder: Path, settings: Settings) -> None:
    engine = open_engine(str(model_folder), EngineOptions(context=40), settings)
    response = engine.complete(ask("Hello"))
    engine.close()

    assert response.usage.total_tokens == 40
    assert response.finish_reason == "length"


def test_a_prompt_beyond_the_context_names_both_numbers(engine: MlxEngine) -> None:
    with pytest.raises(lm15.ContextLengthError, match=r"has \d{4} tokens and the model takes 512"):
        engine.complete(ask("word " * 900))


def test_a_repetition_penalty_of_the_call_is_heard(engine: MlxEngine) -> None:
    plain = ids_of(engine.complete(ask("Hello", max_tokens=80, logprobs=0)))
    extensions = {"repetition_penalty": 5.0, "repetition_context": 200}
    request = ask("Hello", max_tokens=80, logprobs=0, extensions=extensions)
    penalised = ids_of(engine.complete(request))

    assert len(set(plain)) < len(plain)
    assert len(set(penalised)) == len(penalised)


def test_min_p_of_one_leaves_only_the_best(engine: MlxEngine) -> None:
    hot = ask("Hello", temperature=2.0, extensions={"min_p": 1.0})

    assert engine.complete(hot).text == engine.complete(ask("Hello")).text


@pytest.mark.parametrize(
    "extensions",
    [
        {"min_p": 2},
        {"min_p": "high"},
        {"repetition_penalty": 0},
        {"repetition_context": 0},
        {"template": ["x"]},
    ],
)
def test_an_extension_out_of_range_is_refused(engine: MlxEngine, extensions: Any) -> None:
    with pytest.raises(lm15.InvalidRequestError, match=f"extension {next(iter(extensions))} must"):
        engine.complete(ask("Hello", extensions=extensions))


def test_a_damaged_row_fails_its_caller_and_nobody_else(engine: MlxEngine) -> None:
    expected = engine.complete(ask("Hello")).text
    inbox: SimpleQueue[Any] = SimpleQueue()
    damaged = engine.prepare(ask("Hello"), inbox.put, streaming=False)
    damaged._sequence.prompt[0] = 2**70
    with ThreadPoolExecutor(4) as threads:
        others = [threads.submit(engine.complete, ask("Hello")) for _ in range(4)]
        damaged.start()
        answers = [other.result().text for other in others]

    assert answers == [expected] * 4
    with pytest.raises(lm15.ServerError, match="the engine failed"):
        damaged.response(inbox.get())


def test_more_calls_than_rows_are_all_answered(model_folder: Path, settings: Settings) -> None:
    engine = open_engine(str(model_folder), EngineOptions(rows=3, max_tokens=6), settings)
    requests = [ask(text) for text in prompts(10)]
    alone = [engine.complete(request).text for request in requests]

    assert [response.text for response in at_once(engine, requests)] == alone
    engine.close()


def test_a_long_prompt_read_in_slices_gives_the_same_answer(
    engine: MlxEngine, model_folder: Path, settings: Settings
) -> None:
    sliced = open_engine(
        str(model_folder), EngineOptions(max_tokens=24, prefill_tokens=7), settings
    )
    text = " ".join(prompts(1))

    assert sliced.complete(ask(text)).text == engine.complete(ask(text)).text
    sliced.close()


def test_cancelling_a_task_frees_its_row(engine: MlxEngine) -> None:
    async def cancel_midway() -> None:
        stream = engine.async_twin.stream(ask("Hello", max_tokens=400))
        await anext(stream)
        await anext(stream)
        waiting = asyncio.ensure_future(engine.async_twin.complete(ask("Hello", max_tokens=400)))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        await stream.aclose()

    in_time(cancel_midway())
    engine.complete(ask("Hello", max_tokens=1))

    assert rows_of(engine) == 0


def test_closing_a_stream_frees_its_row(engine: MlxEngine) -> None:
    stream = engine.stream(ask("Hello", max_tokens=400))
    next(stream)
    next(stream)
    stream.close()
    engine.complete(ask("Hello", max_tokens=1))

    assert rows_of(engine) == 0


def rows_of(engine: MlxEngine) -> int:
    """Rows the engine thread holds once it has heard all that was said to it."""
    engine.complete(ask("Hello", max_tokens=1))
    return engine.running


def test_coroutines_share_the_batch(engine: MlxEngine) -> None:
    async def all_of_them() -> list[lm15.Response]:
        calls = [engine.async_twin.complete(ask(text)) for text in prompts(6)]
        return await asyncio.gather(*calls)

    expected = [engine.complete(ask(text)).text for text in prompts(6)]

    assert [response.text for response in in_time(all_of_them())] == expected


def test_an_answer_for_a_loop_that_has_ended_is_dropped_without_harm() -> None:
    async def make() -> Callable[[Message], None]:
        return mailbox()[1]

    sink = asyncio.run(make())
    sink(Failed(ValueError("too late")))


def test_an_async_stream_is_the_sync_one(engine: MlxEngine) -> None:
    events = in_time(collect(engine.async_twin.stream(ask("Hello"))))

    assert text_of(events) == engine.complete(ask("Hello")).text


def test_each_answer_is_announced_once(engine: MlxEngine) -> None:
    heard: list[Event] = []
    with subscribed(heard.append):
        response = engine.complete(ask("Hello", max_tokens=5))
    (event,) = heard

    assert isinstance(event, GenerationFinished)
    assert event.model == engine.model_string
    assert (event.input_tokens, event.output_tokens) == (response.usage.input_tokens, 5)
    assert 0 < event.seconds_to_first <= event.seconds
    assert event.finish_reason == "length"
