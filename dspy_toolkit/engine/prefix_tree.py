"""Stored prefixes of token sequences: a radix tree under a byte budget, without any MLX.

What is stored for a stretch of tokens (keys and values, say) is opaque here. Each stretch is
stored once, however many sequences run through it; the stretch least recently used goes first.
Who works with stretches holds them: what is held is not dropped, and where a held stretch is cut
in two, its holders hold both.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Payload = TypeVar("Payload")


@dataclass(frozen=True)
class Part(Generic[Payload]):
    """A stretch of a match: the first `used` of the `length` tokens that `payload` is of."""

    payload: Payload
    length: int
    used: int


@dataclass(frozen=True)
class Match(Generic[Payload]):
    """The longest stored prefix of a sequence: its length, and its parts in order."""

    length: int
    parts: tuple[Part[Payload], ...]


@dataclass(eq=False)
class _Node(Generic[Payload]):
    tokens: list[int]
    payload: Payload
    cost: int
    parent: _Node[Payload] | None
    children: dict[int, _Node[Payload]] = field(default_factory=dict)
    holds: dict[Hold[Payload], None] = field(default_factory=dict)


class Hold(Generic[Payload]):
    """The stretches of a prefix, which stay stored until they are let go.

    Attributes:
        length: tokens of the prefix.
    """

    def __init__(self, path: list[tuple[_Node[Payload], int]]) -> None:
        self._path = path
        self.length = sum(used for _, used in path)
        for node, _ in path:
            node.holds[self] = None

    @property
    def parts(self) -> tuple[Part[Payload], ...]:
        """The stretches as they are stored now, in order."""
        return tuple(Part(node.payload, len(node.tokens), used) for node, used in self._path)

    def release(self) -> None:
        """Let the stretches go; doing it again changes nothing."""
        for node, _ in self._path:
            node.holds.pop(self, None)
        self._path = []

    def _cut(self, node: _Node[Payload], upper: _Node[Payload]) -> None:
        """Hold `upper` too, which took over the first tokens of `node`."""
        at = len(upper.tokens)
        place = next(n for n, (held, _) in enumerate(self._path) if held is node)
        used = self._path[place][1]
        self._path[place : place + 1] = [
            (upper, min(used, at)),
            *([(node, used - at)] if used > at else []),
        ]
        upper.holds[self] = None
        if used <= at:
            del node.holds[self]


class PrefixTree(Generic[Payload]):
    """Finds the longest stored prefix of a sequence of tokens.

    Args:
        budget_bytes: most that is stored; 0 stores nothing.
        cost: bytes of a payload.
        split: cuts a payload of n tokens after the first k of them.

    Attributes:
        stored_bytes: what all payloads cost together.
    """

    def __init__(
        self,
        budget_bytes: int,
        cost: Callable[[Payload], int],
        split: Callable[[Payload, int], tuple[Payload, Payload]],
    ) -> None:
        self.budget_bytes = budget_bytes
        self.stored_bytes = 0
        self._cost = cost
        self._split = split
        self._top: dict[int, _Node[Payload]] = {}
        # Least recently used first. A node is touched before its parent, and held together with
        # it, so that the first one that is not held never has children.
        self._order: OrderedDict[_Node[Payload], None] = OrderedDict()

    def __len__(self) -> int:
        """Stretches stored."""
        return len(self._order)

    def match(self, tokens: Sequence[int]) -> Match[Payload]:
        """The longest stored prefix of `tokens`, which counts as used by this."""
        path = self._walk(tokens)
        self._touch([node for node, _ in path])
        parts = tuple(Part(node.payload, len(node.tokens), used) for node, used in path)
        return Match(sum(used for _, used in path), parts)

    def hold(self, tokens: Sequence[int]) -> Hold[Payload]:
        """Hold the longest stored prefix of `tokens`, which counts as used by this."""
        path = self._walk(tokens)
        self._touch([node for node, _ in path])
        return Hold(path)

    def insert(self, tokens: Sequence[int], make: Callable[[int], Payload]) -> None:
        """Store a sequence, or as much as is left out of the tree.

        Args:
            tokens: the whole sequence.
            make: makes the payload of the tokens from a place to the end. It is not called when
                all are stored already.
        """
        path = self._walk(tokens)
        begin = sum(used for _, used in path)
        if begin == len(tokens) or not self.budget_bytes:
            return
        payload = make(begin)
        cost = self._cost(payload)
        if path and path[-1][1] < len(path[-1][0].tokens):
            path[-1] = (self._cut(*path[-1]), path[-1][1])
        nodes = [node for node, _ in path]
        self._touch(nodes)
        if not self._make_room(cost, keep=nodes):
            return
        parent = nodes[-1] if nodes else None
        leaf = _Node(list(tokens[begin:]), payload, cost, parent)
        self._children(parent)[leaf.tokens[0]] = leaf
        self.stored_bytes += cost
        self._touch([*nodes, leaf])

    def latest(self) -> Iterator[tuple[list[int], int, Payload]]:
        """Every stretch, latest used first, and after those that come before it.

        Yields:
            All tokens up to its end, how many of these come before it, and what is stored.
        """
        for node in reversed(list(self._order)):
            path, above = [node], node.parent
            while above is not None:
                path.append(above)
                above = above.parent
            tokens = [token for each in reversed(path) for token in each.tokens]
            yield tokens, len(tokens) - len(node.tokens), node.payload

    def clear(self) -> None:
        """Forget everything; holds keep what they hold, outside of the tree."""
        self._top.clear()
        self._order.clear()
        self.stored_bytes = 0

    def _walk(self, tokens: Sequence[int]) -> list[tuple[_Node[Payload], int]]:
        path: list[tuple[_Node[Payload], int]] = []
        children, place = self._top, 0
        while place < len(tokens) and (node := children.get(tokens[place])) is not None:
            used = common_length(node.tokens, tokens[place : place + len(node.tokens)])
            path.append((node, used))
            if used < len(node.tokens):
                break
            children, place = node.children, place + used
        return path

    def _cut(self, node: _Node[Payload], at: int) -> _Node[Payload]:
        """Put a node of its own above `node` for the first `at` of its tokens."""
        first, rest = self._split(node.payload, at)
        upper = _Node(node.tokens[:at], first, self._cost(first), node.parent)
        self._children(node.parent)[upper.tokens[0]] = upper
        self._order[upper] = None
        node.tokens, node.payload, node.parent = node.tokens[at:], rest, upper
        upper.children[node.tokens[0]] = node
        self.stored_bytes -= node.cost
        node.cost = self._cost(rest)
        self.stored_bytes += upper.cost + node.cost
        for hold in list(node.holds):
            hold._cut(node, upper)
        return upper

    def _make_room(self, cost: int, keep: list[_Node[Payload]]) -> bool:
        if cost > self.budget_bytes:
            return False
        while self.stored_bytes + cost > self.budget_bytes:
            spare = (node for node in self._order if not node.holds and node not in keep)
            oldest = next(spare, None)
            if oldest is None:
                return False
            del self._order[oldest]
            del self._children(oldest.parent)[oldest.tokens[0]]
            self.stored_bytes -= oldest.cost
        return True

    def _touch(self, path: list[_Node[Payload]]) -> None:
        for node in reversed(path):
            self._order[node] = None
            self._order.move_to_end(node)

    def _children(self, node: _Node[Payload] | None) -> dict[int, _Node[Payload]]:
        return self._top if node is None else node.children


def worth_holding(matches: Sequence[Match[Payload]], least: int) -> list[int]:
    """How many tokens of each match to hold, for sequences that start together.

    Parts of fewer than `least` tokens at the end are left out. Sequences that end within as many
    tokens of each other inside one stretch end at the same token, so that they share it whole.
    """
    lengths: list[int] = []
    inside: dict[int, list[int]] = {}
    for place, match in enumerate(matches):
        parts = list(match.parts)
        while parts and parts[-1].used < least:
            parts.pop()
        lengths.append(sum(part.used for part in parts))
        if parts and parts[-1].used < parts[-1].length:
            inside.setdefault(id(parts[-1].payload), []).append(place)
    for places in inside.values():
        end = -least
        for place in sorted(places, key=lengths.__getitem__):
            if lengths[place] >= end + least:
                end = lengths[place]
            lengths[place] = end
    return lengths


def common_length(first: Sequence[object], second: Sequence[object]) -> int:
    """How many tokens, or characters, two sequences have in common at their beginning."""
    low, high = 0, min(len(first), len(second))
    if first[:high] == second[:high]:
        return high
    # Comparing slices runs in C: a handful of them is far quicker than a loop over the tokens.
    while high - low > 1:
        middle = (low + high) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle
    return low
