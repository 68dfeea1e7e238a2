"""The published client drives every endpoint."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import openai
import pytest

from tests.server.serving import Running

HELLO: Any = [{"role": "user", "content": "Where is my parcel?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK: Any = {
    "type": "function",
    "function": {
        "name": "clock",
        "parameters": {
            "type": "object",
            "properties": {"zone": {"enum": ["UTC", "CET"]}},
            "required": ["zone"],
            "additionalProperties": False,
        },
    },
}
SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {
        "name": "flag",
        "schema": {
            "type": "object",
            "properties": {"urgent": {"type": "boolean"}},
            "required": ["urgent"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture
def client(served: Running) -> Any:
    with served.openai() as made:
        yield made


def test_models_and_programs_are_listed_and_shown(client: openai.OpenAI) -> None:
    assert [each.id for each in client.models.list()] == ["nano", "routing"]
    assert client.models.retrieve("routing").id == "routing"


def test_a_chat_is_answered_with_usage(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="nano", messages=HELLO, max_tokens=5)

    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_brings_the_text_of_the_whole_answer(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="nano", messages=HELLO, max_completion_tokens=8)
    chunks = list(
        client.chat.completions.create(
            model="nano",
            messages=HELLO,
            max_completion_tokens=8,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)

    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_samples_differ_by_seed_and_repeat_with_it(client: openai.OpenAI) -> None:
    def samples(seed: int) -> list[str | None]:
        answer = client.chat.completions.create(
            model="nano", messages=HELLO, max_tokens=12, n=4, temperature=1.5, seed=seed
        )
        return [each.message.content for each in answer.choices]

    first, again, other = samples(1), samples(1), samples(2)

    assert first == again
    assert first != other
    assert len(set(first)) > 1


def test_streamed_samples_carry_their_index_and_are_those_of_the_whole(
    client: openai.OpenAI,
) -> None:
    settings: Any = {"max_tokens": 6, "n": 3, "temperature": 1.2, "seed": 5}
    whole = client.chat.completions.create(model="nano", messages=HELLO, **settings)
    texts = {0: "", 1: "", 2: ""}
    for chunk in client.chat.completions.create(
        model="nano", messages=HELLO, stream=True, **settings
    ):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""

    assert list(texts.values()) == [each.message.content for each in whole.choices]


def test_greedy_samples_are_drawn_once_and_given_as_often_as_asked(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="nano", messages=HELLO, max_tokens=4, n=3)

    assert len({each.message.content for each in answer.choices}) == 1
    assert [each.index for each in answer.choices] == [0, 1, 2]
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 4


def test_a_stop_string_ends_the_answer_and_is_no_part_of_it(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="nano", messages=HELLO, max_tokens=12)
    text = whole.choices[0].message.content or ""
    cut = client.chat.completions.create(
        model="nano", messages=HELLO, max_tokens=12, stop=[text[4:6]]
    )

    assert cut.choices[0].message.content == text[: text.index(text[4:6])]
    assert cut.choices[0].finish_reason == "stop"


def test_log_probabilities_come_for_every_token(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="nano", messages=HELLO, max_tokens=4, logprobs=True, top_logprobs=3
    )
    scores = answer.choices[0].logprobs

    assert scores is not None
    assert scores.content is not None
    assert answer.usage is not None
    assert len(scores.content) == answer.usage.completion_tokens
    for token in scores.content:
        best = [each.logprob for each in token.top_logprobs]
        assert best == sorted(best, reverse=True)
        assert token.logprob <= best[0] <= 0.0


def test_an_answer_is_held_to_a_schema(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="nano", messages=HELLO, max_tokens=32, response_format=SCHEMA
    )

    assert type(json.loads(answer.choices[0].message.content or "")["urgent"]) is bool


def test_an_answer_is_held_to_be_an_object(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="nano", messages=HELLO, max_tokens=12, response_format={"type": "json_object"}
    )

    assert (answer.choices[0].message.content or "").startswith("{")


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "clock"}}]
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_that_must_be_called_is_called_with_its_arguments(
    client: openai.OpenAI, choice: Any, stream: bool
) -> None:
    settings: Any = {"model": "nano", "messages": HELLO, "max_tokens": 48, "tool_choice": choice}
    if stream:
        name, arguments, reason = "", "", None
        chunks = client.chat.completions.create(tools=[WEATHER, CLOCK], stream=True, **settings)
        for chunk in chunks:
            for call in chunk.choices[0].delta.tool_calls or ():
                name += (call.function and call.function.name) or ""
                arguments += (call.function and call.function.arguments) or ""
            reason = chunk.choices[0].finish_reason or reason
    else:
        answer = client.chat.completions.create(tools=[WEATHER, CLOCK], **settings)
        (call_,) = answer.choices[0].message.tool_calls or []
        assert call_.type == "function"

        name, arguments = call_.function.name, call_.function.arguments
        reason = answer.choices[0].finish_reason

    assert reason == "tool_calls"
    assert name == "clock" or choice == "required"
    assert json.loads(arguments) in (
        [{"zone": "UTC"}, {"zone": "CET"}]
        if name == "clock"
        else [{"city": "Oslo"}, {"city": "Rome"}]
    )


def test_a_conversation_with_tool_results_is_taken_as_far_as_the_model_can(
    client: openai.OpenAI,
) -> None:
    answer = client.chat.completions.create(
        model="nano",
        max_tokens=2,
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Time?"}]},
            {"role": "assistant", "content": "Noon."},
            {"role": "user", "content": "And now?"},
        ],
    )

    assert answer.choices[0].message.role == "assistant"


def test_a_text_is_continued_for_each_prompt(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="nano", prompt=["one", "two two two"], max_tokens=3, n=2, logprobs=2
    )

    assert [each.index for each in answer.choices] == [0, 1, 2, 3]
    assert answer.choices[0].text == answer.choices[1].text
    scores = answer.choices[2].logprobs
    assert scores is not None
    assert "".join(scores.tokens or ()) == answer.choices[2].text
    assert len(scores.top_logprobs or ()) == len(scores.tokens or ())


def test_a_continued_text_can_be_streamed(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="nano", prompt="one", max_tokens=4)
    pieces = list(client.completions.create(model="nano", prompt="one", max_tokens=4, stream=True))

    assert "".join(each.choices[0].text for each in pieces) == whole.choices[0].text
    assert pieces[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_texts_become_vectors_in_both_codings(client: openai.OpenAI) -> None:
    plain = client.embeddings.create(model="nano", input=["late", "early"], encoding_format="float")
    coded = client.embeddings.with_raw_response.create(
        model="nano", input="late", encoding_format="base64"
    )
    packed = base64.b64decode(json.loads(coded.text)["data"][0]["embedding"])

    assert len(plain.data) == 2
    assert sum(x * x for x in plain.data[0].embedding) == pytest.approx(1.0, abs=1e-5)
    assert list(struct.unpack(f"<{len(packed) // 4}f", packed)) == pytest.approx(
        plain.data[0].embedding, abs=1e-6
    )
    assert plain.usage.prompt_tokens == plain.usage.total_tokens > 0


def test_a_program_answers_as_a_model(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="routing", messages=HELLO)
    same = client.chat.completions.create(
        model="routing",
        messages=[{"role": "user", "content": json.dumps({"text": "Where is my parcel?"})}],
    )
    outputs = json.loads(answer.choices[0].message.content or "")

    assert outputs["team"] in ("atlas", "comet")
    assert type(outputs["urgent"]) is bool
    assert same.choices[0].message.content == answer.choices[0].message.content


def test_a_program_streams_as_a_model(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="routing", messages=HELLO)
    chunks = client.chat.completions.create(
        model="routing", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)

    assert text == whole.choices[0].message.content


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"model": "nope"}, "model"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 99}, "n"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "oracle", "content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
        ),
        ({"messages": [{"role": "user", "content": "word " * 4000}]}, "messages"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1].function.name"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER]}, "tools"),
        ({"extra_body": {"tempreature": 1}}, "tempreature"),
        ({"model": "routing"}, "max_tokens"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
    ],
)
def test_what_is_wrong_is_named_by_its_field(
    client: openai.OpenAI, changed: dict[str, Any], param: str
) -> None:
    given: dict[str, Any] = {"model": "nano", "messages": HELLO, "max_tokens": 2, **changed}

    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as caught:
        client.chat.completions.create(**given)

    assert caught.value.param == param
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"]


def test_an_unknown_model_is_answered_with_the_known_ones(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="known: nano, routing"):
        client.chat.completions.create(model="nanno", messages=HELLO)
