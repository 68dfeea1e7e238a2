from __future__ import annotations

import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.compiler.plot import Point, score_plot

SVG = "{http://www.w3.org/2000/svg}"
shares = st.integers(0, 100).map(lambda percent: percent / 100)


def point(calls: int, score: float) -> Point:
    return Point(calls, score, (max(0.0, score - 0.1), min(1.0, score + 0.1)))


points = st.lists(st.builds(point, st.integers(0, 10**6), shares), min_size=1, max_size=30)


def drawn(*made: Point, title: str = "run") -> ElementTree.Element:
    return ElementTree.fromstring(score_plot(title, made))


def texts(plot: ElementTree.Element) -> list[str]:
    return [str(each.text) for each in plot.iter(f"{SVG}text")]


def test_every_candidate_is_a_dot_that_says_what_it_scored() -> None:
    plot = drawn(point(20, 0.5), point(40, 0.8))
    titles = [each.text for each in plot.iter(f"{SVG}title")]

    assert titles == ["candidate 1: 50.0 % after 20 calls", "candidate 2: 80.0 % after 40 calls"]


def test_a_higher_score_stands_higher_and_more_calls_further_right() -> None:
    first, second = drawn(point(20, 0.5), point(40, 0.8)).iter(f"{SVG}circle")

    assert float(second.attrib["cy"]) < float(first.attrib["cy"])
    assert float(second.attrib["cx"]) > float(first.attrib["cx"])


def test_the_line_keeps_the_best_so_far() -> None:
    plot = drawn(point(10, 0.5), point(20, 0.8), point(30, 0.6))
    (line,) = (each for each in plot.iter(f"{SVG}path") if each.get("class") == "best")
    heights = [float(found) for found in re.findall(r"V([\d.]+)", line.attrib["d"])]
    dots = [float(each.attrib["cy"]) for each in plot.iter(f"{SVG}circle")]

    assert heights == [dots[1], dots[1]]


def test_the_axes_are_marked_in_round_numbers() -> None:
    plot = drawn(point(100, 0.45), point(480, 0.62))

    assert {"0", "100", "200", "300", "400"} <= set(texts(plot))
    assert {"30 %", "40 %", "80 %"} <= set(texts(plot))


def test_a_title_is_text_whatever_it_holds() -> None:
    assert "<b> & co" in texts(drawn(point(1, 1.0), title="<b> & co"))


@given(points)
def test_every_dot_lies_inside_the_picture(made: list[Point]) -> None:
    plot = drawn(*made)

    assert len(list(plot.iter(f"{SVG}circle"))) == len(made)
    for dot in plot.iter(f"{SVG}circle"):
        assert 64 <= float(dot.attrib["cx"]) <= 616
        assert 40 <= float(dot.attrib["cy"]) <= 312
