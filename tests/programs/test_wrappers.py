"""Programs that optimizers put around a program."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dspy
import pytest

from dspy_toolkit.programs.nearest import Nearest, Pool, Shown
from dspy_toolkit.programs.voting import Voting, elected
from tests.programs.tasks import chat, scripted_lm

TEXTS = ("the parcel is late", "the card was charged", "the account is locked")


def nearest(k: int = 1) -> Nearest:
    shown = [
        Shown({"text": text}, {"self": {"text": text, "team": f"team {number}"}})
        for number, text in enumerate(TEXTS)
    ]
    return Nearest(dspy.Predict("text -> team"), k, Pool(shown))


def copied(request: str) -> str:
    """Says what the last demonstration says."""
    return chat(team=re.findall(r"assistant: \[\[ ## team ## \]\]\n(team \d)", request)[-1])


def test_each_question_gets_the_demonstration_most_like_it() -> None:
    program = nearest()
    with dspy.context(lm=scripted_lm(copied)):
        teams = [program(text=f"{text}, please help").team for text in TEXTS]

    assert teams == ["team 0", "team 1", "team 2"]


def test_questions_asked_at_once_do_not_mix_their_demonstrations() -> None:
    program, lm = nearest(2), scripted_lm(copied)
    program.set_lm(lm)
    with ThreadPoolExecutor(8) as threads:
        teams = list(threads.map(lambda n: program(text=TEXTS[n % 3]).team, range(24)))

    assert teams == [f"team {n % 3}" for n in range(24)]
    assert program.predictors()[0].demos == []


def test_coroutines_get_them_too() -> None:
    program = nearest()
    program.set_lm(scripted_lm(copied))

    assert asyncio.run(program.acall(text="my card")).team == "team 1"


def test_a_pool_comes_back_from_the_saved_state(tmp_path: Path) -> None:
    program = nearest()
    program.save(tmp_path / "program.json")
    again = Nearest(dspy.Predict("text -> team"), 1)
    again.load(tmp_path / "program.json")

    assert again.pool.shown == program.pool.shown
    assert again.pool.nearest({"text": "card"}, 1) == program.pool.nearest({"text": "card"}, 1)


@pytest.mark.parametrize(
    ("teams", "winner"),
    [
        (["a", "b", "b"], "b"),
        (["a", "b", "c"], "a"),
        (["B ", "a", "b"], "B "),
        ([["x"], ["x"], "x"], ["x"]),
        ([1, 2, 2], 2),
    ],
)
def test_the_majority_wins_and_the_first_in_a_tie(teams: list[object], winner: object) -> None:
    assert elected([dspy.Prediction(team=team) for team in teams]).team == winner


def test_each_field_is_voted_on_by_itself() -> None:
    answers = [
        dspy.Prediction(team="a", urgent=True),
        dspy.Prediction(team="a", urgent=False),
        dspy.Prediction(team="b", urgent=False),
    ]

    assert elected(answers).toDict() == {"team": "a", "urgent": False}


def saying(answer: str) -> Callable[[str], str]:
    return lambda request: answer


def voting(*answers: str) -> Voting:
    programs = [dspy.Predict("text -> team") for _ in answers]
    for program, answer in zip(programs, answers, strict=True):
        program.set_lm(scripted_lm(saying(answer)))
    return Voting(programs)


def test_one_without_an_answer_has_no_vote() -> None:
    with dspy.context(adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        found = voting("nothing", chat(team="a"), chat(team="b"))(text="?")

    assert found.team == "a"


def test_where_none_answers_the_first_failure_is_told() -> None:
    program = voting("nothing", "nor this")
    with (
        dspy.context(adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)),
        pytest.raises(dspy.AdapterParseError, match="nothing"),
    ):
        program(text="?")
