"""Which candidates a pipeline tries: techniques with settings, and chains of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dspy_toolkit.compression.packing import AFFINE_GROUPS
from dspy_toolkit.compression.subject import Subject
from dspy_toolkit.compression.techniques import technique
from dspy_toolkit.errors import InvalidInput, nearest
from dspy_toolkit.training.tables import read_table


@dataclass(frozen=True)
class Step:
    """One technique with its options."""

    technique: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Candidate:
    """A chain of steps under a name."""

    name: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Refused:
    """A candidate that a model does not allow, and why."""

    name: str
    reason: str


_HEAL = {"heal": True, "steps": 60, "batch": 4, "learning_rate": 2e-3}
_CUT = {"ffn-10": ("ffn", 0.10), "width-25": ("width", 0.25), "layers-10": ("layers", 0.10)}


def table(group: int) -> dict[str, Candidate]:
    """Every candidate by name, packed ones with groups of a size."""
    packed = {
        "rtn-8": Step("rtn", {"bits": 8, "group": group}),
        "mixed-5": Step("mixed", {"target": 5.5, "group": group}),
        "rtn-4": Step("rtn", {"bits": 4, "group": group}),
        "rtn-3": Step("rtn", {"bits": 3, "group": group}),
        "rtn-2": Step("rtn", {"bits": 2, "group": group}),
        "awq-4": Step("awq", {"bits": 4, "group": group}),
        "smoothquant-4": Step("smoothquant", {"bits": 4, "group": group}),
        "gptq-4": Step("gptq", {"bits": 4, "group": group}),
        "dwq-4": Step("dwq", {"bits": 4, "group": group, "steps": 40}),
        "dwq-3": Step("dwq", {"bits": 3, "group": group, "steps": 40}),
        "dwq-2": Step("dwq", {"bits": 2, "group": group, "steps": 40}),
    }
    cut = {
        name: Step("prune", {"structure": structure, "target": target, **_HEAL})
        for name, (structure, target) in _CUT.items()
    }
    thin = {"low-rank": Step("factorize", {"energy": 0.95, **_HEAL})}
    single = {name: Candidate(name, (step,)) for name, step in {**packed, **cut, **thin}.items()}
    chains = {
        f"{name}+{after}": Candidate(f"{name}+{after}", (cut[name], packed[after]))
        for name in _CUT
        for after in ("rtn-8", "dwq-4")
    }
    return {**single, **chains}


def planned(
    subject: Subject, names: Sequence[str] | None = None
) -> tuple[list[Candidate], list[Refused]]:
    """The candidates a model allows, and those it does not.

    Args:
        names: of candidates; None takes every single technique and every chain.

    Raises:
        InvalidInput: a name is none of the table's.
    """
    known = table(_group(subject))
    for name in names or ():
        if name not in known:
            raise InvalidInput(f"candidate {name!r} does not exist; {nearest(name, known)}")
    allowed: list[Candidate] = []
    refused: list[Refused] = []
    for name in names or known:
        candidate = known[name]
        reason = _refusal(subject, candidate)
        if reason is None:
            allowed.append(candidate)
        else:
            refused.append(Refused(name, reason))
    return allowed, refused


def _refusal(subject: Subject, candidate: Candidate) -> str | None:
    """Why the first step cannot be done; later ones start from a model that does not exist yet."""
    step = candidate.steps[0]
    way = technique(step.technique)
    try:
        way.refuse(subject, read_table(way.kind, step.options, candidate.name, Path.cwd()))
    except InvalidInput as error:
        return str(error)
    return None


def _group(subject: Subject) -> int:
    """The usual group of 64, or a smaller one where rows do not divide."""
    widths = [t.shape[-1] for name, t in subject.tensors.items() if name.endswith("proj.weight")]
    fitting = [g for g in AFFINE_GROUPS if g <= 64 and all(width % g == 0 for width in widths)]
    return max(fitting, default=32)
