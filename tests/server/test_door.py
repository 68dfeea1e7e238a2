"""Who may come in, what they may bring, and that one who leaves or misbehaves harms nobody."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.contract import (
    Request,
    StreamDeltaEvent,
    StreamEvent,
    StreamStartEvent,
    TextDelta,
)
from dspy_toolkit.engine.scripted import ScriptedEngine
from dspy_toolkit.events import Event, RequestBroken, RequestFinished, subscribed
from dspy_toolkit.programs.artifact import Artifact
from dspy_toolkit.server import Catalog, Door, Keys, ServedModel
from dspy_toolkit.server.gateway import LOCAL_HOSTS
from tests.server.conftest import filled_catalog
from tests.server.serving import PATIENCE_S, Running, running

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "nano", "messages": [{"role": "user", "content": "Hi"}]}
# Three hundred numbers: an answer that takes a while, whatever the model would rather say.
LONG: dict[str, Any] = {
    **HELLO,
    "max_tokens": 900,
    "response_format": {
        "type": "json_schema",
        "json_schema": {
            "name": "long",
            "schema": {"type": "array", "items": {"type": "integer"}, "minItems": 300},
        },
    },
}


@pytest.fixture(scope="module")
def catalog(settings: Settings, artifact: Artifact) -> Iterator[Catalog]:
    made = filled_catalog(settings, artifact)
    yield made
    made.close()


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys.json")


def error(answer: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()["error"]
    assert set(body) == {"message", "type", "param", "code"}

    return body


def test_without_a_key_only_life_and_readiness_are_shown(catalog: Catalog, keys: Keys) -> None:
    keys.create("robot")
    with running(catalog, Door(keys=keys)) as server, server.http() as http:
        found = {
            path: http.get(path).status_code
            for path in ("/health/live", "/health/ready", "/health/deep", "/metrics", "/v1/models")
        }
        wrong = http.get("/v1/models", headers={"authorization": "Bearer dtk_00000000_ff"})

    assert list(found.values()) == [200, 200, 401, 401, 401]
    assert error(wrong)["code"] == "invalid_api_key"


def test_keys_open_what_they_are_made_for(catalog: Catalog, keys: Keys) -> None:
    admin, _ = keys.create("admin", ["admin"])
    robot, _ = keys.create("robot")
    single, _ = keys.create("single", ["programs:routing"])
    call = {"inputs": {"text": "hello"}}
    with running(catalog, Door(keys=keys)) as server:
        with server.http(admin) as http:
            assert http.get("/metrics").status_code == 200
        with server.http(robot) as http:
            assert http.get("/metrics").status_code == 403
            assert http.post(CHAT, json={**HELLO, "max_tokens": 1}).status_code == 200
        with server.http(single) as http:
            assert http.post(CHAT, json=HELLO).status_code == 403
            assert http.post("/v1/programs/routing", json=call).status_code == 200
        keys.revoke("single")
        with server.http(single) as http:
            assert http.post("/v1/programs/routing", json=call).status_code == 401


def test_the_first_key_is_asked_for_at_once_and_its_end_opens_nothing(
    catalog: Catalog, keys: Keys, tmp_path: Path
) -> None:
    door = Door(keys=Keys(tmp_path / "keys.json"), keys_always=False)
    others = Keys(tmp_path / "keys.json")
    with running(catalog, door) as server, server.http() as http:
        before = http.get("/v1/models").status_code
        key, _ = others.create("robot")
        made = http.get("/v1/models").status_code
        shown = http.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code
        others.revoke("robot")
        ended = http.get("/v1/models").status_code

    assert (before, made, shown, ended) == (200, 401, 200, 401)


def test_a_key_that_asks_too_often_is_told_when_to_come_back(catalog: Catalog, keys: Keys) -> None:
    key, _ = keys.create("robot", per_minute=2)
    with running(catalog, Door(keys=keys)) as server, server.http(key) as http:
        answers = [http.get("/v1/models") for _ in range(3)]

    assert [each.status_code for each in answers] == [200, 200, 429]
    assert 0 < int(answers[2].headers["retry-after"]) <= 30
    assert error(answers[2])["type"] == "rate_limit_error"


def test_a_page_in_a_browser_reaches_nothing_here(catalog: Catalog) -> None:
    door = Door(hosts=LOCAL_HOSTS)
    with running(catalog, door) as server, server.http() as http:
        rebound = http.get("/v1/models", headers={"host": "evil.example"})
        simple = http.post(CHAT, content=json.dumps(HELLO), headers={"content-type": "text/plain"})

    assert rebound.status_code == 421
    assert simple.status_code == 415


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_10_megabytes_is_refused_and_others_are_answered(
    served: Running, chunked: bool
) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(10):
            yield b"x" * 1_000_000

    content = pieces() if chunked else b"x" * 10_000_000
    with served.http() as http:
        try:
            answer: httpx.Response | None = http.post(
                CHAT, content=content, headers={"content-type": "application/json"}
            )
        except httpx.TransportError:
            # The server answered and closed before everything was sent.
            answer = None
        after = http.post(CHAT, json={**HELLO, "max_tokens": 1})

    assert answer is None or answer.status_code == 413
    assert after.status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"model": "\xff"}',
        b'{"model": "\\ud800", "messages": []}',
        b'{"model": "nano", "messages": NaN}',
        b"null",
        b'"text"',
        b"[]",
        b'{"model": 1e999, "messages": []}',
        b'{"model": "nano", "messages": [{"role": "user", "content": "x"}], "seed": '
        + b"9" * 5000
        + b"}",
        b'{"model": "nano\\u0000", "messages": [{"role": "user", "content": "x"}]}',
    ],
    ids=range(13),
)
@pytest.mark.parametrize(
    "path", [CHAT, "/v1/completions", "/v1/embeddings", "/v1/programs/routing"]
)
def test_what_is_no_request_is_a_4xx_in_openais_form(
    served: Running, path: str, content: bytes
) -> None:
    with served.http() as http:
        answer = http.post(path, content=content, headers={"content-type": "application/json"})

    assert 400 <= answer.status_code < 500
    assert error(answer)["message"]


@pytest.mark.parametrize("text", ["\u0000", "\u202e", "a\u0300" * 200, "😀" * 100, "\ufffe"])
def test_odd_text_is_text(served: Running, text: str) -> None:
    body = {**HELLO, "messages": [{"role": "user", "content": text}], "max_tokens": 1}
    with served.http() as http:
        answer = http.post(CHAT, json=body)

    assert answer.status_code == 200


def test_a_body_that_never_ends_is_given_up_on(catalog: Catalog) -> None:
    with running(catalog, Door(body_s=0.2)) as server:
        with socket.create_connection(("127.0.0.1", server.server.port), PATIENCE_S) as line:
            line.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n"
                b"content-type: application/json\r\n\r\n{"
            )
            answer = line.recv(4096)

    assert answer.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in answer.lower()


def test_more_requests_than_there_are_places_are_told_to_come_back(catalog: Catalog) -> None:
    with running(catalog, Door(requests=1)) as server, server.http() as http:
        with http.stream("POST", CHAT, json={**LONG, "stream": True}) as first:
            # Kept: a reader that is given up closes the connection.
            lines = first.iter_lines()
            next(lines)
            with server.http() as other:
                refused = other.post(CHAT, json=HELLO)
                alive = other.get("/health/live")

    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert alive.status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_who_goes_away_frees_the_row(served: Running, stream: bool) -> None:
    ended = threading.Event()

    def heard(event: Event) -> None:
        if isinstance(event, RequestFinished) and event.error in ("499", "cancelled"):
            ended.set()

    body = json.dumps({**LONG, "stream": stream}).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    with subscribed(heard):
        with socket.create_connection(("127.0.0.1", served.server.port), PATIENCE_S) as line:
            line.sendall(head.encode() + body)
            if stream:
                line.recv(64)
        left = ended.wait(PATIENCE_S)
    with served.http() as http:
        after = http.post(CHAT, json={**HELLO, "max_tokens": 1})

    assert left
    assert after.status_code == 200
    engine: Any = served.catalog.models["nano"].source
    assert engine.running == 0


@pytest.mark.parametrize("cut", [1, 30, 80, 140])
def test_who_goes_away_in_the_midst_of_asking_harms_nobody(served: Running, cut: int) -> None:
    body = json.dumps(HELLO).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", served.server.port), PATIENCE_S) as line:
            line.sendall((head.encode() + body)[:cut])
    with served.http() as http:
        after = http.post(CHAT, json={**HELLO, "max_tokens": 1})

    assert after.status_code == 200


def test_what_nobody_foresaw_is_told_by_an_id_and_nothing_else(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Event] = []

    def broken() -> bytes:
        raise RuntimeError("/secret/path and sk-key")

    with subscribed(heard.append), running(catalog, metrics=broken) as server:
        with server.http() as http:
            answer = http.get("/metrics")

    (told,) = [each for each in heard if isinstance(each, RequestBroken)]
    assert answer.status_code == 500
    assert told.request in error(answer)["message"]
    assert told.error == "RuntimeError"
    assert "secret" not in answer.text


class Breaking(ScriptedEngine):
    """Says one word, and then does what nobody foresaw."""

    @property
    def async_twin(self) -> Any:
        return self

    async def stream(self, request: Request) -> AsyncGenerator[StreamEvent, None]:  # type: ignore[override]
        yield StreamStartEvent(model="m")
        yield StreamDeltaEvent(delta=TextDelta(text="one", part_index=0))
        raise RuntimeError("/secret/path and sk-key")


def test_a_stream_that_breaks_in_the_middle_is_told_by_the_same_id() -> None:
    heard: list[Event] = []
    catalog = Catalog(models={"nano": ServedModel.over("nano", Breaking(lambda _: "ok"))})
    with subscribed(heard.append), running(catalog) as server, server.http() as http:
        answer = http.post(CHAT, json={**HELLO, "stream": True})

    (told,) = [each for each in heard if isinstance(each, RequestBroken)]
    assert answer.status_code == 200
    assert "one" in answer.text
    assert f"the server failed on request {told.request}" in answer.text
    assert answer.headers["x-request-id"] == told.request
    assert "secret" not in answer.text


def test_loading_is_said_until_it_is_over(settings: Settings) -> None:
    catalog = Catalog()
    catalog.loading.add("nano")
    catalog.failed["other"] = "/secret/folder is damaged"
    with running(catalog) as server, server.http() as http:
        answer = http.post(CHAT, json=HELLO)
        failed = http.get("/v1/models/other")
        unknown = http.get("/v1/models/nanoo")
        ready = http.get("/health/ready")

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert error(answer)["code"] == "loading"
    assert (failed.status_code, error(failed)["code"]) == (503, "not_loaded")
    assert "secret" not in failed.text
    assert (unknown.status_code, error(unknown)["code"]) == (404, "model_not_found")
    assert "nano" in unknown.text
    assert (ready.status_code, ready.json()["loading"]) == (503, ["nano"])
    found = {each["subject"]: each["reason"] for each in ready.json()["findings"]}
    assert found["nano"] == "is still being loaded"
    assert found["other"] == "is not served; the server's output says why"


def test_a_stop_lets_running_requests_end_and_refuses_new_ones(catalog: Catalog) -> None:
    with running(catalog, drain_s=PATIENCE_S) as server, server.http() as http:
        with http.stream("POST", CHAT, json={**LONG, "max_tokens": 250, "stream": True}) as first:
            lines = first.iter_lines()
            next(lines)
            with server.http() as other:
                other.get("/health/live")
                server.on_loop(server.server.stop)
                refused = other.post(CHAT, json=HELLO)
                ready = other.get("/health/ready")
            rest = list(lines)
        server.thread.join(PATIENCE_S)

    assert rest[-2:] == ["data: [DONE]", ""]
    assert refused.status_code == 503
    assert error(refused)["code"] == "stopping"
    assert ready.status_code == 503
    assert not server.thread.is_alive()


@pytest.mark.parametrize("stream", [False, True])
def test_what_runs_too_long_at_a_stop_gets_an_error_that_says_to_ask_again(
    catalog: Catalog, stream: bool
) -> None:
    answers: list[str] = []
    asked = threading.Event()

    with running(catalog, drain_s=0.05) as server:

        def ask() -> None:
            with server.http() as http:
                if not stream:
                    asked.set()
                    answers.append(http.post(CHAT, json=LONG).text)
                    return
                with http.stream("POST", CHAT, json={**LONG, "stream": True}) as answer:
                    lines = answer.iter_lines()
                    next(lines)
                    asked.set()
                    answers.extend(line for line in lines if line)

        thread = threading.Thread(target=ask)
        thread.start()
        asked.wait(PATIENCE_S)
        while not stream and not server.on_loop(lambda: server.app.running):
            pass
        server.on_loop(server.server.stop)
        thread.join(PATIENCE_S)

    assert "the server is stopping; ask again" in answers[-1]
