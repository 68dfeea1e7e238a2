"""Limits of what a piece of work may spend on model calls, and of how many of them may fail."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from dspy_toolkit.errors import EngineError, InvalidInput, ToolkitError, reject_unknown_keys

MAX_FAILURES = 0.5
_WINDOW, _LEAST = 50, 20
_LOCAL = "mlx/"
_UNITS = {"calls": "calls", "tokens": "tokens", "minutes": "minutes", "money": "of money"}


class BudgetSpent(ToolkitError):
    """A budget does not allow another call.

    Attributes:
        limit: "calls", "tokens", "minutes" or "money".
        allowed: how much of it.
    """

    def __init__(self, limit: str, allowed: float) -> None:
        super().__init__(
            f"the budget of {allowed:g} {_UNITS[limit]} is spent; "
            f"go on with `--resume RUN --max-{limit} MORE`"
        )
        self.limit = limit
        self.allowed = allowed


class TooManyFailures(EngineError):
    """More calls failed than the work puts up with."""


@dataclass(frozen=True)
class Price:
    """What a model costs, in any currency, a million tokens."""

    input: float
    output: float

    def of(self, input_tokens: int, output_tokens: int) -> float:
        """The price of so many tokens."""
        return (self.input * input_tokens + self.output * output_tokens) / 1e6


@dataclass(frozen=True)
class Cost:
    """What was spent, or is to be: calls of models, tokens in and out, money, time on the clock."""

    calls: float = 0
    tokens: float = 0
    money: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.calls + other.calls,
            self.tokens + other.tokens,
            self.money + other.money,
            self.seconds + other.seconds,
        )

    def __sub__(self, other: Cost) -> Cost:
        return self + other.times(-1)

    def of(self, limit: str) -> float:
        """What of a limit it takes, see `BudgetSpent`."""
        return self.seconds / 60 if limit == "minutes" else float(getattr(self, limit))

    def times(self, factor: float) -> Cost:
        """The cost of as much `factor` times."""
        return Cost(**{key: factor * value for key, value in vars(self).items()})

    def at_least(self, other: Cost) -> Cost:
        """The larger of each."""
        return Cost(**{key: max(value, getattr(other, key)) for key, value in vars(self).items()})


@dataclass(frozen=True)
class Budget:
    """The most that may be spent; None is no limit.

    Attributes:
        calls: of models, those answered from a cache left out, failed ones included.
        tokens: read and written, together.
        minutes: on the clock, over all processes that worked on it.
        money: at `prices`; models on this machine cost nothing.
        prices: by model, as the user or DSPy names it.
    """

    calls: int | None = None
    tokens: int | None = None
    minutes: float | None = None
    money: float | None = None
    prices: Mapping[str, Price] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("calls", "tokens", "minutes", "money"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidInput(f"budget {name} must be above 0, got {value:g}")

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return any(value is not None for value in self._limits().values())

    def extended(self, other: Budget) -> Budget:
        """This budget with the limits and prices that `other` sets."""
        return Budget(
            **{key: value for key, value in (self._limits() | other._given()).items()},
            prices={**self.prices, **other.prices},
        )

    def exceeded(self, cost: Cost) -> BudgetSpent | None:
        """The first limit that a cost goes beyond, if any."""
        for name, allowed in self._limits().items():
            # Sums of prices are no exact numbers.
            if allowed is not None and cost.of(name) > allowed * (1 + 1e-9):
                return BudgetSpent(name, allowed)
        return None

    def money_of(self, models: tuple[str, ...], input_tokens: int, output_tokens: int) -> float:
        """What a call costs, of the model with these names; nothing where it has no price."""
        price = next((self.prices[name] for name in models if name in self.prices), None)
        return 0.0 if price is None else price.of(input_tokens, output_tokens)

    def check_price(self, models: tuple[str, ...]) -> None:
        """Refuse a budget of money that cannot be kept.

        Raises:
            InvalidInput: a model elsewhere has no price.
        """
        known = any(name in self.prices for name in models)
        if self.money is not None and not known and not models[-1].startswith(_LOCAL):
            raise InvalidInput(
                f"a budget of money needs the price of {models[0]}; "
                f"give --price '{models[0]}=INPUT/OUTPUT', each for a million tokens"
            )

    def to_dict(self) -> dict[str, Any]:
        """The budget as JSON values, see `read_budget`."""
        prices = {name: [price.input, price.output] for name, price in self.prices.items()}
        return {**self._given(), **({"prices": prices} if prices else {})}

    def _limits(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)[:4]}

    def _given(self) -> dict[str, Any]:
        return {key: value for key, value in self._limits().items() if value is not None}


def read_budget(values: Mapping[str, Any], where: str) -> Budget:
    """A budget from a file: its limits, and `prices` as `model = [input, output]`.

    Raises:
        InvalidInput: a key or value does not fit.
    """
    reject_unknown_keys(values, [each.name for each in fields(Budget)], where)
    limits: dict[str, Any] = {
        key: _number(value, key, where) for key, value in values.items() if key != "prices"
    }
    prices = values.get("prices", {})
    if not isinstance(prices, Mapping):
        raise InvalidInput(f"{where}: prices must be a table of model = [input, output]")
    found = {name: _price(pair, name, where) for name, pair in prices.items()}
    return Budget(**limits, prices=found)


class Ledger:
    """What one piece of work has spent, and whether it may spend more. Threads share it.

    A call is let in only if the budget would hold at its worst: while others are going on, it
    waits until what they really cost is known. So no limit of calls, tokens or money is ever
    crossed, and time is by the length of one call at most.

    Args:
        budget: what may be spent.
        spent: what was, by earlier processes.
        elapsed_s: time worked so far, earlier processes included.
    """

    def __init__(self, budget: Budget, spent: Cost, elapsed_s: Callable[[], float]) -> None:
        self.budget = budget
        self._elapsed_s = elapsed_s
        self._changed = threading.Condition()
        self._spent = spent
        self._reserved = Cost()
        self._kept_back = Cost()
        self._largest = Cost()

    @property
    def spent(self) -> Cost:
        """What was spent so far."""
        return self._spent + Cost(seconds=self._elapsed_s())

    def admit(self, worst: Cost, check: Callable[[], None]) -> None:
        """Let a call in, at what it may cost at worst; `settle` takes it out again.

        Args:
            worst: no less than what the call will cost.
            check: raises when there is no point in waiting any more.

        Raises:
            BudgetSpent: the budget does not allow it.
        """
        with self._changed:
            self._largest = self._largest.at_least(worst)
            while (spent := self._exceeded(worst)) is not None:
                if self._reserved.calls == 0 or spent.limit == "minutes":
                    raise spent
                self._changed.wait(1.0)
                check()
            self._reserved += worst

    def settle(self, worst: Cost, cost: Cost) -> None:
        """End a call that was let in."""
        with self._changed:
            self._reserved -= worst
            self._spent += cost
            self._changed.notify_all()

    def keep_back(self, cost: Cost) -> None:
        """Leave so much for what comes last; more if it was told more before."""
        with self._changed:
            self._kept_back = self._kept_back.at_least(cost)

    def release(self) -> None:
        """Allow what was kept back."""
        with self._changed:
            self._kept_back = Cost()

    def _exceeded(self, worst: Cost) -> BudgetSpent | None:
        kept = self._kept_back
        if kept.calls:
            # What comes last must fit at its worst as well, call by call.
            kept += Cost(tokens=self._largest.tokens, money=self._largest.money)
        return self.budget.exceeded(self.spent + self._reserved + worst + kept)


class FailureLimit:
    """Ends work whose model does not answer: a share of the last calls that may fail.

    Args:
        share: in [0, 1]; at 1 nothing ends the work.
    """

    def __init__(self, share: float = MAX_FAILURES) -> None:
        if not 0.0 <= share <= 1.0:
            raise InvalidInput(f"max_failures must lie between 0 and 1, got {share:g}")
        self._share = share
        self._lock = threading.Lock()
        self._last: deque[bool] = deque(maxlen=_WINDOW)

    def add(self, error: str | None) -> TooManyFailures | None:
        """Note how a call ended; returns why the work should end, if it should."""
        with self._lock:
            self._last.append(error is not None)
            failed, of = sum(self._last), len(self._last)
        if error is None or of < _LEAST or failed <= self._share * of:
            return None
        return TooManyFailures(
            f"{failed} of the last {of} model calls failed, more than {100 * self._share:g} %; "
            f"the last: {error}; mend it and resume, or allow more with --max-failures"
        )


def _number(value: Any, name: str, where: str) -> float | int:
    whole = name in ("calls", "tokens")
    fits = isinstance(value, int) or (isinstance(value, float) and not whole)
    if not fits or isinstance(value, bool) or not value > 0:
        kind = "whole number" if whole else "number"
        raise InvalidInput(f"{where}: {name} must be a {kind} above 0, got {value!r}")
    number: float | int = value
    return number


def _price(pair: Any, name: str, where: str) -> Price:
    numbers = isinstance(pair, list) and all(isinstance(each, int | float) for each in pair)
    if not numbers or len(pair) != 2 or not all(each >= 0 for each in pair):
        raise InvalidInput(f"{where}: price of {name} must be [input, output], got {pair!r}")
    return Price(*pair)
