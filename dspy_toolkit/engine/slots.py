"""Keys and values of many rows: what they share by reference, what is their own in one array.

A row looks back at stretches that are stored elsewhere and shared with other rows, and at tokens of
its own. Those lie at the left of its slot, one array a layer for all slots. A step writes each
row's new tokens from its own length on, so rows may take different numbers of tokens in one step;
what is written beyond a row's real tokens is never looked at and is overwritten by the next step.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from dspy_toolkit.engine.attention import Shared
from dspy_toolkit.engine.packing import Packing
from dspy_toolkit.engine.stretches import Borrowed, Lent, Span, Stretch, spans

_GROWTH = 128
# Widest step whose tokens are written one by one, for all rows in one go; wider ones are written
# row by row.
_NARROW = 4


class Slots:
    """The rows' memory, and what the next step of the model shall see of it.

    Args:
        windows: how many tokens each layer looks back at, itself counted, or None for all.

    Attributes:
        layers: one for each layer of the model, given to it as its cache.
        lengths: tokens in a slot; None where the slot is free.
        lent: what the row in a slot looks back at besides, or None.
        offset: position of each chosen row's first new token; one number where all are the same.
            Where rows are packed, of each token, (1, tokens).
        room: rows and tokens that every layer has, or will have, memory for.
        chosen, starts: slots of the next step, and how many tokens each holds.
        ends: place of each chosen row's last new token, where the scores of no other are wanted.
        width, end: tokens of the next step's widest row, and one past its last place.
        places: position of each chosen row's first new token.
        spans: what the chosen rows look back at together.
        in_order: whether the chosen slots are neighbours, in order.
        together: (first, one past last) of the chosen slots, where they are neighbours and write
            at the same place.
        index: slot and place of every new token, (rows, 1) and (rows, width), where rows do not
            write together and few tokens come.
        packing: where rows' tokens are in the next step, if they come one after the other.
    """

    def __init__(self, windows: Sequence[int | None]) -> None:
        self.layers = [LayerSlots(self, number, each) for number, each in enumerate(windows)]
        self.lengths: list[int | None] = []
        self.lent: list[Lent | None] = []
        self.offset: int | mx.array = 0
        self.room = (0, 0)
        self.chosen: list[int] = []
        self.starts: list[int] = []
        self.places: list[int] = []
        self.ends: list[int] | None = None
        self.width = 0
        self.end = 0
        self.spans: list[Span] = []
        self.in_order = True
        self.together: tuple[int, int] | None = None
        self.index: tuple[mx.array, mx.array] | None = None
        self.packing: Packing | None = None

    def take(self, lent: Lent | None = None) -> int:
        """Reserve the first free slot, for a row that looks back at `lent`."""
        slot = self.lengths.index(None) if None in self.lengths else len(self.lengths)
        if slot == len(self.lengths):
            self.lengths.append(None)
            self.lent.append(None)
        self.lengths[slot], self.lent[slot] = 0, lent
        for stretch, used in () if lent is None else lent.copied:
            self._put(slot, stretch, used)
        return slot

    def fork(self, slot: int, length: int) -> int:
        """Reserve a slot for a row that goes on from the first `length` tokens of another one.

        Free it before that one.
        """
        lent, own = self.lent[slot], length - self.behind(slot)
        stretch = self.copy(slot, 0, own)
        fork = self.take(None if lent is None else Borrowed(lent))
        self._put(fork, stretch, own)
        return fork

    def behind(self, slot: int) -> int:
        """Tokens that a row looks back at outside of its slot."""
        lent = self.lent[slot]
        return 0 if lent is None else lent.length

    def free(self, slot: int) -> None:
        """Give a slot back, and what was lent to it; with the last one all memory goes."""
        lent = self.lent[slot]
        if lent is not None:
            lent.release()
        self.lengths[slot] = self.lent[slot] = None
        if all(length is None for length in self.lengths):
            self.clear()

    def clear(self) -> None:
        """Free every slot and its memory."""
        for lent in self.lent:
            if lent is not None:
                lent.release()
        self.lengths.clear()
        self.lent.clear()
        self.spans = []
        self.room = (0, 0)
        for layer in self.layers:
            layer.keys = layer.values = None

    @property
    def nbytes(self) -> int:
        """Memory of all slots."""
        return sum(array.nbytes for array in self.arrays())

    def room_for(self, rows: int, tokens: int) -> int:
        """Tokens in all that there would be memory for, had `rows` rows up to so many each."""
        return _rounded_rows(rows) * _rounded_tokens(tokens)

    def compact(self) -> dict[int, int]:
        """Move rows together and give up memory that they do not need: new slots by old ones."""
        used = [slot for slot, length in enumerate(self.lengths) if length is not None]
        self.lengths = [self.lengths[slot] for slot in used]
        self.lent = [self.lent[slot] for slot in used]
        longest = max((length or 0 for length in self.lengths), default=0)
        self.room = (_rounded_rows(len(used)), _rounded_tokens(longest))
        places = mx.array((used + [0] * self.room[0])[: self.room[0]])
        for layer in self.layers:
            layer.keep(places, self.room[1])
        return {slot: place for place, slot in enumerate(used)}

    def aim(
        self,
        slots: Sequence[int],
        width: int,
        ends: list[int] | None = None,
        packing: Packing | None = None,
    ) -> None:
        """Choose the rows, in this order, that the next step of the model is for.

        Args:
            slots: of the rows. Others may be among them: what they compute is discarded.
            width: tokens of the widest row.
            ends: place of each row's last new token, where the scores of no other are wanted.
            packing: where their tokens are, if they come one after the other.
        """
        self.ends = ends
        self.packing = packing
        self.chosen = list(slots)
        self.starts = [self.lengths[slot] or 0 for slot in slots]
        self.width = width
        self.end = max(self.starts) + width
        self._make_room(max(length or 0 for length in self.lengths) + width)
        first, last = self.chosen[0], self.chosen[-1] + 1
        self.in_order = self.chosen == list(range(first, last))
        same = len(set(self.starts)) == 1
        self.places = [
            start + self.behind(slot) for slot, start in zip(slots, self.starts, strict=True)
        ]
        alike = len(set(self.places)) == 1
        self.offset = self.places[0] if alike else mx.array(self.places, dtype=mx.int32)
        if packing is not None:
            self.offset = mx.array(packing.positions(self.places), dtype=mx.int32)[None]
        self.spans = spans([self.lent[slot] for slot in slots])
        self.together = (first, last) if self.in_order and same and packing is None else None
        self.index = None
        if self.together is None and packing is None and width <= _NARROW:
            places = np.array(self.starts)[:, None] + np.arange(width)
            self.index = mx.array(self.chosen)[:, None], mx.array(places)

    def _make_room(self, tokens: int) -> None:
        self.room = (
            max(self.room[0], _rounded_rows(len(self.lengths))),
            max(self.room[1], _rounded_tokens(tokens)),
        )

    def mask(self, window: int | None) -> mx.array | str | None:
        """Which places each new token may look at: (rows, 1, width, places) or a short form."""
        if window is not None and self.end <= window:
            window = None
        if window is None and len(set(self.starts)) == 1:
            return None if self.width == 1 else "causal"
        starts = np.array(self.starts)[:, None, None, None]
        own = starts + np.arange(self.width)[None, None, :, None]
        places = np.arange(self.end)[None, None, None, :]
        seen = places <= own
        if window is not None:
            seen &= places > own - window
        return mx.array(seen)

    def end_mask(self, window: int | None) -> mx.array:
        """Which places each row's last new token may look at: (rows, 1, 1, places)."""
        assert self.ends is not None
        own = (np.array(self.starts) + np.array(self.ends))[:, None, None, None]
        places = np.arange(self.end)
        seen = places <= own
        if window is not None:
            seen &= places > own - window
        return mx.array(seen)

    def advance(self, slot: int, count: int) -> None:
        """Count the tokens that a step has written to a slot; a negative number forgets some."""
        self.lengths[slot] = (self.lengths[slot] or 0) + count

    def _put(self, slot: int, stretch: Stretch, used: int) -> None:
        """Copy the first `used` tokens of a stretch to the end of a slot."""
        begin = self.lengths[slot] or 0
        self._make_room(begin + used)
        for layer, (keys, values) in zip(self.layers, stretch, strict=True):
            layer.put(slot, begin, keys[:, :, :used], values[:, :, :used])
        self.lengths[slot] = begin + used

    def copy(self, slot: int, begin: int, end: int) -> Stretch:
        """A copy of what a slot holds from place `begin` to `end`.

        Evaluate it soon: until then it keeps the arrays of every row alive.
        """
        return [layer.copy(slot, begin, end) for layer in self.layers]

    def arrays(self) -> list[mx.array]:
        """What must be evaluated after a step."""
        return [a for layer in self.layers for a in (layer.keys, layer.values) if a is not None]


class LayerSlots:
    """The cache that one layer of the model sees.

    Attributes:
        window: how many tokens a token looks back at, itself counted, or None for all.
        keys, values: (slots, heads, tokens, width), or None where nothing was written.
        narrow: whether it attends for each row's last new token alone, where only that one's scores
            are wanted; right for the last layer.
        asked: whether whoever attends has asked for what rows share.
    """

    def __init__(self, slots: Slots, number: int, window: int | None) -> None:
        self.window = window
        self._slots = slots
        self._number = number
        self.narrow = False
        self.asked = False
        self.keys: mx.array | None = None
        self.values: mx.array | None = None

    @property
    def offset(self) -> int | mx.array:
        """Position of each row's first new token; one number where all are the same."""
        return self._slots.offset

    @property
    def packing(self) -> Packing | None:
        """Where rows' tokens are in this step, if they come one after the other."""
        return self._slots.packing

    @property
    def ends(self) -> list[int] | None:
        """Place of each row's last new token, if attention is wanted for that one alone."""
        return self._slots.ends if self.narrow else None

    def end_mask(self) -> mx.array:
        """Which places those tokens may look at."""
        return self._slots.end_mask(self.window)

    @property
    def shared(self) -> list[Shared]:
        """What rows of the step look back at together."""
        self.asked = True
        found = []
        for span in self._slots.spans:
            keys, values = span.stretch[self._number]
            begin, mask = self._seen(span)
            if begin >= span.end:
                continue
            if begin or span.end < keys.shape[2]:
                keys, values = (a[:, :, begin : span.end] for a in (keys, values))
            found.append(Shared(span.rows, keys, values, mask))
        return found

    def _seen(self, span: Span) -> tuple[int, mx.array | None]:
        """From which of its tokens on any row sees a span, and a mask where not all see all."""
        if self.window is None:
            return span.begin, None
        slots, width = self._slots, self._slots.width
        firsts = slots.places
        if self.ends is not None:
            firsts, width = [a + b for a, b in zip(firsts, self.ends, strict=True)], 1
        if span.rows is not None:
            firsts = [firsts[row] for row in span.rows]
        begin = max(span.begin, min(firsts) - self.window + 1 - span.place)
        if span.place + begin > max(firsts) + width - 1 - self.window:
            return begin, None
        queries = np.array(firsts)[:, None, None, None] + np.arange(width)[:, None]
        return begin, mx.array(span.place + np.arange(begin, span.end) > queries - self.window)

    def make_mask(
        self, width: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | str | None:
        """The mask for a step of `width` tokens, in the forms mlx-lm's models take."""
        slots = self._slots
        if window_size not in (None, self.window) and slots.spans:
            raise NotImplementedError("a window that its cache does not tell of")
        mask = slots.mask(window_size or self.window)
        if mask == "causal" and return_array:
            end = slots.end
            return mx.arange(end)[None] <= mx.arange(end - slots.width, end)[:, None]
        return mask

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write the new tokens of the chosen rows and return all that lie in their slots."""
        slots = self._slots
        self._reserve(keys, values)
        self.keys = self._write(self.keys, keys)
        self.values = self._write(self.values, values)
        if not slots.in_order:
            rows = mx.array(slots.chosen)
            return self.keys[rows, :, : slots.end], self.values[rows, :, : slots.end]
        first, last = slots.chosen[0], slots.chosen[-1] + 1
        return self.keys[first:last, :, : slots.end], self.values[first:last, :, : slots.end]

    def keep(self, places: mx.array, tokens: int) -> None:
        """Keep these rows alone, in this order, and no more than so many tokens of each."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = (
                mx.contiguous(held[places, :, :tokens]) for held in (self.keys, self.values)
            )

    def put(self, slot: int, begin: int, keys: mx.array, values: mx.array) -> None:
        self._reserve(keys, values)
        assert self.keys is not None
        assert self.values is not None
        end = begin + keys.shape[2]
        self.keys[slot : slot + 1, :, begin:end] = keys
        self.values[slot : slot + 1, :, begin:end] = values

    def copy(self, slot: int, begin: int, end: int) -> tuple[mx.array, mx.array]:
        assert self.keys is not None
        assert self.values is not None
        return (
            mx.contiguous(self.keys[slot : slot + 1, :, begin:end]),
            mx.contiguous(self.values[slot : slot + 1, :, begin:end]),
        )

    def _write(self, held: mx.array | None, new: mx.array) -> mx.array:
        assert held is not None
        slots, width = self._slots, new.shape[2]
        if slots.together is not None:
            first, last = slots.together
            start = slots.starts[0]
            held[first:last, :, start : start + width] = new
        elif slots.packing is not None:
            for slot, start, tokens in zip(
                slots.chosen, slots.starts, slots.packing.slices(), strict=True
            ):
                some = new[:, :, tokens]
                held[slot : slot + 1, :, start : start + some.shape[2]] = some
        elif slots.index is not None:
            rows, places = slots.index
            held[rows, :, places] = new.swapaxes(1, 2)
        else:
            for row, (slot, start) in enumerate(zip(slots.chosen, slots.starts, strict=True)):
                held[slot : slot + 1, :, start : start + width] = new[row : row + 1]
        return held

    def _reserve(self, keys: mx.array, values: mx.array) -> None:
        self.keys = _grown(self.keys, keys, *self._slots.room)
        self.values = _grown(self.values, values, *self._slots.room)


def _rounded_rows(rows: int) -> int:
    return 1 << (max(1, rows) - 1).bit_length()


def _rounded_tokens(tokens: int) -> int:
    return max(1, -(-tokens // _GROWTH)) * _GROWTH


def _grown(held: mx.array | None, like: mx.array, rows: int, tokens: int) -> mx.array:
    """`held` with room for so many rows and tokens, zero where it is new."""
    _, heads, _, width = like.shape
    if held is None:
        return mx.zeros((rows, heads, tokens, width), dtype=like.dtype)
    more_rows = max(0, rows - held.shape[0])
    more_tokens = max(0, tokens - held.shape[2])
    if not more_rows and not more_tokens:
        return held
    return mx.pad(held, [(0, more_rows), (0, 0), (0, more_tokens), (0, 0)])
