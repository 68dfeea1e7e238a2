from __future__ import annotations

import json
from typing import Any

import pytest

from dspy_toolkit.events import Event, PredictionServed, RequestFinished, subscribed
from tests.server.serving import Running

PATH = "/v1/programs/routing"


def events_of(text: str) -> list[tuple[str, Any]]:
    """The server-sent events of a body, by name."""
    found = []
    for block in text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((lines["event"], json.loads(lines["data"])))
    return found


def test_a_program_answers_with_its_version_and_who_answered(served: Running) -> None:
    with served.http() as http:
        answer = http.post(PATH, json={"inputs": {"text": "Please hurry."}}).json()

    assert answer["program"] == "routing"
    assert answer["version"] == "v1"
    assert answer["answered_by"] == ["model"]
    assert answer["outputs"]["team"] in ("atlas", "comet")
    assert answer["usage"]["prompt_tokens"] > 0
    assert set(answer["outputs"]) == {"team", "urgent"}


def test_what_was_decided_brings_the_probability_of_each_option(served: Running) -> None:
    with served.http() as http:
        body = {"inputs": {"text": "How sure?"}, "probabilities": True}
        answer = http.post(PATH, json=body).json()
    chances = answer["probabilities"]

    assert set(chances["team"]) == {"atlas", "comet"}
    assert set(chances["urgent"]) == {"true", "false"}
    assert sum(chances["team"].values()) == pytest.approx(1.0, abs=1e-3)
    assert max(chances["team"], key=chances["team"].get) == answer["outputs"]["team"]


def test_the_same_question_is_answered_from_the_cache_and_counted(served: Running) -> None:
    heard: list[Event] = []
    with served.http() as http, subscribed(heard.append):
        first, again = (
            http.post(PATH, json={"inputs": {"text": "Is this kept?"}}).json() for _ in range(2)
        )

    assert (first["cached"], again["cached"]) == (False, True)
    assert first["outputs"] == again["outputs"]
    assert [e.cached for e in heard if isinstance(e, PredictionServed)] == [False, True]
    assert sum(isinstance(e, RequestFinished) for e in heard) == 2


def test_a_batch_answers_in_order_and_a_bad_one_fails_alone(served: Running) -> None:
    inputs = [{"text": "one"}, {"txt": "two"}, {"text": "three"}]
    with served.http() as http:
        answer = http.post(f"{PATH}/batch", json={"inputs": inputs}).json()

    assert [each["index"] for each in answer["results"]] == [0, 1, 2]
    assert [each["error"] is None for each in answer["results"]] == [True, False, True]
    assert "did you mean 'text'" in answer["results"][1]["error"]["message"]


def test_fields_stream_as_they_are_written_and_then_the_whole_answer(served: Running) -> None:
    body = {"inputs": {"text": "Stream it."}, "stream": True}
    with served.http() as http:
        found = events_of(http.post(PATH, json=body).text)
    texts: dict[str, str] = {}
    for name, data in found:
        if name == "field":
            texts[data["field"]] = texts.get(data["field"], "") + data["text"]
    kind, answer = found[-1]

    assert kind == "answer"
    assert texts["team"] == answer["outputs"]["team"]
    assert texts["urgent"] == str(answer["outputs"]["urgent"])


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"inputs": {}}, 400, "inputs"),
        ({"inputs": {"text": 5}}, 400, "inputs.text"),
        ({"inputs": {"text": ""}}, 400, "inputs.text"),
        ({}, 400, "inputs"),
        ({"inputs": []}, 400, "inputs"),
        ({"inputs": {"text": "x"}, "inputz": 1}, 400, "inputz"),
        ({"inputs": {"text": "word " * 5000}}, 400, "inputs"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_inputs_that_do_not_fit_are_refused_by_name(
    served: Running, body: dict[str, Any], status: int, param: str, stream: bool
) -> None:
    given = {**body, "stream": True} if stream else body
    with served.http() as http:
        answer = http.post(PATH, json=given)

    assert answer.status_code == status
    assert str(answer.json()["error"]["param"]).startswith(param)


def test_an_unknown_program_lists_the_known(served: Running) -> None:
    with served.http() as http:
        answer = http.post("/v1/programs/ruoting", json={"inputs": {}})

    assert answer.status_code == 404
    assert "did you mean 'routing'" in answer.json()["error"]["message"]


def test_the_description_types_each_program_by_its_signature(served: Running) -> None:
    with served.http() as http:
        described = http.get("/openapi.json").json()
    body = described["paths"][PATH]["post"]["requestBody"]["content"]["application/json"]["schema"]
    answer = described["components"]["schemas"]["routing.answer"]["properties"]["outputs"]

    assert body["properties"]["inputs"]["properties"]["text"]["minLength"] == 1
    assert answer["properties"]["team"]["enum"] == ["atlas", "comet"]


def test_health_and_the_description_are_there(served: Running) -> None:
    with served.http() as http:
        found = {
            path: http.get(path).status_code
            for path in ("/health/live", "/health/ready", "/health/deep", "/docs", "/metrics")
        }

    assert set(found.values()) == {200}, found
