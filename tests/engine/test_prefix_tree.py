from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dspy_toolkit.engine.prefix_tree import (
    Hold,
    Match,
    Part,
    PrefixTree,
    common_length,
    worth_holding,
)

Stretch = tuple[int, ...]
# Few different tokens, so that sequences share and part often.
sequences = st.lists(st.integers(0, 2), min_size=1, max_size=12)


def tree(budget: int) -> PrefixTree[Stretch]:
    """A tree whose payload of a stretch is the stretch, at one byte a token."""
    return PrefixTree(budget, cost=len, split=lambda stretch, at: (stretch[:at], stretch[at:]))


def store(target: PrefixTree[Stretch], tokens: Sequence[int]) -> None:
    target.insert(tokens, lambda begin: tuple(tokens[begin:]))


def found(target: PrefixTree[Stretch], tokens: Sequence[int]) -> list[int]:
    match = target.match(tokens)
    held = [token for part in match.parts for token in part.payload[: part.used]]
    assert len(held) == match.length
    return held


class Storing(RuleBasedStateMachine):
    """Stores and looks up at random; what ought to be there is kept as plain prefixes."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = tree(20)
        self.holds: list[tuple[list[int], Hold[Stretch]]] = []

    @rule(tokens=sequences)
    def put(self, tokens: list[int]) -> None:
        before = self.contents()
        store(self.tree, tokens)
        after = self.contents()

        assert after <= before | prefixes(tokens)

    @rule(tokens=sequences)
    def look(self, tokens: list[int]) -> None:
        contents = self.contents()
        longest = max((p for p in prefixes(tokens) if p in contents), key=len, default=())

        assert tuple(found(self.tree, tokens)) == longest
        assert self.contents() == contents

    @rule(tokens=sequences)
    def put_and_look(self, tokens: list[int]) -> None:
        store(self.tree, tokens)
        there = found(self.tree, tokens)

        assert there == tokens[: len(there)]
        assert there == tokens or self.holds

    @rule(tokens=sequences)
    def hold(self, tokens: list[int]) -> None:
        there = found(self.tree, tokens)
        self.holds.append((there, self.tree.hold(tokens)))

        assert self.holds[-1][1].length == len(there)

    @precondition(lambda self: self.holds)
    @rule(chance=st.randoms(use_true_random=False))
    def let_go(self, chance: random.Random) -> None:
        _, hold = self.holds.pop(chance.randrange(len(self.holds)))
        hold.release()
        hold.release()

        assert hold.parts == ()

    @invariant()
    def what_is_held_stays_stored_and_is_what_it_was(self) -> None:
        contents = self.contents()
        for tokens, hold in self.holds:
            there = [token for part in hold.parts for token in part.payload[: part.used]]

            assert there == tokens
            assert prefixes(tokens) <= contents

    @invariant()
    def only_holders_are_remembered(self) -> None:
        remembered = {hold for node in self.tree._order for hold in node.holds}

        assert remembered == {hold for tokens, hold in self.holds if tokens}

    @invariant()
    def budget_is_kept_and_counted_right(self) -> None:
        assert self.tree.stored_bytes == len(self.contents()) <= 20

    @invariant()
    def nothing_stored_is_out_of_reach(self) -> None:
        assert len(self.tree) == len(list(self.nodes()))

    def nodes(self) -> list[tuple[Stretch, Stretch]]:
        """(what leads to a node, what it holds), of every node that can be reached."""
        open_: list[tuple[Stretch, Any]] = [((), node) for node in self.tree._top.values()]
        reached: list[tuple[Stretch, Stretch]] = []
        while open_:
            lead, node = open_.pop()
            assert tuple(node.tokens) == node.payload
            reached.append((lead, node.payload))
            open_ += [((*lead, *node.payload), child) for child in node.children.values()]
        return reached

    def contents(self) -> set[Stretch]:
        """Every stored prefix; one token each is what it adds to its parent."""
        return {
            (*lead, *stretch[: n + 1])
            for lead, stretch in self.nodes()
            for n in range(len(stretch))
        }


def test_who_holds_a_stretch_that_is_cut_holds_both_halves() -> None:
    roomy = tree(100)
    store(roomy, [1, 2, 3, 4, 5, 6])
    long, short = roomy.hold([1, 2, 3, 4, 5]), roomy.hold([1, 2])
    store(roomy, [1, 2, 3, 9])

    assert long.parts == (Part((1, 2, 3), 3, 3), Part((4, 5, 6), 3, 2))
    assert short.parts == (Part((1, 2, 3), 3, 2),)


def test_what_is_held_makes_room_for_nothing() -> None:
    small = tree(4)
    store(small, [1, 1, 1])
    hold = small.hold([1, 1, 1])
    store(small, [2, 2])

    assert found(small, [2, 2]) == []

    hold.release()
    store(small, [2, 2])

    assert found(small, [2, 2]) == [2, 2]


@pytest.mark.parametrize(
    ("matches", "lengths"),
    [
        # The whole of a stretch, and a little of the next one.
        ([[("a", 100, 100), ("b", 50, 3)]], [100]),
        # Ends inside one stretch, near each other and not.
        (
            [[("a", 100, 61)], [("a", 100, 60)], [("a", 100, 63)], [("a", 100, 80)]],
            [60, 60, 60, 80],
        ),
        ([[("a", 100, 9)]], [0]),
        ([[]], [0]),
    ],
)
def test_rows_that_start_together_hold_what_they_can_share(
    matches: list[list[tuple[str, int, int]]], lengths: list[int]
) -> None:
    found = [
        Match(sum(used for *_, used in parts), tuple(Part(*part) for part in parts))
        for parts in matches
    ]

    assert worth_holding(found, 10) == lengths


def prefixes(tokens: Sequence[int]) -> set[Stretch]:
    return {tuple(tokens[: n + 1]) for n in range(len(tokens))}


TestStoring = Storing.TestCase
TestStoring.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


@given(st.lists(sequences, max_size=8), sequences)
def test_with_room_the_longest_common_prefix_with_any_stored_sequence_is_found(
    stored: list[list[int]], tokens: list[int]
) -> None:
    roomy = tree(1000)
    for each in stored:
        store(roomy, each)
    longest = max((common_length(each, tokens) for each in stored), default=0)

    assert found(roomy, tokens) == tokens[:longest]


@given(sequences, sequences)
def test_the_common_length_is_where_two_sequences_part(first: list[int], second: list[int]) -> None:
    length = common_length(first, second)
    pairs = list(zip(first, second, strict=False))

    assert first[:length] == second[:length]
    assert length == len(pairs) or pairs[length][0] != pairs[length][1]


def test_what_was_used_longest_ago_goes_first() -> None:
    small = tree(9)
    for tokens in ([1, 1, 1], [2, 2, 2], [3, 3, 3]):
        store(small, tokens)
    small.match([1, 1, 1])
    store(small, [4, 4, 4])

    assert found(small, [1, 1, 1]) == [1, 1, 1]
    assert found(small, [2, 2, 2]) == []
    assert found(small, [3, 3, 3]) == [3, 3, 3]


def test_a_shared_prefix_outlives_the_tails_that_hang_on_it() -> None:
    small = tree(8)
    for tail in range(4, 9):
        store(small, [1, 1, 1, 1, tail, tail])

    assert found(small, [1, 1, 1, 1, 4, 4]) == [1, 1, 1, 1]
    assert found(small, [1, 1, 1, 1, 8, 8]) == [1, 1, 1, 1, 8, 8]


def test_what_is_larger_than_the_budget_is_not_stored_and_drives_nothing_out() -> None:
    small = tree(4)
    store(small, [1, 2])
    store(small, [3] * 5)

    assert found(small, [1, 2]) == [1, 2]
    assert found(small, [3]) == []


def test_without_a_budget_nothing_is_made() -> None:
    def make(begin: int) -> Stretch:
        raise AssertionError("made in vain")

    none = tree(0)
    none.insert([1, 2], make)

    assert found(none, [1, 2]) == []


def test_what_is_stored_is_not_made_again() -> None:
    made: list[int] = []
    roomy = tree(100)

    def make(begin: int) -> Stretch:
        made.append(begin)
        return (1, 2, 3, 4)[begin:]

    for length in (4, 4, 2):
        roomy.insert([1, 2, 3, 4][:length], make)

    assert made == [0]


@pytest.mark.parametrize("budget", [0, 5])
def test_clearing_leaves_nothing(budget: int) -> None:
    cleared = tree(budget)
    store(cleared, [1, 2, 3])
    cleared.clear()

    assert (cleared.stored_bytes, len(cleared)) == (0, 0)
    assert found(cleared, [1, 2, 3]) == []
