"""Reading and decoding with shared prefixes: what was read once is not read again.

A prompt that has been read is stored in a prefix tree. A waiting row that shares more with a row
being read than is stored waits for that row, so that a burst of calls reads its prefix once.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from dspy_toolkit.engine.choice import Chooser
from dspy_toolkit.engine.device import PREFIX_SHARE, Device
from dspy_toolkit.engine.embedding import mean_hidden
from dspy_toolkit.engine.guessing import Guessing
from dspy_toolkit.engine.kept import KeptPrefixes
from dspy_toolkit.engine.lookup import Lookup
from dspy_toolkit.engine.options import EngineOptions
from dspy_toolkit.engine.plan import Group, Limits, plan
from dspy_toolkit.engine.prefix_tree import PrefixTree, worth_holding
from dspy_toolkit.engine.refusals import TooLarge
from dspy_toolkit.engine.row import Row
from dspy_toolkit.engine.runner import Runner
from dspy_toolkit.engine.scoring import weigh
from dspy_toolkit.engine.sequence import Drawn, Sequence
from dspy_toolkit.engine.stats import Counts
from dspy_toolkit.engine.stretches import Lent, Stretch, split_stretch, stretch_bytes

# A row waits for another one's prefix when it saves at least this many tokens of reading.
_WORTH_WAITING = 32
# A slice is scored against all tokens up to its end, also those it may not see. Reading 800 tokens
# on a CPU took 165 ms in one slice and 113 ms in slices of 256.
_CPU_SLICE, _GPU_SLICE = 256, 2048
_CPU_BESIDE, _GPU_BESIDE = 1024, 8192
_CPU_PADDING, _GPU_PADDING = 32, 1024
# Where rows are packed, padding costs only what they see of their own tokens.
_PACKED_PADDING = 512
# Fewer tokens at the end of a match are read again.
_WORTH_KEEPING = 16


@dataclass(frozen=True)
class _Ahead:
    """Tokens of rows that are being computed while nobody waits for them yet: (rows,)."""

    rows: list[Row]
    tokens: mx.array


class Stepper:
    """Decodes many sequences together. Use it on one thread only."""

    def __init__(
        self,
        runner: Runner,
        options: EngineOptions,
        device: Device,
        kept: KeptPrefixes | None = None,
    ) -> None:
        cpu = device.name == "cpu"
        self._runner = runner
        self._most_rows = options.rows
        self._most_guesses = options.guesses
        padding = _PACKED_PADDING if runner.packs else _CPU_PADDING
        self._limits = Limits(
            reading_rows=min(options.prefill_rows, options.rows),
            slice_tokens=options.prefill_tokens or (_CPU_SLICE if cpu else _GPU_SLICE),
            beside_tokens=_CPU_BESIDE if cpu else _GPU_BESIDE,
            padding_tokens=padding if cpu else _GPU_PADDING,
        )
        budget = options.prefix_bytes
        self._tree: PrefixTree[Stretch] = PrefixTree(
            int(PREFIX_SHARE * device.memory_bytes) if budget is None else budget,
            cost=stretch_bytes,
            split=split_stretch,
        )
        self._stream = mx.new_stream(device.kind)
        self._waiting: deque[Row] = deque()
        self._rows: list[Row] = []
        self._seats = 0
        self._ahead: _Ahead | None = None
        left = (device.memory_bytes - runner.weight_bytes) // 2
        self._row_bytes = max(left, 1) if options.row_bytes is None else options.row_bytes
        self.counts = Counts()
        self._guessing = Guessing(runner, self.counts)
        self._kept = kept
        if kept is not None:
            with mx.stream(self._stream):
                self.counts.restored = kept.load(self._tree)

    @property
    def rows(self) -> list[Sequence]:
        """The sequences being read or decoded, oldest first."""
        return [row.sequence for row in (*self._rows, *self._waiting)]

    @property
    def waiting(self) -> int:
        """Sequences that have no row yet."""
        return len(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence, from its beginning or from where it was when it was removed.

        Raises:
            TooLarge: it may need more memory than there is when it runs alone.
        """
        most = len(sequence.prompt) + sequence.max_tokens
        if not self._fits(1, most):
            raise TooLarge(
                f"the call may need {1e-9 * most * self._runner.token_bytes:.2f} GB for its {most} "
                f"tokens and calls may use {1e-9 * self._row_bytes:.2f} GB; shorten the prompt, "
                "ask for fewer max_tokens, or raise the engine option row_bytes"
            )
        chooser = Chooser(sequence)
        known = sequence.prompt + sequence.answer
        row = Row(sequence, chooser, known, Lookup(self._most_guesses))
        forced = chooser.forced()
        row.tokens += [drawn.token for drawn in forced]
        row.ready = forced
        self.counts.forced += len(forced)
        self._waiting.append(row)

    def remove(self, sequence: Sequence) -> None:
        """Free a sequence's row, in whatever stage it is."""
        for row in [row for row in self._waiting if row.sequence is sequence]:
            self._waiting.remove(row)
        for row in [row for row in self._rows if row.sequence is sequence]:
            self._rows.remove(row)
            row.reads = False
            self._runner.slots.free(row.slot)

    def step(self) -> list[tuple[Sequence, Drawn]]:
        """Run the model for the rows that are due, and draw for those that have been read."""
        with mx.stream(self._stream):
            if self._ahead is not None:
                return self._go_on(self._ahead)
            self._admit()
            self._keep_within_memory()
            rows = sorted(self._rows, key=lambda row: row.slot)
            if self._may_run_ahead() and not self._guessing.promising(rows):
                return self._go_on(self._run_ahead(rows, mx.array([r.tokens[-1] for r in rows])))
            drawn = [(row.sequence, token) for row in self._rows for token in row.ready]
            for row in self._rows:
                row.ready = []
            running = [row for row in self._rows if not row.chooser.ended]
            for group in plan([len(row.tokens) - row.done for row in running], self._limits):
                drawn += self._advance(running, group)
        self.counts.prefix_bytes = self._tree.stored_bytes
        self.counts.row_bytes = self._runner.slots.nbytes
        return drawn

    def embed(self, tokens: list[int]) -> list[float]:
        """A text's tokens as a vector; see `mean_hidden`."""
        with mx.stream(self._stream):
            return mean_hidden(self._runner.model, tokens)

    def _may_run_ahead(self) -> bool:
        """Whether all rows do nothing but take one likeliest token after the other."""
        return (
            bool(self._rows)
            and not self._waiting
            and all(
                row.chooser.free and not row.ready and row.done + 1 == len(row.tokens)
                for row in self._rows
            )
        )

    def _run_ahead(self, rows: list[Row], last: mx.array) -> _Ahead:
        """Let rows take one token each, of which the device alone need know, and the next one."""
        logits = self._runner.run_array([row.slot for row in rows], last[:, None], [1] * len(rows))
        tokens = mx.argmax(logits, axis=-1)
        mx.async_eval(tokens, self._runner.slots.arrays())  # type: ignore[no-untyped-call]
        self.counts.run(len(rows))
        for row in rows:
            row.done += 1
        return _Ahead(rows, tokens)

    def _go_on(self, ahead: _Ahead) -> list[tuple[Sequence, Drawn]]:
        """Hand out what was computed ahead, once the step after it has been begun.

        Rows that end by these tokens have one run too many behind them, of which nothing is used.
        """
        left = [place for place, row in enumerate(ahead.rows) if row in self._rows]
        rows = [ahead.rows[place] for place in left]
        tokens = ahead.tokens
        if len(left) < len(ahead.rows):
            tokens = tokens[mx.array(left)] if left else tokens[:0]
        self._ahead = None
        going = rows and not self._waiting and not self._guessing.awaited
        if going and self._fits(len(rows), self._widest()):
            self._ahead = self._run_ahead(rows, tokens)
        result = []
        for row, token in zip(rows, np.array(tokens).tolist(), strict=True):
            row.tokens.append(token)
            self.counts.decoded += 1
            result.append((row.sequence, row.chooser.take(token)))
        self._guessing.end(len(rows), len(rows), guessed=False)
        self._guessing.promising(rows)
        return result

    def reset(self) -> None:
        """Drop every row and every stored prefix, after a step that failed."""
        self._rows.clear()
        self._waiting.clear()
        self._ahead = None
        self._tree.clear()
        self._runner.slots.clear()

    def close(self) -> None:
        """Give the memory and the device back; the thread is done with MLX.

        MLX joins a stream's own thread when the thread that made it ends. `Thread.join` does not
        wait for that, so at the end of the process the two raced and Python was aborted.
        """
        if self._kept is not None:
            with mx.stream(self._stream):
                self._kept.save(self._tree)
        self.reset()
        del self._runner, self._guessing
        mx.synchronize(self._stream)
        mx.clear_cache()
        mx.clear_streams()

    def _admit(self) -> None:
        admitted: list[Row] = []
        for row in list(self._waiting):
            if len(self._rows) >= self._most_rows:
                break
            if row.waits_for is not None and row.waits_for.reads:
                continue
            known = row.tokens[: row.matchable]
            found = self._tree.match(known)
            if self._rows and not self._fits(
                len(self._rows) + 1, self._widest(len(row.tokens) - found.length)
            ):
                break
            row.waits_for = self._leader(known, found.length + _WORTH_WAITING)
            if row.waits_for is None:
                self._waiting.remove(row)
                row.found = found
                self._rows.append(row)
                admitted.append(row)
        lengths = worth_holding([row.found for row in admitted], _WORTH_KEEPING)
        for row, length in zip(admitted, lengths, strict=True):
            self._seat(row, length)

    def _fits(self, rows: int, tokens: int) -> bool:
        """Whether there is memory for so many rows with so many tokens of their own."""
        needed = self._runner.slots.room_for(rows, tokens) * self._runner.token_bytes
        return needed <= self._row_bytes

    def _widest(self, tokens: int = 0) -> int:
        """Places that the next step may need in each slot, with a row of so many tokens more."""
        slots = self._runner.slots
        own = [slots.lengths[row.slot] or 0 for row in self._rows if row.slot >= 0]
        slices = [len(row.tokens) - row.done for row in self._rows]
        width = min(max([1, tokens, *slices]), self._limits.slice_tokens)
        return max([*own, tokens - width]) + width

    def _keep_within_memory(self) -> None:
        """Have the rows that came last wait again while the next step would need too much."""
        slots = self._runner.slots
        while len(self._rows) > 1 and not self._fits(len(self._rows), self._widest()):
            last = max(self._rows, key=lambda row: row.seated)
            self._rows.remove(last)
            slots.free(last.slot)
            last.slot, last.done = -1, 0
            self._waiting.appendleft(last)
            self.counts.preempted += 1
        if None in slots.lengths:
            places = slots.compact()
            for row in self._rows:
                row.slot = places[row.slot]

    def _seat(self, row: Row, length: int) -> None:
        """Give a row a slot, and the first `length` tokens of what is stored for it."""
        hold = self._tree.hold(row.tokens[:length])
        row.slot = self._runner.slots.take(Lent(hold, self._runner.least_lent))
        row.done = length
        row.seated = self._seats
        self._seats += 1
        if row.sequence.begun is None:
            row.sequence.begun = time.perf_counter()
            self.counts.begun += 1
            self.counts.queue_s += row.sequence.begun - row.sequence.submitted
        row.sequence.reused = min(length, len(row.sequence.prompt))
        self.counts.reused += length

    def _leader(self, tokens: list[int], shared: int) -> Row | None:
        """A row being read that begins with the same `shared` tokens."""
        if len(tokens) < shared:
            return None
        tail = slice(shared - _WORTH_WAITING, shared)
        for row in self._rows:
            if (
                row.reads
                and row.tokens[tail] == tokens[tail]
                and row.tokens[:shared] == tokens[:shared]
                and len(row.tokens) >= shared
            ):
                return row
        return None

    def _advance(self, running: list[Row], group: Group) -> list[tuple[Sequence, Drawn]]:
        shares = sorted(
            ((running[share.row], share.tokens) for share in group), key=lambda pair: pair[0].slot
        )
        choosers = [row.chooser for row, n in shares if row.done + n == len(row.tokens)]
        allowed = Chooser.allowed(choosers)
        decodes = all(row.decodes for row, _ in shares)
        guesses = self._guessing.begin([row for row, _ in shares], decodes)
        logits = self._runner.run(
            [row.slot for row, _ in shares],
            [
                row.tokens[row.done : row.done + count] + guess
                for (row, count), guess in zip(shares, guesses, strict=True)
            ],
            every=any(guesses),
        )
        self.counts.run(len(shares))
        stored: list[Stretch] = []
        finished: list[tuple[int, Row]] = []
        for place, (row, count) in enumerate(shares):
            self.counts.read += max(0, min(count, len(row.sequence.prompt) - row.done))
            row.done += count
            if row.reads and row.done >= len(row.sequence.prompt):
                self._store(row, stored)
            if row.done == len(row.tokens):
                finished.append((place, row))
            elif row.reads:
                # Who was read goes to the back, so that a long prompt lets shorter ones pass.
                self._rows.remove(row)
                self._rows.append(row)
        # Unevaluated, what was stored would keep the whole batch's arrays alive.
        due = [stored, self._runner.slots.arrays()]
        if not finished:
            mx.eval(due)
            return []
        rows = [row for _, row in finished]
        if any(guesses):
            result = self._guessing.check(rows, guesses, logits, due, allowed)
        else:
            if len(finished) < len(shares):
                logits = logits[mx.array([place for place, _ in finished])]
            weigh(self._runner, rows, logits, self.counts)
            drawn = Chooser.draw(choosers, logits, due, allowed)
            result = [
                each
                for row, tokens in zip(rows, drawn, strict=True)
                for each in row.say(tokens, self.counts)
            ]
        if decodes:
            self._guessing.end(len(shares), len(result), any(guesses))
        return result

    def _store(self, row: Row, stored: list[Stretch]) -> None:
        row.reads = False
        prompt = row.sequence.prompt

        def copy(begin: int) -> Stretch:
            behind = self._runner.slots.behind(row.slot)
            stretch = self._runner.slots.copy(row.slot, begin - behind, len(prompt) - behind)
            stored.append(stretch)
            return stretch

        self._tree.insert(prompt, copy)
