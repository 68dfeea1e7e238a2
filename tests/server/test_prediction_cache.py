from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.programs.served import ProgramAnswer
from dspy_toolkit.server import PredictionCache


class Clock:
    """Time by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_answer_is_given_again_until_its_time_is_over() -> None:
    clock = Clock()
    cache = PredictionCache(10, 10_000, clock)
    cache.put("a", ProgramAnswer({"x": 1}))
    clock.now = 9.9
    before = cache.get("a")
    clock.now = 10.0

    assert before == ProgramAnswer({"x": 1})
    assert cache.get("a") is None
    assert cache.bytes == 0


def test_another_version_never_gets_the_answer() -> None:
    keys = {PredictionCache.key("p", version, {"x": 1}) for version in ("1", "2")}

    assert len(keys) == 2
    assert PredictionCache.key("p", "1", {"a": 1, "b": 2}) == PredictionCache.key(
        "p", "1", {"b": 2, "a": 1}
    )


def test_what_was_used_longest_ago_makes_room() -> None:
    cache = PredictionCache(10, 2500)
    for name in "abc":
        cache.put(name, ProgramAnswer({"x": name}))
    cache.get("a")
    cache.put("d", ProgramAnswer({"x": "d"}))

    assert [name for name in "abcd" if cache.get(name)] == ["a", "c", "d"]


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 2000)), max_size=60))
def test_the_limit_holds_and_the_count_is_that_of_what_is_kept(
    puts: list[tuple[str, int]],
) -> None:
    cache = PredictionCache(10, 4000)
    sizes: dict[str, int] = {}
    for name, size in puts:
        answer = ProgramAnswer({"x": "y" * size})
        cache.put(name, answer)
        sizes[name] = 700 + len(json.dumps(answer.outputs))

        assert cache.bytes <= 4000

    kept = [name for name in sizes if cache.get(name) is not None]

    assert len(cache) == len(kept)


@pytest.mark.parametrize(("ttl_s", "limit"), [(0, 10), (-1, 10), (1, 0)])
def test_a_cache_without_time_or_room_is_refused(ttl_s: float, limit: int) -> None:
    with pytest.raises(InvalidInput, match="--no-cache"):
        PredictionCache(ttl_s, limit)
