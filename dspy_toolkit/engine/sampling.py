"""Choosing the next token of one row, from that row's logits and that row's own chance.

Randomness is a pure function of (seed, number of the token), so a row draws the same numbers
alone, in any batch, and when it is run again from the middle. mlx-lm's own samplers draw from
one global state, whose order depends on who else is in the batch.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

Sampler = Callable[[mx.array, int], mx.array]
LogitsProcessor = Callable[[mx.array, mx.array], mx.array]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one row's tokens are chosen. The fields mean what they mean in `EngineOptions`.

    `presence_penalty` is taken once from the logit of every token of the answer so far, and
    `frequency_penalty` once for each time it occurred there. `seed` None draws a fresh one.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repetition_context: int = 20
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None


def greedy(logprobs: mx.array, number: int = 0) -> mx.array:
    """Take the likeliest token of each row; (batch, vocab) to (batch,). `number` is nothing."""
    return mx.argmax(logprobs, axis=-1)


def make_sampler(sampling: Sampling) -> Sampler:
    """Build the sampler of one row.

    Returns:
        (1, vocab) logprobs, and how many tokens of the answer come before, to (1,) token. Greedy
        rows share one function, which takes any number of rows at once.
    """
    if sampling.temperature == 0:
        return greedy
    seed = secrets.randbits(64) if sampling.seed is None else sampling.seed

    def sample(logprobs: mx.array, number: int) -> mx.array:
        # Half precision would round many different tokens to the same score.
        kept = keep_top_p(logprobs.astype(mx.float32), sampling.top_p)
        kept = keep_top_k(keep_min_p(kept, sampling.min_p), sampling.top_k)
        key = token_key(seed, number)
        return mx.random.categorical(kept * (1.0 / sampling.temperature), key=key)

    return sample


def counting(sampler: Sampler, drawn: int) -> Callable[[mx.array], mx.array]:
    """A sampler that counts the answer's tokens itself, from `drawn` on."""
    if sampler is greedy:
        return greedy  # mlx-lm calls it once for all such rows
    count = drawn

    def sample(logprobs: mx.array) -> mx.array:
        nonlocal count
        count += 1
        return sampler(logprobs, count - 1)

    return sample


def make_processors(sampling: Sampling, prompt_tokens: int) -> list[LogitsProcessor]:
    """Build what changes a row's logits before sampling: ((tokens so far), (1, vocab)) -> same."""
    from mlx_lm.sample_utils import make_repetition_penalty

    processors: list[LogitsProcessor] = []
    if sampling.repetition_penalty != 1.0:
        processors.append(
            make_repetition_penalty(sampling.repetition_penalty, sampling.repetition_context)
        )
    if sampling.presence_penalty or sampling.frequency_penalty:
        processors.append(_answer_penalty(sampling, prompt_tokens))
    return processors


def _answer_penalty(sampling: Sampling, prompt_tokens: int) -> LogitsProcessor:
    def penalise(tokens: mx.array, logits: mx.array) -> mx.array:
        answer = tokens[prompt_tokens:]
        if answer.size == 0:
            return logits
        seen = mx.zeros((logits.shape[-1],), dtype=logits.dtype).at[answer].add(1.0)
        once = (seen > 0).astype(logits.dtype)
        return logits - sampling.presence_penalty * once - sampling.frequency_penalty * seen

    return penalise


def token_key(seed: int, number: int) -> mx.array:
    """The random key of one token: a hash of seed and position, for any whole seed."""
    digest = hashlib.blake2b(f"{seed}:{number}".encode(), digest_size=8).digest()
    return mx.array(
        [int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:], "big")], dtype=mx.uint32
    )


def keep_top_k(logprobs: mx.array, top_k: int) -> mx.array:
    """Mask all but the `top_k` likeliest tokens of each row; 0 or a large number keeps all.

    Args:
        logprobs: (batch, vocab), float. Masked entries become -inf.
        top_k: how many to keep. Of equally likely tokens at the edge all are kept.
    """
    if not 0 < top_k < logprobs.shape[-1]:
        return logprobs
    edge = mx.min(mx.topk(logprobs, top_k, axis=-1), axis=-1, keepdims=True)
    return mx.where(logprobs >= edge, logprobs, -math.inf)


def keep_min_p(logprobs: mx.array, min_p: float) -> mx.array:
    """Mask every token less than `min_p` times as likely as its row's best one; 0 keeps all.

    Args:
        logprobs: (batch, vocab), float, in nats. A row need not be normalised.
        min_p: share of the best token's probability, in [0, 1].

    Source:
        Nguyen et al., "Turning Up the Heat", arXiv:2407.01082.
    """
    if min_p <= 0.0:
        return logprobs
    floor = mx.max(logprobs, axis=-1, keepdims=True) + math.log(min_p)
    return mx.where(logprobs >= floor, logprobs, -math.inf)


def keep_top_p(logprobs: mx.array, top_p: float) -> mx.array:
    """Mask all but the likeliest tokens that together hold `top_p` of the probability.

    Args:
        logprobs: (batch, vocab), float, normalised, in nats.
        top_p: share in [0, 1]; 1 keeps all, 0 only the best.

    Source:
        Holtzman et al., "The Curious Case of Neural Text Degeneration", arXiv:1904.09751.
    """
    if top_p >= 1.0:
        return logprobs
    ordered = mx.sort(logprobs, axis=-1)
    shares = mx.exp(ordered.astype(mx.float32))
    above = mx.cumsum(shares, axis=-1, reverse=True, inclusive=False)
    # The likeliest token has nothing above it and always stays.
    dropped = mx.minimum(mx.sum(above >= top_p, axis=-1, keepdims=True), logprobs.shape[-1] - 1)
    edge = mx.take_along_axis(ordered, dropped, axis=-1)
    return mx.where(logprobs >= edge, logprobs, -math.inf)
