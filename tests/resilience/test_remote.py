from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import time
from functools import partial
from typing import Any

import pytest

from dspy_toolkit.contract import (
    GRAMMAR_KEY,
    Config,
    LM15Error,
    Message,
    NotConfiguredError,
    RateLimitError,
    Request,
    ServerError,
    StreamEvent,
    TransportError,
    UnsupportedFeatureError,
    gives_up_at,
)
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.resilience import RemoteEngine
from dspy_toolkit.resilience.remote import MalformedReply
from tests.resilience.conftest import Way, ask, text_of
from tests.resilience.laboratory.server import FaultServer

SECRET = "sk-not-to-be-seen"


def test_an_endpoint_answers_whole_and_in_pieces(way: Way) -> None:
    with FaultServer({"ok": 1}) as server:
        engine = RemoteEngine(server.url, "lab", SECRET)
        heard: list[StreamEvent] = []
        way.stream(engine, ask("7"), heard)
        whole = way.complete(engine, ask("7"))
        engine.close()

    assert whole.text == text_of(heard) == "the answer to call 7"
    assert whole.usage.output_tokens == 5
    assert [event.type for event in heard] == ["start", *["delta"] * 5, "end"]


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        ("rate_limit", RateLimitError),
        ("server_error", ServerError),
        ("cut", TransportError),
        ("hang_up", TransportError),
        ("bad_json", LM15Error),
        ("wrong_shape", LM15Error),
        ("stall", TransportError),
    ],
)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_every_misbehaviour_is_an_error_of_the_contract(
    way: Way, behaviour: str, kind: type[Exception], streamed: bool
) -> None:
    with FaultServer({behaviour: 1}) as server:
        engine = RemoteEngine(server.url, "lab", SECRET, read_s=0.05)
        call = partial(way.stream, heard=[]) if streamed else way.complete
        with pytest.raises(kind) as error:
            call(engine, ask())
        engine.close()

    assert SECRET not in f"{error.value} {error.value.__dict__}"
    if behaviour == "rate_limit":
        assert getattr(error.value, "retry_after", None) == 0.01


def test_a_reply_that_is_no_answer_is_the_endpoints_fault(way: Way) -> None:
    with FaultServer({"wrong_shape": 1}) as server:
        engine = RemoteEngine(server.url, "lab")
        with pytest.raises(MalformedReply, match=r"127\.0\.0\.1.*sent a reply that is no answer"):
            way.complete(engine, ask())
        engine.close()


def test_a_request_that_cannot_be_sent_is_the_callers_fault(way: Way) -> None:
    engine = RemoteEngine("http://127.0.0.1:9/v1", "lab")
    audio = Message.user([_audio()])

    with pytest.raises(UnsupportedFeatureError, match="audio"):
        way.complete(engine, Request(model="m", messages=(audio,)))
    with pytest.raises(ValueError, match=r"Config\.extensions"):
        way.complete(
            engine,
            Request(
                model="m",
                messages=(Message.user("x"),),
                config=Config(extensions={"api_key": "other"}),
            ),
        )


def test_a_host_that_takes_no_connection_keeps_no_caller_longer_than_it_waits() -> None:
    with socket.socket() as deaf, contextlib.ExitStack() as filling:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(3):
            line = filling.enter_context(socket.socket())
            line.setblocking(False)
            line.connect_ex(deaf.getsockname())
        engine = RemoteEngine(f"http://127.0.0.1:{deaf.getsockname()[1]}/v1", "lab", connect_s=60)
        began = time.monotonic()
        token = gives_up_at.set(began + 0.05)
        try:
            with pytest.raises(TransportError, match="timed out connecting"):
                engine.complete(ask())
        finally:
            gives_up_at.reset(token)

    assert time.monotonic() - began < 30


def test_the_key_is_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with FaultServer({"server_error": 1}) as server:
        engine = RemoteEngine(server.url, "lab", SECRET)
        with pytest.raises(ServerError):
            engine.complete(ask())
        engine.close()

    assert SECRET not in repr(engine)
    assert SECRET not in json.dumps(engine.dump_state())
    assert SECRET not in caplog.text


def test_a_key_may_be_fetched_at_each_call() -> None:
    fetched: list[int] = []

    def key() -> str:
        fetched.append(1)
        return SECRET

    with FaultServer({"ok": 1}) as server:
        engine = RemoteEngine(server.url, "lab", key)
        engine.complete(ask())
        engine.complete(ask())
        engine.close()

    assert len(fetched) >= 2


def test_saved_without_its_key_it_says_what_is_missing(way: Way) -> None:
    engine = RemoteEngine("http://127.0.0.1:9/v1", "lab", SECRET, read_s=5.0, dialect="openai")
    again = RemoteEngine.load_state(json.loads(json.dumps(engine.dump_state())))

    with pytest.raises(NotConfiguredError, match="is not saved"):
        way.complete(again, ask())
    assert again.model_string == engine.model_string == "remote/lab@http://127.0.0.1:9/v1"


def test_saved_without_a_key_it_works_again() -> None:
    with FaultServer({"ok": 1}) as server:
        state = RemoteEngine(server.url, "lab").dump_state()
        again = RemoteEngine.load_state(state)
        text = again.complete(ask("8")).text
        again.close()

    assert text == "the answer to call 8"


def test_its_twin_serves_one_event_loop_after_another() -> None:
    with FaultServer({"ok": 1}) as server:
        engine = RemoteEngine(server.url, "lab")
        twin = engine.async_twin

        async def once() -> str | None:
            text: str | None = (await twin.complete(ask("9"))).text
            await twin.aclose()
            return text

        texts = [asyncio.run(once()) for _ in range(2)]

    assert texts == ["the answer to call 9"] * 2


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"url": "localhost:8000"}, "begins with http"),
        ({"url": "http://user:pass@host/v1"}, "holds a name or password"),
        ({"url": "http://host/v1", "dialect": "martian"}, "'martian' is unknown"),
    ],
)
def test_what_cannot_be_an_endpoint_is_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as refusal:
        RemoteEngine(model="lab", **settings)

    assert "pass@" not in str(refusal.value)


def _audio() -> Any:
    from dspy.lm15 import AudioPart

    return AudioPart(data="aGk=", media_type="audio/wav")


def test_a_grammar_meant_for_a_local_engine_is_not_sent_on_as_a_schema() -> None:
    engine = RemoteEngine("http://localhost:1/v1", "lab")
    for schema, kept in (({GRAMMAR_KEY: 'start: "x"'}, False), ({"type": "object"}, True)):
        form = {"type": "json_schema", "name": "answer", "schema": schema}
        config = Config(response_format=form, probabilities="if_available", max_tokens=7)
        sent = engine.addressed(Request("m", (Message.user("hi"),), config=config)).config

        assert (sent.response_format is not None) is kept
        assert sent.max_tokens == 7
    engine.close()
