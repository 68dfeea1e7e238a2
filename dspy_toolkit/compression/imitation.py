"""What a student is taught by a teacher: its answers, its states, and which tokens count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import mlx.core as mx
import numpy as np

from dspy_toolkit.compression.following import Course, follow, rows_source
from dspy_toolkit.compression.sampled import sample
from dspy_toolkit.compression.states import block_states, require_states
from dspy_toolkit.compression.subject import Unsupported
from dspy_toolkit.training.backbone import Abilities, abilities
from dspy_toolkit.training.batches import Batch, Source, rows_batch
from dspy_toolkit.training.language_loss import Arrays, Loss, answer_logits
from dspy_toolkit.training.losses import cross_entropy, kl_to_teacher
from dspy_toolkit.training.order import mlx_seed
from dspy_toolkit.training.packing import Row
from dspy_toolkit.training.tables import FLAG, number, one_of, whole

_ANSWER_TOKENS = 48


@dataclass(frozen=True, kw_only=True)
class Imitation:
    """How a student follows its teacher.

    Attributes:
        steps: updates.
        batch: rows of an update.
        learning_rate: highest one.
        seed: of the order of rows, and of sampling.
        divergence: "forward" is KL(teacher || student), "reverse" the other way round.
        temperature: what logits are divided by.
        truth: share of the loss that is cross-entropy of the answers as they stand.
        hidden: weight of the distance between the two models' states after each block.
        attribution: whether tokens count in `hidden` by what they contribute to the answer.
        on_policy: share of the batches whose answers the student writes itself.
    """

    steps: Annotated[int, whole(1)] = 200
    batch: Annotated[int, whole(1)] = 4
    learning_rate: Annotated[float, number(0, above=True)] = 1e-3
    seed: Annotated[int, whole(0)] = 0
    divergence: Annotated[str, one_of("forward", "reverse")] = "forward"
    temperature: Annotated[float, number(0, 100, above=True)] = 1.0
    truth: Annotated[float, number(0, 1)] = 0.0
    hidden: Annotated[float, number(0, 1000)] = 0.0
    attribution: Annotated[bool, FLAG] = False
    on_policy: Annotated[float, number(0, 1)] = 0.0


def imitate(
    student: Any,
    teacher: Any,
    rows: Sequence[Row],
    how: Imitation,
    *,
    vocabulary: int,
    end: int,
    run: str,
    scratch: Path,
    on_gpu: bool,
    after: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Train a student to answer as a teacher does; see `following.follow`.

    Args:
        vocabulary: rows of both embeddings.
        end: the token that ends an answer.
        after: called after each update.

    Raises:
        Unsupported: states are to be compared and cannot be.
    """
    teacher.freeze()
    student.unfreeze()
    if how.hidden:
        require_comparable(student, teacher, vocabulary)
    course = Course(how.steps, how.batch, how.learning_rate, how.seed, on_gpu)
    source: Source = rows_source(rows, course)
    if how.on_policy:
        source = OnPolicy(source, rows, student, how, end, course.workers)
    loss = imitation_loss(teacher, how, vocabulary)
    return follow(run, student, loss, source, course, scratch, after)


def imitation_loss(teacher: Any, how: Imitation, vocabulary: int) -> Loss:
    """The loss over the arrays of `batches.rows_batch`."""
    able = abilities(teacher, vocabulary)

    def loss(model: Any, batch: Arrays) -> tuple[mx.array, mx.array]:
        weights = batch["weights"]
        goal = mx.stop_gradient(answer_logits(teacher, batch, able))
        logits = answer_logits(model, batch, able)
        each = kl(logits, goal, how.divergence, how.temperature)
        if how.truth:
            each = (1 - how.truth) * each + how.truth * cross_entropy(logits, batch["targets"])
        total = (each * weights).sum()
        if how.hidden:
            shares = attributions(teacher, batch, able) if how.attribution else None
            total = total + how.hidden * weights.sum() * states_distance(
                model, teacher, batch["tokens"], shares
            )
        return total, weights.sum()

    return loss


def kl(logits: mx.array, goal: mx.array, divergence: str, temperature: float) -> mx.array:
    """Divergence of student from teacher (...,), one way or the other.

    Args:
        logits: (..., classes), the student's. goal: the teacher's; no gradient goes there.

    Source:
        Reverse: Gu et al., "MiniLLM", arXiv:2306.08543. Forward: Hinton et al., arXiv:1503.02531.
    """
    if divergence == "forward":
        return kl_to_teacher(logits, goal, temperature)
    own = logits.astype(mx.float32) / temperature
    own = own - mx.logsumexp(own, axis=-1, keepdims=True)
    other = mx.stop_gradient(goal).astype(mx.float32) / temperature
    other = other - mx.logsumexp(other, axis=-1, keepdims=True)
    return (mx.exp(own) * (own - other)).sum(axis=-1) * temperature**2


def states_distance(
    student: Any, teacher: Any, tokens: mx.array, shares: mx.array | None
) -> mx.array:
    """Mean over blocks of the squared distance of states, by the size of the teacher's.

    A student with fewer blocks is compared after the block that is as far through the model.

    Args:
        tokens: (rows, length). Padding, which is token 0 at the end, counts little: no answer
            depends on it and both models read it alike.
        shares: (rows, length), how much each token counts; None counts all alike.

    Source:
        SquareHead, Kurtic et al., "Sparse Fine-tuning for Inference Acceleration of Large
        Language Models", arXiv:2310.06927.
    """
    goals = [mx.stop_gradient(each) for each in block_states(teacher, tokens)][1:]
    states = block_states(student, tokens)[1:]
    parts = []
    for place, state in enumerate(states):
        goal = goals[matching_block(place, len(states), len(goals))]
        gap = ((state - goal) ** 2).mean(axis=-1)
        size = (goal**2).mean(axis=-1)
        if shares is not None:
            gap, size = gap * shares, size * shares
        parts.append(gap.sum() / mx.maximum(size.sum(), 1e-9))
    return mx.stack(parts).mean()


def matching_block(place: int, of: int, among: int) -> int:
    """The teacher's block that is as far through the model as the student's."""
    return round((place + 1) * among / of) - 1


def attributions(teacher: Any, batch: Arrays, able: Abilities) -> mx.array:
    """How much each token contributes to the answer's likelihood: |gradient * embedding|.

    Args:
        batch: of `batches.rows_batch`.

    Returns:
        (rows, length), mean 1 over all tokens; no gradient goes through it.

    Source:
        Gradient times input, Shrikumar et al., "Learning Important Features Through Propagating
        Activation Differences", arXiv:1704.02685; weighting distillation by it, Wu et al.,
        "AD-KD: Attribution-Driven Knowledge Distillation", arXiv:2305.10010.
    """
    tokens = batch["tokens"]
    embedded = teacher.model.embed_tokens(tokens)

    def surprise(inputs: mx.array) -> mx.array:
        states = block_states(teacher, tokens, inputs)
        final = teacher.model.norm(states[-1])
        head = getattr(teacher, "lm_head", None) or teacher.model.embed_tokens.as_linear
        logits = head(final.reshape(-1, final.shape[-1])[batch["places"]])
        return (cross_entropy(logits, batch["targets"]) * batch["weights"]).sum()

    slope = mx.grad(surprise)(embedded)
    size = mx.abs((slope * embedded).sum(axis=-1))
    return mx.stop_gradient(size / mx.maximum(size.mean(), 1e-12))


def require_comparable(student: Any, teacher: Any, vocabulary: int) -> None:
    """Make sure that two models' states can be compared.

    Raises:
        Unsupported: their widths differ, or an architecture cannot be run block by block.
    """
    require_states(teacher, vocabulary, "the teacher")
    widths = [each.model.norm.weight.shape[0] for each in (student, teacher)]
    if widths[0] != widths[1]:
        raise Unsupported(
            f"states of width {widths[0]} and {widths[1]} cannot be compared; leave out --hidden, "
            "or keep the width"
        )


class OnPolicy:
    """Batches some of whose answers the student writes itself at temperature 1.

    What the student writes in training is what it must learn to judge.

    Source:
        Agarwal et al., "On-Policy Distillation of Language Models", arXiv:2306.13649.
    """

    def __init__(
        self,
        given: Source,
        rows: Sequence[Row],
        student: Any,
        how: Imitation,
        end: int,
        workers: int = 1,
    ) -> None:
        self._given = given
        self._rows = rows
        self._student = student
        self._how = how
        self._end = end
        self._workers = workers

    def batch(self, index: int) -> Batch:
        """A batch by number; the share of own answers is spread evenly over the numbers."""
        share = self._how.on_policy
        if int((index + 1) * share) == int(index * share):
            return self._given.batch(index)
        size = self._how.batch
        chosen = [self._rows[(index * size + i) % len(self._rows)] for i in range(size)]
        answered = [self._answered(row, index) for row in chosen]
        return rows_batch(answered, False, self._workers)

    def _answered(self, row: Row, index: int) -> Row:
        begin = int(np.flatnonzero(row.goals)[0])
        prompt = mx.array(row.tokens[:begin])[None]
        self._student.eval()
        seed = mlx_seed(self._how.seed, index) & 0xFFFFFFFF
        drawn: Any = sample(self._student, prompt, _ANSWER_TOKENS, seed)[0].tolist()
        self._student.train()
        answer = drawn[begin:]
        if self._end in answer:
            answer = answer[: answer.index(self._end) + 1]
        tokens = np.array([*drawn[:begin], *answer], np.int32)
        goals = (np.arange(len(tokens)) >= begin).astype(np.float32)
        return Row(tokens, goals, np.ones(len(tokens), np.int32), row.places)
