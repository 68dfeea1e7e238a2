from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter

from dspy_toolkit.programs.chat_grammar import cut_field
from dspy_toolkit.programs.formats import prompt_format
from dspy_toolkit.programs.guided import CHAT, JSON, Form
from dspy_toolkit.programs.json_grammar import cut_key
from dspy_toolkit.programs.lm import LocalLM


class Line(BaseModel):
    name: str = Field(max_length=6)
    count: int = Field(lt=1000)


class Branch(BaseModel):
    name: str
    below: list[Branch] = []


Code = Annotated[str, Field(max_length=4)]


class Colour(Enum):
    RED = "red"
    BLUE = "sky blue"


class Everything(dspy.Signature):  # type: ignore[misc]
    """Answer."""

    question: str = dspy.InputField()
    why: str = dspy.OutputField(max_length=12)
    label: Literal["low", "lower", 'a "b"', "größer"] = dspy.OutputField()
    level: Literal[1, 2, 10] = dspy.OutputField()
    count: int = dspy.OutputField(ge=3, le=200)
    share: float = dspy.OutputField()
    sure: bool = dspy.OutputField()
    colour: Colour = dspy.OutputField()
    maybe: Literal["x", "y"] | None = dspy.OutputField()
    code: str = dspy.OutputField(pattern=r"^[A-Z]{2}/\d+$", max_length=6)
    lines: list[Line] = dspy.OutputField(max_length=2)
    best: Line | None = dspy.OutputField()
    prices: dict[Code, float] = dspy.OutputField(max_length=2)
    span: tuple[int, bool] = dspy.OutputField()


class Decision(dspy.Signature):  # type: ignore[misc]
    """Decide."""

    question: str = dspy.InputField()
    urgency: Literal["low", "high"] = dspy.OutputField()


def predict(
    lm: LocalLM, signature: Any, question: str, form: str = "guided", **config: Any
) -> dspy.Prediction:
    with dspy.context(lm=lm, adapter=prompt_format(form)):
        return dspy.Predict(signature)(question=question, config=config)


@pytest.mark.parametrize("form", ["guided", "guided_json"])
def test_a_model_that_knows_nothing_gives_answers_of_every_type(lm: LocalLM, form: str) -> None:
    def one(number: int) -> dspy.Prediction:
        config = {"temperature": 1.2, "rollout_id": number, "max_tokens": 600}
        return predict(lm, Everything, f"Number {number}?", form, **config)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(one, range(4)))

    for answer in answers:
        for name, info in Everything.output_fields.items():
            TypeAdapter(info.annotation).validate_python(answer[name])
        assert 3 <= answer.count <= 200
        assert len(answer.why) <= 12
        assert len(answer.lines) <= 2


@pytest.mark.parametrize("form", ["guided", "guided_json"])
def test_a_decision_is_one_run_of_the_model(lm: LocalLM, form: str) -> None:
    predict(lm, Decision, "First?", form)
    before = lm.engine.stats()
    answer = predict(lm, Decision, "Second?", form)
    after = lm.engine.stats()

    assert answer.urgency in ("low", "high")
    assert (after.runs - before.runs, after.decoded - before.decoded) == (1, 1)
    assert after.reused - before.reused > 300


@pytest.mark.parametrize("form", ["guided", "guided_json"])
def test_an_answer_cut_by_max_tokens_names_the_field(lm: LocalLM, form: str) -> None:
    with pytest.raises(dspy.AdapterParseError, match=r"cut at field why by max_tokens; allow it"):
        predict(lm, Everything, "Cut?", form, max_tokens=12)


def test_an_answer_cut_by_a_stop_string_inside_forced_text_says_so(lm: LocalLM) -> None:
    says = r"cut at field urgency by a stop string \(\['urgency'\]\)"
    with pytest.raises(dspy.AdapterParseError, match=says):
        predict(lm, Decision, "Cut?", stop=["urgency"])


def test_a_prompt_that_is_longer_than_the_context_is_dspys_own_error(lm: LocalLM) -> None:
    with pytest.raises(dspy.ContextWindowExceededError, match="the model takes 4096"):
        predict(lm, Decision, "Long? " * 4096)


def test_a_cut_answer_is_not_asked_for_twice(lm: LocalLM) -> None:
    before = lm.engine.stats()
    with pytest.raises(dspy.AdapterParseError, match="cut at field"):
        predict(lm, Decision, "Cut short?", max_tokens=2)

    assert lm.engine.stats().runs - before.runs <= 1


def test_a_text_goes_on_to_the_next_header_and_may_hold_empty_lines() -> None:
    said = {"reasoning": "First.\n\nThen: [[ ## odd", "answer": "So\n[it] is"}
    signature = dspy.Signature("question -> reasoning, answer")
    adapter = dspy.ChatAdapter()

    assert takes(signature, adapter.format_assistant_message_content(signature, said))


ANSWERS = st.fixed_dictionaries(
    {
        "why": st.text("ab cö\n.,", max_size=12).map(str.strip),
        "label": st.sampled_from(["low", "lower", 'a "b"', "größer"]),
        "level": st.sampled_from([1, 2, 10]),
        "count": st.integers(3, 200),
        "share": st.integers(-10_000, 10_000).map(lambda n: n / 100),
        "sure": st.booleans(),
        "colour": st.sampled_from(list(Colour)),
        "maybe": st.sampled_from(["x", "y", None]),
        "code": st.sampled_from(["AB/1", "ZZ/123"]),
        "lines": st.lists(
            st.builds(Line, name=st.text("aü \"'", max_size=6), count=st.integers(-9, 99)),
            max_size=2,
        ),
        "best": st.none()
        | st.builds(Line, name=st.text("aü", max_size=6), count=st.integers(0, 9)),
        "prices": st.dictionaries(
            st.text('aü "', max_size=4), st.integers(0, 99).map(float), max_size=2
        ),
        "span": st.tuples(st.integers(-9, 9), st.booleans()),
    }
)


@settings(deadline=None, max_examples=40)
@given(ANSWERS)
def test_every_right_answer_as_demonstrations_show_it_is_allowed(values: dict[str, Any]) -> None:
    for name, form in (("guided", CHAT), ("guided_json", JSON)):
        answer = prompt_format(name).format_assistant_message_content(Everything, values)

        assert takes(Everything, answer, form)
        assert prompt_format(name).parse(Everything, answer)["count"] == values["count"]
        assert form.cut(Everything, answer) is None


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("lower", "lowest"), ("45", "2"), ("AB/12", "ab/12"), ("True", "yes"), ("sky blue", "green")],
)
def test_wrong_answers_are_not_allowed(right: str, wrong: str) -> None:
    values = {
        "why": "x",
        "label": "lower",
        "level": 1,
        "count": 45,
        "share": 0.5,
        "sure": True,
        "colour": Colour.BLUE,
        "maybe": "x",
        "code": "AB/12",
        "lines": [],
        "best": None,
        "prices": {},
        "span": (1, True),
    }
    answer = dspy.ChatAdapter().format_assistant_message_content(Everything, values)

    assert takes(Everything, answer)
    assert not takes(Everything, answer.replace(f"\n{right}\n", f"\n{wrong}\n"))


def test_a_last_text_may_end_without_the_closing_marker() -> None:
    signature = dspy.Signature("question -> answer")

    assert takes(signature, "[[ ## answer ## ]]\nParis")
    assert cut_field(signature, "[[ ## answer ## ]]\nParis") is None


def test_the_field_at_which_an_answer_is_cut_is_found() -> None:
    signature = dspy.Signature("question -> reasoning, count: int")

    assert cut_field(signature, "[[ ## rea") == "reasoning"
    assert cut_field(signature, "[[ ## reasoning ## ]]\nBe") == "reasoning"
    assert cut_field(signature, "[[ ## reasoning ## ]]\nx\n\n[[ ## count ## ]]\n4") == "count"


def test_the_key_at_which_an_answer_in_json_is_cut_is_found() -> None:
    signature = dspy.Signature("question -> reasoning, count: int")

    assert cut_key(signature, "{") == "reasoning"
    assert cut_key(signature, '{\n  "reasoning": "\\n  \\"count\\": ') == "reasoning"
    assert cut_key(signature, '{\n  "reasoning": "x",\n  "count": 4') == "count"
    assert cut_key(signature, '{\n  "reasoning": "x",\n  "count": 4\n}') is None


def test_a_value_that_may_hold_itself_is_held_to_its_schema_in_any_layout() -> None:
    class Tree(dspy.Signature):  # type: ignore[misc]
        """Draw a tree."""

        question: str = dspy.InputField()
        tree: Branch = dspy.OutputField()

    tree = Branch(name="a", below=[Branch(name="b", below=[Branch(name="c")])])
    answer = dspy.JSONAdapter().format_assistant_message_content(Tree, {"tree": tree})

    assert takes(Tree, answer, JSON)
    assert not takes(Tree, answer.replace('"below"', '"above"'), JSON)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('"a",\n    2', '"a", 2'),
        ('"a",\n    2', '2,\n    "a"'),
        ("}", ',\n  "more": 1\n}'),
        ('"label": "low"', '"label": "lowest"'),
    ],
)
def test_wrong_answers_in_json_are_not_allowed(right: str, wrong: str) -> None:
    signature = dspy.Signature("question -> label: Literal['low', 'high'], pair: tuple[str, int]")
    answer = dspy.JSONAdapter().format_assistant_message_content(
        signature, {"label": "low", "pair": ("a", 2)}
    )

    assert takes(signature, answer, JSON)
    assert not takes(signature, answer.replace(right, wrong), JSON)


def takes(signature: Any, answer: str, form: Form = CHAT) -> bool:
    """Whether the grammar allows an answer as a whole, a byte at a time."""
    matcher = matcher_of(signature, form).deep_copy()
    taken = matcher.consume_tokens(list(answer.encode()))
    return bool(taken and matcher.is_accepting())


@cache
def matcher_of(signature: Any, form: Form) -> Any:
    from llguidance import LLMatcher, LLTokenizer

    grammar = LLMatcher.grammar_from_lark(form.grammar(signature))
    return LLMatcher(LLTokenizer("byte"), grammar, log_level=0)
