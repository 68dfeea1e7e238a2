from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.config import Settings
from dspy_toolkit.engine import EngineOptions, open_engine
from dspy_toolkit.engine.lookup import Lookup, Worth
from tests.conformance.engine_contract import ask
from tests.engine.test_generation import prompts
from tests.engine.test_grammar import TRIAGE, held
from tests.engine.test_weighing import said, weighed

if TYPE_CHECKING:
    from dspy_toolkit.engine.mlx_engine import MlxEngine


def rested(most: int = 8) -> Lookup:
    """A lookup that has seen a row begin, long ago."""
    lookup = Lookup(most)
    lookup._until = 0
    return lookup


@pytest.mark.parametrize(
    ("tokens", "room", "guess"),
    [
        ([1, 2, 3, 4, 5, 1, 2, 3], 8, [4, 5, 1, 2]),
        ([1, 2, 3, 4, 5, 1, 2, 3], 2, [4, 5]),
        ([1, 2, 3, 4, 1, 2, 3, 9, 1, 2, 3], 8, [9, 1, 2, 3]),
        ([7, 7, 7, 7], 8, [7]),
        ([1, 2, 3, 4, 5, 2, 3], 8, []),
        ([1, 2, 3], 8, []),
        ([1, 2, 3, 4, 1, 2, 3], 0, []),
    ],
)
def test_a_guess_is_what_followed_the_same_three_tokens_last(
    tokens: list[int], room: int, guess: list[int]
) -> None:
    assert rested().guess(tokens, room) == guess


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 8), st.integers(0, 9))
def test_guesses_do_not_depend_on_when_tokens_came(tokens: list[int], most: int, room: int) -> None:
    growing, whole = rested(most), rested(most)
    found = [growing.guess(tokens[:end], room) for end in range(len(tokens) + 1)][-1]

    assert found == whole.guess(tokens, room)
    assert len(found) <= min(most, room)
    if found:
        assert found[0] in tokens


def test_a_row_guesses_nothing_before_it_has_said_a_few_tokens() -> None:
    lookup, prompt = Lookup(8), [1, 2, 3, 4, 5] * 4
    found = [lookup.guess([*prompt, *([1, 2, 3, 4, 5] * 4)[:said]], 1) for said in range(12)]

    assert found == [[]] * 8 + [[4], [5], [1], [2]]


def test_wrong_guesses_make_a_row_pause_longer_and_longer_and_right_ones_guess_further() -> None:
    lookup, tokens = rested(), [1, 2, 3, 4, 5] * 8
    lookup.learn(4, 4)
    further = len(lookup.guess(tokens, 99))
    pauses = []
    for _ in range(3):
        lookup.learn(4, 0)
        begin = len(tokens)
        while not lookup.guess(tokens, 99):
            tokens.append(tokens[-5])
        pauses.append(len(tokens) - begin)
    lookup.learn(1, 1)
    lookup.learn(4, 0)
    begin = len(tokens)
    while not lookup.guess(tokens, 99):
        tokens.append(tokens[-5])

    assert further == 5
    assert pauses == [8, 16, 32]
    assert len(tokens) - begin == 8


@pytest.mark.parametrize(
    ("wide_s", "right", "goes_on"),
    [(0.011, 3, True), (0.011, 0, False), (0.080, 3, False), (0.039, 3, True)],
)
def test_guessing_goes_on_where_it_brings_more_tokens_a_second(
    wide_s: float, right: int, goes_on: bool
) -> None:
    worth = Worth()
    for _ in range(10):
        worth.learn(2, tokens=2, seconds=0.010, guessed=False)
    for _ in range(8):
        worth.learn(2, tokens=2 * (1 + right), seconds=wide_s, guessed=True)

    assert worth.allows(2) is goes_on
    assert worth.allows(3)


def test_what_did_not_pay_is_tried_again_after_a_while() -> None:
    worth = Worth()
    worth.learn(1, tokens=1, seconds=0.01, guessed=False)
    for _ in range(8):
        worth.learn(1, tokens=1, seconds=0.02, guessed=True)

    assert [worth.allows(1) for _ in range(257)] == [False] * 256 + [True]


@pytest.fixture(scope="module")
def plain(model_folder: Path, settings: Settings) -> Iterator[MlxEngine]:
    engine = open_engine(str(model_folder), EngineOptions(guesses=0), settings)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def guessing(model_folder: Path, settings: Settings) -> Iterator[MlxEngine]:
    engine = open_engine(str(model_folder), EngineOptions(guesses=8), settings)
    yield engine
    engine.close()


def test_guessing_changes_no_answer_and_saves_runs(plain: MlxEngine, guessing: MlxEngine) -> None:
    texts = prompts(5)
    few = texts[:2]
    requests = [
        *[ask(text, max_tokens=90) for text in texts],
        *[ask(text, max_tokens=40, temperature=0.7, seed=n) for n, text in enumerate(few)],
        *[ask(text, max_tokens=40, logprobs=1, frequency_penalty=0.3) for text in few],
        *[held(text, TRIAGE) for text in few],
    ]
    began = [plain.stats(), guessing.stats()]
    expected = [plain.complete(request) for request in requests]
    alone = [guessing.complete(request) for request in requests]
    ended = [plain.stats(), guessing.stats()]
    random.Random(1).shuffle(requests)
    shuffled = [plain.complete(request).text for request in requests]
    with ThreadPoolExecutor(6) as threads:
        together = [response.text for response in threads.map(guessing.complete, requests)]
    runs = [after.runs - before.runs for before, after in zip(began, ended, strict=True)]

    assert [r.text for r in alone] == [r.text for r in expected]
    assert [r.usage.output_tokens for r in alone] == [r.usage.output_tokens for r in expected]
    assert together == shuffled
    assert ended[1].right > 0
    assert ended[1].guessed >= ended[1].right
    assert ended[0].guessed == 0
    assert runs[1] < runs[0]


def test_options_are_weighed_alike_beside_rows_that_guess(
    plain: MlxEngine, guessing: MlxEngine
) -> None:
    options = ["atlas", "atl", "order"]
    asked = [weighed(text, options) for text in prompts(4)]
    talk = [ask(text, max_tokens=80) for text in prompts(3)]
    expected = [plain.complete(request) for request in asked]
    with ThreadPoolExecutor(7) as threads:
        talking = [threads.submit(guessing.complete, request) for request in talk]
        found = list(threads.map(guessing.complete, asked))
    for each in talking:
        each.result()

    for one, other in zip(expected, found, strict=True):
        assert said(other) == said(one)
        assert other.probabilities is not None
        assert other.probabilities["team"] == pytest.approx(
            (one.probabilities or {})["team"], rel=1e-3
        )
