"""Plain batching, for models whose memory of a prompt cannot be cut at any token.

What prompts begin with is read once all the same, as far as a checkpoint: a copy of the memory as
it was at one token. mlx-lm's `BatchGenerator` does the batching. It is told neither stop tokens nor
a length, because it extracts a copy of a row's cache when it ends a row itself; here the row is
simply removed.
"""

from __future__ import annotations

import time
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import make_prompt_cache

from dspy_toolkit.engine.checkpoints import Checkpoints
from dspy_toolkit.engine.device import PREFIX_SHARE, Device
from dspy_toolkit.engine.embedding import mean_hidden
from dspy_toolkit.engine.options import EngineOptions
from dspy_toolkit.engine.output import Score
from dspy_toolkit.engine.sampling import counting, greedy, make_processors, make_sampler
from dspy_toolkit.engine.sequence import Drawn, Sequence
from dspy_toolkit.engine.stats import Counts

_NO_LIMIT = 1 << 40
# A slice is scored against all tokens up to its end, also those it may not see. Reading 800 tokens
# on a CPU took 165 ms in one slice and 113 ms in slices of 256.
_CPU_SLICE = 256
_GPU_SLICE = 2048
# Share of the largest score by which rounding may change scores in half precision.
_CLOSE = 0.02


class PlainStepper:
    """Decodes many sequences together. Use it on one thread only."""

    def __init__(self, model: Any, options: EngineOptions, device: Device) -> None:
        self._model = model
        self._options = options
        self._slice = options.prefill_tokens or (_CPU_SLICE if device.name == "cpu" else _GPU_SLICE)
        self._stream = mx.new_stream(device.kind)
        self._rows: dict[int, Sequence] = {}
        # Rows that wait for a checkpoint, and where it is to lie.
        self._held_up: list[tuple[Sequence, int]] = []
        self._reading_rows = min(options.prefill_rows, options.rows)
        if not _padding_is_harmless(self._new_generator(), model):
            self._reading_rows = 1
        self._generator = self._new_generator()
        budget = options.prefix_bytes
        self._checkpoints = Checkpoints(
            model, int(PREFIX_SHARE * device.memory_bytes) if budget is None else budget
        )
        self.counts = Counts()

    @property
    def rows(self) -> list[Sequence]:
        """The sequences being read or decoded, oldest first."""
        return [*self._rows.values(), *(row for row, _ in self._held_up)]

    @property
    def waiting(self) -> int:
        """Sequences beyond those that can decode together."""
        return max(0, len(self._rows) + len(self._held_up) - self._options.rows)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence, from its beginning or from where it was when it was removed."""
        tokens = sequence.prompt + sequence.answer
        with mx.stream(self._stream):
            goal = self._checkpoints.goal(tokens)
            if goal:
                self._held_up.append((sequence, goal))
            else:
                self._insert(sequence, tokens)

    def _insert(self, sequence: Sequence, tokens: list[int]) -> None:
        length, cache = self._checkpoints.latest_of(tokens)
        (uid,) = self._generator.insert(
            [tokens[length:]],
            max_tokens=[_NO_LIMIT],
            caches=[cache],
            all_tokens=[tokens[:length]],
            samplers=[counting(make_sampler(sequence.sampling), len(sequence.answer))],
            logits_processors=[make_processors(sequence.sampling, len(sequence.prompt))],
        )
        self._rows[uid] = sequence
        sequence.reused = min(length, len(sequence.prompt))
        self.counts.read += max(0, len(sequence.prompt) - length)
        self.counts.reused += sequence.reused
        if sequence.begun is None:
            sequence.begun = time.perf_counter()
            self.counts.begun += 1
            self.counts.queue_s += sequence.begun - sequence.submitted

    def remove(self, sequence: Sequence) -> None:
        """Free a sequence's row, in whatever stage it is."""
        self._held_up = [held for held in self._held_up if held[0] is not sequence]
        uids = [uid for uid, row in self._rows.items() if row is sequence]
        for uid in uids:
            del self._rows[uid]
        self._generator.remove(uids)

    def step(self) -> list[tuple[Sequence, Drawn]]:
        """Read a slice of the new prompts and draw one token for every row that has been read."""
        self._make_checkpoint()
        reading, responses = self._generator.next()
        for rows in (len(reading), len(responses)):
            if rows:
                self.counts.run(rows)
        self.counts.decoded += len(responses)
        return [
            (row, _drawn(row, response.token, response.logprobs))
            for response in responses
            if (row := self._rows.get(response.uid)) is not None
        ]

    def embed(self, tokens: list[int]) -> list[float]:
        """A text's tokens as a vector; see `mean_hidden`."""
        with mx.stream(self._stream):
            return mean_hidden(self._model, tokens)

    def _make_checkpoint(self) -> None:
        """Read a slice of what the longest-waiting rows begin with, and let go who has it all."""
        if not self._held_up:
            return
        with mx.stream(self._stream):
            first, goal = self._held_up[0]
            wanted = (first.prompt + first.answer)[:goal]
            self.counts.read += self._checkpoints.read_on(wanted, self._slice)
            self.counts.run(1)
            self.counts.prefix_bytes = self._checkpoints.stored_bytes
            held_up, self._held_up = self._held_up, []
            for sequence, goal in held_up:
                tokens = sequence.prompt + sequence.answer
                if self._checkpoints.reached(tokens, goal):
                    self._insert(sequence, tokens)
                else:
                    self._held_up.append((sequence, goal))

    def reset(self) -> None:
        """Drop every row and start anew, after a step that failed."""
        self._rows.clear()
        self._held_up.clear()
        self._checkpoints.clear()
        self._generator.close()
        self._generator = self._new_generator()

    def close(self) -> None:
        """Give the memory and the device back; the thread is done with MLX.

        MLX joins a stream's own thread when the thread that made it ends. `Thread.join` does not
        wait for that, so at the end of the process the two raced and Python was aborted.
        """
        self._rows.clear()
        self._held_up.clear()
        self._generator.close()
        del self._generator, self._model, self._checkpoints
        mx.synchronize(self._stream)
        mx.clear_cache()
        mx.clear_streams()

    def _new_generator(self) -> BatchGenerator:
        options = self._options
        return BatchGenerator(
            self._model,
            sampler=greedy,
            completion_batch_size=options.rows,
            prefill_batch_size=self._reading_rows,
            prefill_step_size=self._slice,
            stream=self._stream,
        )


def _padding_is_harmless(generator: BatchGenerator, model: Any) -> bool:
    """Whether prompts of unlike length can be read together: some models overlook the padding."""
    rows = [[1, 2, 3, 4, 5], [5, 4, 3]]
    try:
        uids = generator.insert(rows, max_tokens=[1, 1])
        drawn = {each.uid: each.logprobs for each in generator.next_generated()}
        while len(drawn) < len(uids):
            drawn |= {each.uid: each.logprobs for each in generator.next_generated()}
        for uid, row in zip(uids, rows, strict=True):
            alone = model(mx.array([row]), cache=make_prompt_cache(model))[0, -1]
            wanted = np.array((alone - mx.logsumexp(alone)).astype(mx.float32))
            given = np.array(drawn[uid].astype(mx.float32))
            if not np.allclose(given, wanted, atol=_CLOSE * float(np.abs(wanted).max())):
                return False
    # Models do with a cache what they like, and raise what they like.
    except Exception:  # noqa: BLE001
        return False
    finally:
        generator.close()
    return True


def _drawn(row: Sequence, token: int, logprobs: mx.array) -> Drawn:
    if row.logprobs is None:
        return Drawn(token)
    scores = np.array(logprobs.astype(mx.float32))
    count = min(row.logprobs, scores.size)
    best = np.argsort(-scores, kind="stable")[:count]
    top = tuple((int(other), float(scores[other])) for other in best)
    return Drawn(token, Score(token, float(scores[token]), top))
