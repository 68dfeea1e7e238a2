"""DSPy's decision outputs (Choice, Noul, Score) with measured probabilities.

For a model that only writes, DSPy asks for a distribution in words: its decision adapter replaces
the output by a record of probabilities. Here the model is shown the options themselves, they are
weighed, and the record is filled in from that.
"""

from __future__ import annotations

from typing import Any, Literal

import dspy
from dspy.adapters.decision import evidence_type
from pydantic import BaseModel

_KINDS = {name: f"{name}Evidence" for name in ("Noul", "Choice", "Score")}


def without_evidence(signature: type[dspy.Signature]) -> type[dspy.Signature]:
    """The signature with options in the place of records; itself if it has no such record."""
    shown = signature
    for name, info in signature.output_fields.items():
        if _is_evidence(info.annotation):
            shown = shown.with_updated_fields(name, type_=_options(info.annotation))
    return shown


def as_evidence(
    signature: type[dspy.Signature], found: dict[str, dict[Any, float]]
) -> dict[str, dict[str, Any]]:
    """The records of a signature's decisions, from the probabilities of their options.

    Raises:
        KeyError: a decision was not weighed.
    """
    return {
        name: record_of_weights(info.annotation.__name__.removesuffix("Evidence"), found[name])
        for name, info in signature.output_fields.items()
        if _is_evidence(info.annotation)
    }


def record_of_weights(kind: str, weights: dict[Any, float]) -> dict[str, Any]:
    """DSPy's record of a decision.

    The confidence in a choice or a score is the probability of the likeliest option.

    Args:
        kind: "noul", "choice" or "score", in any case.
        weights: by option: True and False, labels, or levels from 0 on.
    """
    if kind.lower() == "noul":
        return {"noul": weights[True]}
    named = {str(option): weight for option, weight in weights.items()}
    return {"probabilities": named, "confidence": max(named.values())}


def _is_evidence(kind: Any) -> bool:
    return (
        isinstance(kind, type)
        and issubclass(kind, BaseModel)
        and kind.__name__ in _KINDS.values()
        and kind.__module__ == evidence_type.__module__
    )


def _options(kind: Any) -> Any:
    if kind.__name__ == _KINDS["Noul"]:
        return bool
    fields = kind.model_fields["probabilities"].annotation.model_fields.values()
    labels = [each.alias for each in fields]
    if kind.__name__ == _KINDS["Score"]:
        labels = [int(label) for label in labels]
    return Literal[tuple(labels)]
