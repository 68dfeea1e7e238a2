"""The loss of a language model over the tokens of its answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx

from dspy_toolkit.training import losses
from dspy_toolkit.training.backbone import Abilities, hidden_states, project
from dspy_toolkit.training.recipe import LossRecipe

Arrays = Mapping[str, mx.array]
Loss = Callable[[Any, Arrays], tuple[mx.array, mx.array]]
"""From a model and a batch's arrays to (sum of the loss, how much it is a sum over)."""

_SMOOTHING = 0.1
_GAMMA = 2.0
_TEMPERATURE = 2.0
_TEACHERS_SHARE = 0.5


def answer_logits(model: Any, batch: Arrays, able: Abilities) -> mx.array:
    """Logits (n, vocabulary) at the batch's `places` only.

    A vocabulary is many times wider than a model, so projecting the places that carry a loss,
    and no others, saves most of the work where prompts are long.
    """
    if able.splits:
        hidden = hidden_states(model, batch["tokens"], batch.get("documents"))
        return project(model, hidden.reshape(-1, hidden.shape[-1])[batch["places"]])
    logits: mx.array = model(batch["tokens"])
    return logits.reshape(-1, logits.shape[-1])[batch["places"]]


def answer_loss(recipe: LossRecipe, able: Abilities, teacher: Any = None) -> Loss:
    """The loss a recipe names, for batches of `batches.rows_batch`.

    Args:
        recipe: which loss, and its options.
        able: what the model allows.
        teacher: the model to follow with kl.
    """
    per_token = _per_token(recipe)

    def loss(model: Any, batch: Arrays) -> tuple[mx.array, mx.array]:
        weights = batch["weights"]
        each = per_token(answer_logits(model, batch, able), batch, teacher)
        return (each * weights).sum(), weights.sum()

    def per_token_of_kl(logits: mx.array, batch: Arrays, teacher: Any) -> mx.array:
        goal = answer_logits(teacher, batch, able)
        share = _TEACHERS_SHARE if recipe.weight is None else recipe.weight
        followed = losses.kl_to_teacher(logits, goal, recipe.temperature or _TEMPERATURE)
        return share * followed + (1 - share) * losses.cross_entropy(logits, batch["targets"])

    if recipe.name == "kl":
        per_token = per_token_of_kl
    return loss


def plain_loss(able: Abilities) -> Loss:
    """Cross-entropy, which evaluations report whatever is trained."""
    return answer_loss(LossRecipe(), able)


def _per_token(recipe: LossRecipe) -> Callable[[mx.array, Arrays, Any], mx.array]:
    smoothing = _SMOOTHING if recipe.smoothing is None else recipe.smoothing
    gamma = _GAMMA if recipe.gamma is None else recipe.gamma

    def smoothed(logits: mx.array, batch: Arrays, teacher: Any) -> mx.array:
        return losses.label_smoothing(logits, batch["targets"], smoothing)

    def focused(logits: mx.array, batch: Arrays, teacher: Any) -> mx.array:
        return losses.focal(logits, batch["targets"], gamma)

    def plain(logits: mx.array, batch: Arrays, teacher: Any) -> mx.array:
        return losses.cross_entropy(logits, batch["targets"])

    return {"label_smoothing": smoothed, "focal": focused}.get(recipe.name, plain)
