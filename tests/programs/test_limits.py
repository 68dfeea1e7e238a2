from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.errors import InvalidInput, ToolkitError
from dspy_toolkit.programs.calls import Calls, CallTally, Stopped, counted
from dspy_toolkit.programs.journal import FILE, CallJournal
from dspy_toolkit.programs.limits import (
    Budget,
    BudgetSpent,
    Cost,
    FailureLimit,
    Ledger,
    Price,
    read_budget,
)
from tests.programs.seed_echo import echo_lm
from tests.programs.tasks import scripted_lm


def go_on() -> None:
    """Nobody has stopped."""


def ledger(budget: Budget, spent: Cost | None = None, elapsed_s: float = 0.0) -> Ledger:
    return Ledger(budget, spent or Cost(), lambda: elapsed_s)


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=30))
def test_no_order_of_calls_crosses_a_limit(limit: int, calls: list[tuple[int, int]]) -> None:
    """Each call costs at worst what it really costs, and something on top."""
    book = ledger(Budget(calls=limit, tokens=5 * limit))
    for tokens, more in calls:
        worst, real = Cost(calls=1, tokens=tokens + more), Cost(calls=1, tokens=tokens)
        try:
            book.admit(worst, go_on)
        except BudgetSpent:
            continue
        book.settle(worst, real)

    assert book.spent.calls <= limit
    assert book.spent.tokens <= 5 * limit


def test_threads_make_exactly_the_calls_allowed(tmp_path: Path) -> None:
    lm = scripted_lm(lambda request: "yes")

    def ask(number: int) -> bool:
        with counted(tally):
            try:
                lm(f"question {number}")
            except Stopped:
                return False
            return True

    with closing(CallJournal(tmp_path / FILE)) as journal, ThreadPoolExecutor(8) as pool:
        tally = CallTally("run", journal, ledger(Budget(calls=20)))
        answered = sum(pool.map(ask, range(60)))

    assert (answered, len(lm.engine.requests)) == (20, 20)
    assert tally.calls == Calls(20, 0)


def test_a_call_waits_until_what_others_cost_is_known() -> None:
    book = ledger(Budget(tokens=100))
    book.admit(Cost(calls=1, tokens=80), go_on)
    entered = threading.Event()

    def second() -> None:
        book.admit(Cost(calls=1, tokens=80), entered.set)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(second)
        book.settle(Cost(calls=1, tokens=80), Cost(calls=1, tokens=10))
        waiting.result()

    assert book.spent.tokens == 10


def test_a_waiting_call_ends_when_everything_is_stopped() -> None:
    tally = CallTally("run", None, ledger(Budget(tokens=100)))
    tally.begin(Cost(calls=1, tokens=80))
    tally.stop(ToolkitError("enough"))

    with pytest.raises(Stopped, match="enough"):
        tally.begin(Cost(calls=1, tokens=80))


@pytest.mark.parametrize(
    ("budget", "spent", "elapsed_s", "message"),
    [
        (Budget(calls=5), Cost(calls=5), 0, "budget of 5 calls is spent; .* --max-calls MORE"),
        (Budget(tokens=50), Cost(calls=1, tokens=45), 0, "budget of 50 tokens"),
        (Budget(minutes=2), Cost(), 121, "budget of 2 minutes"),
        (Budget(money=1.5), Cost(money=1.45), 0, "budget of 1.5 of money"),
    ],
)
def test_what_is_spent_is_named(
    budget: Budget, spent: Cost, elapsed_s: float, message: str
) -> None:
    book = ledger(budget, spent, elapsed_s)

    with pytest.raises(BudgetSpent, match=message):
        book.admit(Cost(calls=1, tokens=10, money=0.1), go_on)


def test_what_is_kept_back_is_there_at_the_end() -> None:
    book = ledger(Budget(calls=5))
    book.keep_back(Cost(calls=3))
    for _ in range(2):
        book.admit(Cost(calls=1), go_on)
        book.settle(Cost(calls=1), Cost(calls=1))

    with pytest.raises(BudgetSpent):
        book.admit(Cost(calls=1), go_on)
    book.release()
    for _ in range(3):
        book.admit(Cost(calls=1), go_on)
        book.settle(Cost(calls=1), Cost(calls=1))
    assert book.spent.calls == 5


def test_a_repeated_call_costs_nothing(tmp_path: Path) -> None:
    lm = echo_lm()
    with closing(CallJournal(tmp_path / FILE)) as journal:
        book = ledger(Budget(calls=1))
        with counted(CallTally("run", journal, book)) as tally:
            lm("a")
            lm("a")

    assert (book.spent.calls, book.spent.tokens, tally.asked.tokens) == (1, 5, 10)


def test_money_is_tokens_at_the_price_of_the_model(tmp_path: Path) -> None:
    budget = Budget(money=1.0, prices={"mlx/echo#1": Price(1.0, 100.0)})
    with closing(CallJournal(tmp_path / FILE)) as journal:
        book = ledger(budget)
        with counted(CallTally("run", journal, book)):
            echo_lm()("a")

    # Three tokens in and two out, by the million.
    assert book.spent.money == pytest.approx(203e-6)


def test_a_model_elsewhere_needs_a_price_where_money_is_limited() -> None:
    Budget(money=1.0).check_price(("embedded", "mlx/embedded#1"))
    Budget(money=1.0, prices={"big": Price(1, 2)}).check_price(("big", "openai/big"))
    Budget(calls=5).check_price(("openai/big",))

    with pytest.raises(InvalidInput, match="needs the price of big; give --price 'big=INPUT"):
        Budget(money=1.0).check_price(("big", "openai/big"))


def test_a_budget_is_read_and_written() -> None:
    values = {"calls": 5, "minutes": 1.5, "prices": {"m": [0.5, 2]}}
    budget = read_budget(values, "task.toml:3 [budget]")

    assert budget == Budget(calls=5, minutes=1.5, prices={"m": Price(0.5, 2)})
    assert read_budget(budget.to_dict(), "x") == budget
    assert budget.extended(Budget(calls=9, tokens=7)) == Budget(
        9, 7, 1.5, prices={"m": Price(0.5, 2)}
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cals": 5}, "unknown key 'cals'; did you mean 'calls'"),
        ({"calls": 0}, "calls must be a whole number above 0, got 0"),
        ({"tokens": 1.5}, "tokens must be a whole number"),
        ({"money": True}, "money must be a number above 0"),
        ({"prices": {"m": [1]}}, r"price of m must be \[input, output\]"),
        ({"prices": 3}, "prices must be a table"),
    ],
)
def test_a_wrong_budget_is_named_by_its_place(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as raised:
        read_budget(values, "task.toml:3 [budget]")
    assert "task.toml:3 [budget]" in str(raised.value)


@pytest.mark.parametrize(
    ("share", "outcomes", "ends_at"),
    [
        (0.5, "x" * 30, 20),
        (0.5, "." * 20 + "x" * 50, 41),
        (0.5, "." * 200 + "x" * 50, 226),
        (0.5, ".x" * 40, None),
        (0.0, "." * 25 + "x", 26),
        (1.0, "x" * 60, None),
        (0.2, "....x" * 12, None),
        (0.2, "...x" * 12, 20),
    ],
)
def test_work_ends_when_more_than_a_share_of_the_last_calls_failed(
    share: float, outcomes: str, ends_at: int | None
) -> None:
    limit = FailureLimit(share)
    problems = [limit.add("ServerError: down" if each == "x" else None) for each in outcomes]
    found = next((n for n, problem in enumerate(problems, start=1) if problem), None)

    assert found == ends_at
    assert ends_at is None or "the last: ServerError: down" in str(problems[ends_at - 1])
