"""What a compile run is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dspy_toolkit.compiler.course import Course
from dspy_toolkit.compiler.gate import ALPHA
from dspy_toolkit.programs.finetune_provider import TrainAdapter
from dspy_toolkit.programs.lm import LocalLM


@dataclass(frozen=True)
class CompileOptions:
    """What a run may choose over what its task says.

    Attributes:
        optimizer: name; None takes the task's.
        options: options of the optimizer, laid over the task's where it is the same one.
        model: reference of the model; None takes the task's, then the settings'.
        adapter: folder of a fine-tune laid over the model.
        lm: a language model made in Python, instead of `model`.
        teacher: reference of a model that makes demonstrations, or one made in Python; None takes
            the task's, then the model itself.
        prompt_model: the same for the model that writes instructions, rules and advice.
        adapters: makes a trainer of adapters from its options, for optimizers that fine-tune.
        seed: of everything random in the run.
        threads: examples in work at once; None takes the settings'.
        output: where to put a copy of the artifact; must not exist yet.
        against: an artifact the result has to beat, or its run's folder; None for the bare program.
        alpha: chance that the verdict between equally good programs is wrong, in (0, 1).
        keep_anyway: make an artifact even of a result that is worse.
        name: what the run is called; None takes the task's.
        format: prompt format, see `programs.formats`; None takes the task's, or `chat`.
        course: whether the run begins anew, and how far it may go.
    """

    optimizer: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    adapter: Path | None = None
    lm: LocalLM | None = None
    teacher: str | LocalLM | None = None
    prompt_model: str | LocalLM | None = None
    adapters: Callable[..., TrainAdapter] | None = None
    seed: int = 0
    threads: int | None = None
    output: Path | None = None
    against: Path | None = None
    alpha: float = ALPHA
    keep_anyway: bool = False
    name: str | None = None
    format: str | None = None
    course: Course = field(default_factory=Course)
