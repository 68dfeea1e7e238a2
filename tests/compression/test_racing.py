from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.compression.pareto_plot import pareto_plot
from dspy_toolkit.compression.points import Point, dominates, front
from dspy_toolkit.compression.racing import Track, behind, race

scores = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=32, max_size=32)
fields = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=2), scores, max_size=6)
TRACK = Track(tuple(range(32)), 8, -0.02)


@given(scores, fields)
def test_the_first_that_is_good_enough_on_everything_is_kept(
    original: list[float], field: dict[str, list[float]]
) -> None:
    finishes = race(
        list(field), original, TRACK, lambda name, block: [field[name][i] for i in block]
    )
    states = [finish.state for finish in finishes]

    assert states.count("kept") <= 1
    for finish in finishes:
        if finish.state == "kept":
            assert sum(finish.scores) - sum(original) >= 32 * -0.02 - 1e-6
            assert len(finish.scores) == 32
    if "kept" in states:
        after = states[states.index("kept") + 1 :]
        assert set(after) <= {"not needed"}
        assert "not needed" not in states[: states.index("kept")]
    else:
        assert "not needed" not in states


@given(scores, fields)
def test_nobody_is_scored_twice_on_an_example(
    original: list[float], field: dict[str, list[float]]
) -> None:
    seen: list[tuple[str, int]] = []

    def score(name: str, block: Sequence[int]) -> list[float]:
        seen.extend((name, i) for i in block)
        return [field[name][i] for i in block]

    race(list(field), original, TRACK, score)

    assert len(seen) == len(set(seen))


@given(scores, fields, st.integers(0, 4))
def test_an_interrupted_race_ends_as_one_in_one_go(
    original: list[float], field: dict[str, list[float]], blocks: int
) -> None:
    def score(name: str, block: Sequence[int]) -> list[float]:
        return [field[name][i] for i in block]

    whole = race(list(field), original, TRACK, score)
    known = {each.name: each.scores[: 8 * blocks] for each in whole}

    assert race(list(field), original, TRACK, score, known) == whole


def test_a_hopeless_one_costs_few_examples() -> None:
    asked: list[int] = []

    def score(name: str, block: Sequence[int]) -> list[float]:
        asked.extend(block)
        return [0.0] * len(block)

    (finish,) = race(["bad"], [1.0] * 32, TRACK, score)

    assert finish.state == "dropped"
    assert len(asked) == 8
    assert finish.reason == "falls behind: -100.0 points on 8 examples"


def test_a_close_one_is_not_behind() -> None:
    assert not behind([1.0] * 20 + [0.0] * 4, [1.0] * 19 + [0.0] * 5, -0.02)
    assert behind([1.0] * 24, [1.0] * 12 + [0.0] * 12, -0.02)


def point(name: str, score: float | None, size: int, memory: int = 1) -> Point:
    return Point(name, "", None, size, memory, 1, score=score, examples=4)


def test_the_front_by_hand() -> None:
    points = [
        point("big", 0.9, 9),
        point("small", 0.8, 3),
        point("worse", 0.7, 5),
        point("same size, worse", 0.7, 3),
        point("tiny", 0.2, 1),
        point("unknown", None, 1),
    ]

    assert [each.name for each in front(points)] == ["big", "small", "tiny"]


def test_latency_counts_where_both_were_measured() -> None:
    quick = replace(point("quick", 0.8, 5), latency_p50_s=0.1)
    small = replace(point("small", 0.8, 4), latency_p50_s=0.2)

    assert not dominates(small, quick)
    assert dominates(replace(small, latency_p50_s=None), quick)


points = st.builds(
    point, st.text("xyz", min_size=1), st.floats(0, 1), st.integers(1, 5), st.integers(1, 3)
)


@given(st.lists(points, min_size=1))
def test_whatever_is_not_on_the_front_is_dominated_by_one_that_is(field: list[Point]) -> None:
    best = front(field)

    assert best
    assert not any(dominates(a, b) for a in best for b in best)
    for each in field:
        assert each in best or any(dominates(one, each) for one in best)


def test_the_plot_names_every_scored_point_and_marks_the_chosen_one() -> None:
    drawn = pareto_plot("a <title>", [point("one", 0.9, 9), point("two", 0.8, 3)], "two")

    assert drawn.count('class="candidate"') == 2
    assert drawn.count('r="8"') == 1
    assert "a &lt;title&gt;" in drawn
