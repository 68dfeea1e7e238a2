"""What every engine must do. A test class derives from `EngineContract` and gives the fixtures.

`engine`: a fresh engine that answers "Tell me." with the same text each time, at least six
characters long and more than one token. `too_long`: a text that does not fit its context.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import pytest
from dspy import lm15

PATIENCE_S = 30.0


def ask(text: str = "Tell me.", system: str | None = None, **config: Any) -> lm15.Request:
    return lm15.Request(
        model="mlx/under-test",
        system=system,
        messages=(lm15.Message.user(text),),
        config=lm15.Config(**config),
    )


def in_time(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE_S))


async def collect(stream: Any) -> list[Any]:
    return [event async for event in stream]


def text_of(events: list[Any]) -> str:
    return "".join(e.delta.text for e in events if e.type == "delta" and e.delta.type == "text")


class EngineContract:
    def test_an_answer_is_a_whole_response(self, engine: Any) -> None:
        response = engine.complete(ask())

        assert isinstance(response, lm15.Response)
        assert response.model == "mlx/under-test"
        assert response.message.role == "assistant"
        assert response.finish_reason in ("stop", "length")
        assert response.usage.input_tokens > 0
        assert response.usage.output_tokens > 1

    def test_a_stream_starts_once_ends_once_and_holds_the_same_answer(self, engine: Any) -> None:
        whole = engine.complete(ask())
        events = list(engine.stream(ask()))

        assert [e.type for e in events] == ["start", *["delta"] * (len(events) - 2), "end"]
        assert text_of(events) == whole.text
        assert events[-1].finish_reason == whole.finish_reason
        assert events[-1].usage.input_tokens == whole.usage.input_tokens
        assert events[-1].usage.output_tokens == whole.usage.output_tokens

    def test_a_stream_comes_in_pieces(self, engine: Any) -> None:
        deltas = [e for e in engine.stream(ask()) if e.type == "delta"]

        assert len(deltas) > 1

    def test_the_twin_gives_the_same_answer(self, engine: Any) -> None:
        twin = engine.async_twin

        by_the_twin, by_itself = in_time(twin.complete(ask())), engine.complete(ask())

        # Not the whole usage: what the first call has read, the second may find in a cache.
        assert by_the_twin.message == by_itself.message
        assert by_the_twin.finish_reason == by_itself.finish_reason
        assert by_the_twin.usage.output_tokens == by_itself.usage.output_tokens
        assert text_of(in_time(collect(twin.stream(ask())))) == engine.complete(ask()).text

    def test_text_from_a_stop_string_on_is_dropped(self, engine: Any) -> None:
        whole = engine.complete(ask()).text
        stop = whole[3:5]
        response = engine.complete(ask(stop=(stop,)))

        assert response.text == whole[: whole.index(stop)]
        assert response.finish_reason == "stop"
        assert text_of(list(engine.stream(ask(stop=(stop,))))) == response.text

    def test_an_answer_as_long_as_allowed_ends_for_its_length(self, engine: Any) -> None:
        response = engine.complete(ask(max_tokens=1))

        assert response.finish_reason == "length"
        assert response.usage.output_tokens == 1

    @pytest.mark.parametrize("call", ["complete", "stream"])
    def test_what_it_cannot_read_is_refused_by_name(self, engine: Any, call: str) -> None:
        image = lm15.ImagePart(data="aGk=")
        parts = (lm15.TextPart("What is this?"), image)
        request = lm15.Request(model="m", messages=(lm15.Message.user(parts),))

        with pytest.raises(lm15.UnsupportedFeatureError, match="image") as refusal:
            _run(engine, call, request)

        assert refusal.value.feature == "messages[0].parts[1]"

    @pytest.mark.parametrize("call", ["complete", "stream"])
    def test_an_empty_prompt_is_refused(self, engine: Any, call: str) -> None:
        with pytest.raises(lm15.InvalidRequestError, match="empty"):
            _run(engine, call, ask("  "))

    def test_an_unknown_extension_is_refused_by_name(self, engine: Any) -> None:
        with pytest.raises(lm15.InvalidRequestError, match="min_pp"):
            engine.complete(ask(extensions={"min_pp": 0.1}))

    def test_a_prompt_beyond_the_context_is_refused(self, engine: Any, too_long: str) -> None:
        with pytest.raises(lm15.ContextLengthError, match=r"has \d+ tokens and the model takes \d"):
            engine.complete(ask(too_long))

    def test_calls_made_at_once_get_their_own_answers(self, engine: Any) -> None:
        requests = [ask(f"Tell me of number {n}.") for n in range(8)]
        alone = [engine.complete(request).text for request in requests]
        with ThreadPoolExecutor(8) as threads:
            together = [r.text for r in threads.map(engine.complete, requests)]

        assert together == alone

    def test_a_stream_that_is_closed_early_leaves_the_engine_working(self, engine: Any) -> None:
        stream = engine.stream(ask())
        next(stream)
        next(stream)
        stream.close()

        assert engine.complete(ask()).text

    def test_a_cancelled_task_leaves_the_engine_working(self, engine: Any) -> None:
        async def start_and_cancel() -> None:
            task = asyncio.ensure_future(engine.async_twin.complete(ask()))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

        in_time(start_and_cancel())

        assert engine.complete(ask()).text

    def test_a_deep_copy_is_the_engine_itself(self, engine: Any) -> None:
        assert copy.deepcopy(engine) is engine
        assert copy.deepcopy({"lm": [engine]})["lm"][0] is engine

    def test_dspy_reads_its_capabilities(self, engine: Any) -> None:
        lm = _lm(engine)

        assert lm.supports_response_schema is engine.supports_response_schema
        assert lm.supports_function_calling is engine.supports_function_calling
        assert {"temperature", "max_tokens", "stop"} <= set(lm.supported_params)

    def test_dspy_calls_it_both_ways(self, engine: Any) -> None:
        lm = _lm(engine)
        whole = engine.complete(ask()).text

        assert lm("Tell me.") == [whole]
        assert in_time(lm.acall("Tell me.")) == [whole]

    @pytest.mark.parametrize("call", ["complete", "stream"])
    def test_after_closing_calls_fail_at_once(self, engine: Any, call: str) -> None:
        engine.close()
        engine.close()

        with pytest.raises(lm15.LM15Error, match="closed"):
            _run(engine, call, ask())


class SavableEngineContract(EngineContract):
    """For engines that are saved with a program."""

    def test_state_is_json_and_leads_back_to_the_same_model(self, engine: Any) -> None:
        state = json.loads(json.dumps(engine.dump_state()))
        again = type(engine).load_state(state)

        assert again.model_string == engine.model_string
        again.close()


def _lm(engine: Any) -> dspy.LM:
    return dspy.LM(engine.model_string, engine=engine, async_engine=engine.async_twin, cache=False)


def _run(engine: Any, call: str, request: lm15.Request) -> None:
    method: Callable[[lm15.Request], Any] = getattr(engine, call)
    result = method(request)
    if isinstance(result, Iterator):
        list(result)
