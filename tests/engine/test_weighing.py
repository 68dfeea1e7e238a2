from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest
from dspy import lm15
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.utils import load

from dspy_toolkit.contract import GRAMMAR_KEY
from dspy_toolkit.engine.bridge import OPTIONS_KEY
from dspy_toolkit.engine.weighing import Choice, Question, Weigher, read_choices, token_paths
from tests.conformance.engine_contract import ask
from tests.engine.test_generation import prompts

if TYPE_CHECKING:
    from dspy_toolkit.engine.mlx_engine import MlxEngine

END = "\n\n[[ ## completed ## ]]"
AFTER = "[[ ## team ## ]]\n"


class Letters:
    """A tokenizer of single bytes, and of a few pairs where they are met."""

    def __init__(self, *pairs: str) -> None:
        self._pairs = {pair.encode(): 256 + n for n, pair in enumerate(pairs)}

    def tokenize_bytes(self, utf8bytes: bytes) -> list[int]:
        tokens, place = [], 0
        while place < len(utf8bytes):
            pair = self._pairs.get(utf8bytes[place : place + 2])
            tokens.append(utf8bytes[place] if pair is None else pair)
            place += 1 if pair is None else 2
        return tokens

    def decode_bytes(self, tokens: list[int]) -> bytes:
        pairs = {token: pair for pair, token in self._pairs.items()}
        return b"".join(pairs.get(token) or bytes([token]) for token in tokens)


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def weighed(text: str, options: list[str], **config: Any) -> lm15.Request:
    schema = {
        GRAMMAR_KEY: f"start: {quoted(AFTER)} ({' | '.join(map(quoted, options))}) {quoted(END)}",
        OPTIONS_KEY: [{"name": "team", "after": AFTER, "options": options, "end": END}],
    }
    form = {"type": "json_schema", "name": "answer", "schema": schema}
    return ask(
        text, response_format=form, max_tokens=200, **{"probabilities": "if_available", **config}
    )


def said(response: lm15.Response) -> str:
    return "".join(part.text for part in response.message.parts_of(lm15.TextPart))


def by_hand(folder: Path, text: str, options: list[str]) -> dict[str, float]:
    """The same from mlx-lm's model alone: every option by itself, from a cold start."""
    model, tokenizer = load(str(folder))[:2]
    model.set_dtype(mx.float32)
    turns = [{"role": "user", "content": text}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True)
    prompt += tokenizer.encode(AFTER, add_special_tokens=False)
    sums = {}
    for option in options:
        tokens = tokenizer.encode(option + END, add_special_tokens=False)
        count = next(
            n for n in range(1, len(tokens)) if len(tokenizer.decode(tokens[:n])) > len(option)
        )
        scores = np.array(model(mx.array([prompt + tokens[:count]]))[0], dtype=np.float64)
        scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
        sums[option] = sum(
            scores[len(prompt) - 1 + n, token] for n, token in enumerate(tokens[:count])
        )
    total = math.log(sum(math.exp(each) for each in sums.values()))
    return {option: math.exp(each - total) for option, each in sums.items()}


@pytest.mark.parametrize(
    "options",
    [
        ["low", "high"],
        ["atlas", "atl", "at", "atrium"],
        ["order", "orders", "order arrived", "customer"],
        ["größer", "groß", "東京 🙂", "東"],
        [f"team {n}" for n in range(40)],
    ],
)
def test_options_weigh_what_the_model_alone_gives_them(
    engine: MlxEngine, model_folder: Path, options: list[str]
) -> None:
    found = engine.complete(weighed("Which team?", options)).probabilities

    assert found is not None
    assert found["team"] == pytest.approx(
        by_hand(model_folder, "Which team?", options), rel=2e-3, abs=1e-6
    )
    assert sum(found["team"].values()) == pytest.approx(1.0)


def test_options_weigh_the_same_where_the_prompt_is_known(
    engine: MlxEngine, model_folder: Path
) -> None:
    text, options = "The order has not arrived. " * 8, ["low", "high", "order arrived"]
    first, again = (engine.complete(weighed(text, options)) for _ in range(2))

    assert again.usage.cache_read_tokens == again.usage.input_tokens
    for each in (first, again):
        assert each.probabilities is not None
        assert each.probabilities["team"] == pytest.approx(
            by_hand(model_folder, text, options), rel=2e-3, abs=1e-6
        )


def test_weighing_changes_no_answer_and_is_the_same_in_a_batch(engine: MlxEngine) -> None:
    options = ["atlas", "atl", "billing", "order arrived"]
    asked = [weighed(text, options) for text in prompts(12)]
    plain = [engine.complete(weighed(t, options, probabilities=None)) for t in prompts(12)]
    alone = [engine.complete(request) for request in asked]
    with ThreadPoolExecutor(12) as threads:
        together = list(threads.map(engine.complete, asked))

    assert [*map(said, alone)] == [*map(said, plain)]
    assert [*map(said, together)] == [*map(said, plain)]
    for one, other in zip(alone, together, strict=True):
        assert one.probabilities is not None
        assert other.probabilities is not None
        assert other.probabilities["team"] == pytest.approx(one.probabilities["team"], rel=1e-3)


def test_the_temperature_plays_no_part(engine: MlxEngine) -> None:
    cold = engine.complete(weighed("Hello", ["low", "high"])).probabilities
    hot = engine.complete(weighed("Hello", ["low", "high"], temperature=2.0)).probabilities

    assert cold is not None
    assert hot is not None
    assert hot["team"] == pytest.approx(cold["team"])


def test_a_call_that_does_not_ask_pays_nothing(engine: MlxEngine) -> None:
    engine.complete(weighed("Hello there", ["low", "high"]))
    before = engine.stats()
    response = engine.complete(weighed("Hello there", ["low", "high"], probabilities=None))
    after = engine.stats()

    assert response.probabilities is None
    assert after.weighed == before.weighed
    assert after.runs - before.runs == 1


def test_options_are_weighed_in_one_more_run(engine: MlxEngine) -> None:
    engine.complete(weighed("Warm up", ["low", "high"]))
    before = engine.stats()
    engine.complete(weighed("Warm up", ["low", "high", "order arrived"]))
    after = engine.stats()

    assert after.runs - before.runs == 2


def test_an_option_alone_is_certain(engine: MlxEngine) -> None:
    assert engine.complete(weighed("Hello", ["low"])).probabilities == {"team": {"low": 1.0}}


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({}, "must be a list"),
        ([{"name": "team"}], "needs name, after, options and end"),
        ([{"name": "t", "after": "a", "options": [1], "end": "b"}], "must be texts"),
        ([{"name": "t", "after": "a", "options": ["x", "x"], "end": "b"}], "different texts"),
        ([{"name": "t", "after": "a", "options": [], "end": "b"}], "different texts"),
    ],
)
def test_broken_choices_are_refused(entries: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_choices(entries)


def test_probabilities_that_are_required_need_options(engine: MlxEngine) -> None:
    form = {"type": "json_schema", "name": "answer", "schema": {GRAMMAR_KEY: 'start: "x"'}}

    with pytest.raises(lm15.UnsupportedFeatureError, match="probabilities without"):
        engine.complete(ask("Hello", response_format=form, probabilities="required"))


def test_paths_hold_as_much_of_the_end_as_tells_options_apart() -> None:
    choice = Choice("team", AFTER, ("a", "ab", "a\n"), "\n\n[")

    assert token_paths(Letters(), b"", choice) == {
        "a": tuple(b"a\n\n["),
        "ab": tuple(b"ab\n"),
        "a\n": tuple(b"a\n\n\n"),
    }
    assert token_paths(Letters("b\n"), b": ", Choice("t", ":", ("b", "bc"), "\n")) == {
        "b": (*b": ", 256),
        "bc": tuple(b": bc\n"),
    }


@given(
    st.lists(st.text("ab\n", min_size=1, max_size=5), min_size=2, max_size=6, unique=True),
    st.sampled_from([(), ("ab",), ("a\n", "ba"), ("\n\n", "bb")]),
)
def test_no_path_begins_another_and_rows_cover_all_paths(
    options: list[str], pairs: tuple[str, ...]
) -> None:
    paths = token_paths(Letters(*pairs), b"", Choice("t", ":", tuple(options), "\n\n[["))
    question = Question("t", 0, paths)
    values, rows = [*paths.values()], question.rows

    assert not any(p != o and o[: len(p)] == p for p in values for o in values)
    assert not any(r != o and o[: len(r)] == r for r in rows for o in rows)
    whole = [path for path in values for _ in path]
    for path, (row, place, token) in zip(whole, question.steps(), strict=True):
        assert rows[row][:place] == path[:place]
        assert path[place] == token


def test_weights_by_hand() -> None:
    question = Question("t", 0, {"x": (1, 9), "y": (2, 9), "z": (2, 3, 9)})
    shares = [0.5, 0.5, 0.25, 0.5, 0.25, 0.5, 1.0]
    found = question.weights([math.log(share) for share in shares])

    assert question.rows == [(1,), (2, 3)]
    assert question.steps() == [
        *[(0, 0, 1), (0, 1, 9)],
        *[(1, 0, 2), (1, 1, 9)],
        *[(1, 0, 2), (1, 1, 3), (1, 2, 9)],
    ]
    assert found == pytest.approx({"x": 0.5, "y": 0.25, "z": 0.25})


def test_a_choice_is_found_in_what_the_grammar_forces_and_not_in_what_the_model_says() -> None:
    weigher = Weigher([Choice("team", "team:", ("at", "as"), "\n")], Letters(), {})
    weigher.go_on([*b"my team:"], forced=0, coming=b"")

    assert weigher.question is None

    weigher.go_on([*b" x\nte", *b"am"], forced=2, coming=b":")

    assert weigher.question == Question("team", 15, {"at": (*b":at\n",), "as": (*b":as\n",)})


def test_what_options_have_in_common_and_is_forced_is_not_read_again() -> None:
    weigher = Weigher([Choice("team", "team:", ("at", "as"), "\n")], Letters(), {})
    weigher.go_on([*b"team:a"], forced=6, coming=b"")

    assert weigher.question == Question("team", 6, {"at": (*b"t\n",), "as": (*b"s\n",)})


def test_a_walk_that_is_taken_up_again_weighs_what_is_left() -> None:
    choices = [Choice(name, f"{name}:", ("at", "as"), "\n") for name in ("one", "two")]
    weigher = Weigher(choices, Letters(), {"one": {"at": 0.5, "as": 0.5}})
    answer = [*b"one:at\ntwo:"]
    weigher.go_on(answer, forced=len(answer), coming=b"")

    assert replace(weigher.question or Question("", 0, {}), paths={}) == Question("two", 11, {})
