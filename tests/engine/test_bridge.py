from __future__ import annotations

from typing import Any

import pytest
from dspy import lm15

from dspy_toolkit.engine.bridge import Answer, Ask, Call, Translator, read_request
from dspy_toolkit.engine.output import Piece, Score

USER = lm15.Message.user("Hello")
TOOL = lm15.FunctionTool("find", "Finds.", {"type": "object", "properties": {}})


def read(*messages: lm15.Message, tools: bool = True, thinking: bool = True, **fields: Any) -> Ask:
    config = {k: v for k, v in fields.items() if k not in ("system", "tools_given")}
    request = lm15.Request(
        model="m",
        messages=messages or (USER,),
        system=fields.get("system"),
        tools=fields.get("tools_given", ()),
        config=lm15.Config(**config),
    )
    return read_request(request, tools=tools, thinking=thinking)


def test_the_conversation_keeps_its_order_and_roles() -> None:
    ask = read(
        USER,
        lm15.Message.assistant([lm15.ThinkingPart("hm"), lm15.TextPart("a"), lm15.TextPart("b")]),
        lm15.Message.developer("now"),
        lm15.Message.user([lm15.TextPart("see"), lm15.DataPart({"k": "ü"})]),
        system="Be brief.",
    )

    assert ask.turns == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "a\nb"},
        {"role": "system", "content": "now"},
        {"role": "user", "content": 'see\n{"k": "ü"}'},
    ]


def test_tool_calls_and_results_become_turns() -> None:
    ask = read(
        USER,
        lm15.Message.assistant([lm15.ToolCallPart("1", "find", {"q": "x"})]),
        lm15.Message.tool("1", "found"),
        tools_given=(TOOL,),
    )

    assert ask.turns[1]["tool_calls"][0]["function"] == {"name": "find", "arguments": {"q": "x"}}
    assert ask.turns[2] == {"role": "tool", "content": "found", "tool_call_id": "1"}
    assert ask.tools[0]["function"]["description"] == "Finds."


def test_tool_choice_none_offers_no_tool() -> None:
    choice = lm15.ToolChoice("none")

    assert read(tools_given=(TOOL,), tool_choice=choice).tools == []


@pytest.mark.parametrize(
    ("feature", "fields"),
    [
        (
            "config.response_format",
            {"response_format": {"type": "json_object"}, "tools_given": (TOOL,)},
        ),
        ("config.service_tier", {"service_tier": "fast"}),
        ("config.store", {"store": True}),
        ("config.cache", {"cache": lm15.CacheConfig()}),
        ("config.probabilities", {"probabilities": "required"}),
        (
            "config.tool_choice",
            {"tools_given": (TOOL,), "tool_choice": lm15.ToolChoice("required")},
        ),
        ("tools", {"tools_given": (TOOL,), "tools": False}),
        ("tools[0]", {"tools_given": (lm15.BuiltinTool("web_search"),)}),
        ("config.reasoning", {"reasoning": lm15.Reasoning("high"), "thinking": False}),
    ],
)
def test_what_the_engine_cannot_do_is_refused_by_its_path(
    feature: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(lm15.UnsupportedFeatureError) as refusal:
        read(**fields)

    assert refusal.value.feature == feature


def test_the_schema_of_an_answer_is_found() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}

    assert read().schema is None
    assert read(response_format={"type": "json_object"}).schema == {"type": "object"}
    assert read(response_format={"type": "json_schema", "schema": schema}).schema == schema


def test_thinking_may_be_turned_off_for_any_model() -> None:
    assert read(reasoning=lm15.Reasoning("off"), thinking=False).thinking is False
    assert read(reasoning=lm15.Reasoning("low")).thinking is True
    assert read().thinking is None


def answer(pieces: list[Piece], calls: list[Call] | None = None, late: Any = ()) -> Answer:
    reason = "tool_call" if calls else "stop"
    return Answer(pieces, reason, 3, 2, calls or [], late)


def test_neighbouring_pieces_of_one_kind_become_one_part() -> None:
    pieces = [
        Piece("thinking", "h"),
        Piece("thinking", "m"),
        Piece("text", "a"),
        Piece("text", "b"),
    ]
    response = Translator("m", scored=False).response(answer(pieces, [Call("1", "find", {})]))

    assert response.message.parts == (
        lm15.ThinkingPart("hm"),
        lm15.TextPart("ab"),
        lm15.ToolCallPart("1", "find", {}),
    )
    assert response.logprobs is None


def test_an_answer_without_a_word_is_an_empty_text() -> None:
    response = Translator("m", scored=False).response(answer([]))

    assert response.text == ""


def test_events_put_together_give_the_response() -> None:
    pieces = [
        Piece("thinking", "hm"),
        Piece("text", "a", (Score(7, -0.5, ((7, -0.5), (8, -2.0))),)),
    ]
    broken = Piece("text", "<call>x</call>", complete=False)
    whole = answer([*pieces, broken], [Call("1", "find", {"q": 1})], [broken])
    stream = Translator("m", scored=True)
    events = [stream.start(), *map(stream.delta, pieces), *stream.late(whole), stream.end(whole)]
    request = lm15.Request(model="m", messages=(USER,))

    assert lm15.materialize_response(iter(events), request) == Translator(
        "m", scored=True
    ).response(whole)


def test_scores_name_tokens_as_text_and_bytes() -> None:
    names = {7: "é", 8: "�"}
    piece = Piece("text", "é", (Score(7, -0.5, ((7, -0.5), (8, -2.0))),), complete=False)
    response = Translator("m", True, names.__getitem__).response(answer([piece]))
    assert response.logprobs is not None
    (score,) = response.logprobs

    assert (score.token, score.bytes, score.token_id) == ("é", (0xC3, 0xA9), 7)
    assert [(other.token, other.bytes) for other in score.top] == [("é", (0xC3, 0xA9)), ("�", None)]
    assert not response.logprobs_complete
