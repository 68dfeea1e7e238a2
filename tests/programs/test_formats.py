from __future__ import annotations

from typing import Any

import dspy
import pytest

from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.programs.formats import FORMATS, prompt_format
from dspy_toolkit.programs.signature import dspy_signature
from dspy_toolkit.registry import FieldRecord, SignatureRecord
from tests.programs.tasks import chat, scripted_lm

RATING = SignatureRecord(
    name="rating",
    version="1.0.0",
    instructions="Rate the text.",
    inputs=(FieldRecord("text", "str"),),
    outputs=(
        FieldRecord("stars", "int", minimum=1, maximum=5),
        FieldRecord("word", "str", min_length=2, max_length=8, pattern="^[a-z]+$"),
    ),
)


def ask(answers: list[str], name: str) -> tuple[dspy.Prediction, int]:
    said = iter(answers)
    lm = scripted_lm(lambda request: next(said))
    with dspy.context(lm=lm, adapter=prompt_format(name)):
        prediction = dspy.Predict(dspy_signature(RATING))(text="good")
    return prediction, len(lm.engine.requests)


@pytest.mark.parametrize(
    ("stars", "word"), [(0, "good"), (6, "good"), (3, "g"), (3, "very long word"), (3, "G00D")]
)
def test_an_answer_that_breaks_a_constraint_is_refused(stars: int, word: str) -> None:
    with pytest.raises(dspy.AdapterParseError, match=r"Field (stars|word) is"):
        ask([chat(stars=stars, word=word)], "chat_only")


@pytest.mark.parametrize("stars", [1, 5])
def test_the_bounds_themselves_are_allowed(stars: int) -> None:
    prediction, _ = ask([chat(stars=stars, word="ok")], "chat_only")

    assert prediction.stars == stars


def test_chat_asks_once_more_in_json_and_checks_that_answer_too() -> None:
    prediction, calls = ask([chat(stars=9, word="ok"), '{"stars": 4, "word": "ok"}'], "chat")

    assert (prediction.stars, calls) == (4, 2)
    with pytest.raises(dspy.AdapterParseError, match="stars"):
        ask([chat(stars=9, word="ok"), '{"stars": 8, "word": "ok"}'], "chat")


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("json", '{"stars": 2, "word": "fine"}'),
        ("xml", "<stars>\n2\n</stars>\n<word>\nfine\n</word>"),
    ],
)
def test_other_formats_read_their_own_answers(name: str, answer: str) -> None:
    prediction, calls = ask([answer], name)

    assert (prediction.stars, prediction.word, calls) == (2, "fine", 1)


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(InvalidInput, match=r"'jsn' does not exist; did you mean 'json'\?"):
        prompt_format("jsn")


def test_prompts_are_those_of_plain_dspy() -> None:
    signature = dspy_signature(RATING)
    plain = {
        "chat": dspy.ChatAdapter,
        "guided": dspy.ChatAdapter,
        "guided_json": dspy.JSONAdapter,
        "json": dspy.JSONAdapter,
        "xml": dspy.XMLAdapter,
    }

    for name, adapter in plain.items():
        assert prompt_format(name).format(signature, [], {"text": "x"}) == adapter().format(
            signature, [], {"text": "x"}
        )
    assert set(FORMATS) == {*plain, "chat_only"}


@pytest.mark.parametrize("name", FORMATS)
def test_a_field_is_heard_as_it_is_written_in_every_format(name: str) -> None:
    signature = dspy.Signature("question -> answer, sure: bool")
    said = prompt_format(name).format_assistant_message_content(
        signature, {"answer": "It is\nCanberra.", "sure": True}
    )
    program = dspy.streamify(
        dspy.Predict(signature),
        stream_listeners=[dspy.streaming.StreamListener("answer")],
        async_streaming=False,
    )
    with dspy.context(lm=scripted_lm(lambda request: said), adapter=prompt_format(name)):
        *heard, prediction = program(question="Which city?")

    assert prediction.sure is True
    assert prediction.answer.splitlines()[-1] in "".join(piece.chunk for piece in heard)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_can_be_fine_tuned_with(name: str) -> None:
    shown = prompt_format(name).format_finetune_data(
        dspy_signature(RATING), [], {"text": "good"}, {"stars": 4, "word": "fine"}
    )
    said = shown["messages"][-1]

    assert said["role"] == "assistant"
    assert prompt_format(name).parse(dspy_signature(RATING), said["content"]) == {
        "stars": 4,
        "word": "fine",
    }


@pytest.mark.parametrize("name", FORMATS)
def test_demonstrations_are_shown_as_they_are_at_each_call(name: str) -> None:
    signature, adapter = dspy_signature(RATING), prompt_format(name)
    demos = [dspy.Example(text="fine", stars=4, word="ok"), {"text": "bad", "stars": 1}]
    shown = [adapter.format_demos(signature, demos) for _ in range(2)]
    shown[0][0]["content"] = "changed by whoever got it"
    demos[0]["stars"] = 5
    later = adapter.format_demos(signature, demos)

    assert shown[1] == _written(name, [("fine", 4, "ok"), ("bad", 1, None)])
    assert later == _written(name, [("fine", 5, "ok"), ("bad", 1, None)])
    assert shown[1] != later


def _written(name: str, demos: list[tuple[str, int, str | None]]) -> list[dict[str, str]]:
    """What DSPy's own adapter makes of demonstrations."""
    adapter = prompt_format(name)
    own: Any = next(each for each in type(adapter).__mro__ if each.__module__.startswith("dspy."))
    named = [dict(zip(("text", "stars", "word"), each, strict=True)) for each in demos]
    given = [{key: value for key, value in each.items() if value is not None} for each in named]
    written: list[dict[str, str]] = own.format_demos(adapter, dspy_signature(RATING), given)
    return written


def test_a_demonstration_that_holds_a_list_may_change_inside() -> None:
    adapter, words = prompt_format("chat"), ["a"]
    signature = dspy.Signature("words: list[str] -> count: int")
    demos = [{"words": words, "count": 1}]
    before = adapter.format_demos(signature, demos)
    words.append("b")
    after = adapter.format_demos(signature, demos)

    assert '["a"]' in before[0]["content"]
    assert '["a", "b"]' in after[0]["content"]
