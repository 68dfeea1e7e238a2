from __future__ import annotations

import pytest

from dspy_toolkit.programs.ensemble import surest, vote
from dspy_toolkit.programs.served import ProgramAnswer


def answer(team: str, chance: float | None = None) -> ProgramAnswer:
    chances = {} if chance is None else {"team": {team: chance, "rest": 1 - chance}}
    return ProgramAnswer({"team": team}, chances)


@pytest.mark.parametrize(
    ("teams", "winner", "share"),
    [
        (["a", "b", "b"], "b", 2 / 3),
        (["a", "b"], "a", 1 / 2),
        (["c", "a", "b"], "c", 1 / 3),
        (["a"], "a", 1.0),
    ],
)
def test_most_votes_win_and_the_earliest_of_equals(
    teams: list[str], winner: str, share: float
) -> None:
    outputs, shares = vote([answer(team) for team in teams])

    assert outputs == {"team": winner}
    assert shares["team"][winner] == pytest.approx(share)
    assert sum(shares["team"].values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("answers", "winner"),
    [
        ([answer("a", 0.6), answer("b", 0.9)], "b"),
        ([answer("a", 0.9), answer("b", 0.9)], "a"),
        ([answer("a"), answer("b", 0.51)], "b"),
        ([answer("a"), answer("b")], "a"),
    ],
)
def test_the_surest_wins_and_the_first_where_nobody_is_surer(
    answers: list[ProgramAnswer], winner: str
) -> None:
    outputs, chances = surest(answers)

    assert outputs == {"team": winner}
    assert ("team" in chances) == any(each.probabilities for each in answers)
