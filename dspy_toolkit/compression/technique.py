"""The one interface of techniques: estimate, apply, check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from dspy_toolkit.compression.calibration import CalibrationSet
from dspy_toolkit.compression.opened import Opened
from dspy_toolkit.compression.subject import Subject
from dspy_toolkit.config import Settings


@dataclass(frozen=True)
class Estimate:
    """What a technique will need and give, known before it starts.

    Attributes:
        parameters: of the result.
        disk_bytes: of the result's weights.
        memory_bytes: most that is needed while it works.
        sure: whether the result's size follows from shapes alone.
    """

    parameters: int
    disk_bytes: int
    memory_bytes: int
    sure: bool = True


@dataclass(frozen=True)
class Work:
    """What a technique works with.

    Attributes:
        subject: the model as its files tell it.
        opened: the model in memory; the technique may change or consume it.
        options: the technique's own record.
        calibration: its data, where the technique needs any.
        scratch: a folder of this work alone; what is in it survives a kill and is gone afterwards.
        run: id for events.
        settings: for opening further models.
        again: opens the subject once more, unchanged.
    """

    subject: Subject
    opened: Opened
    options: Any
    calibration: CalibrationSet | None
    scratch: Path
    run: str
    settings: Settings
    again: Callable[[], Opened]

    @property
    def data(self) -> CalibrationSet:
        """The calibration set of a technique that needs one."""
        assert self.calibration is not None
        return self.calibration


@dataclass(frozen=True)
class Made:
    """What a technique made.

    Attributes:
        model: the new model in memory.
        config: its `config.json`.
        facts: what to record about the making.
    """

    model: Any
    config: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)


class Technique(Protocol):
    """A way to make a model smaller.

    Attributes:
        name: as commands and manifests have it.
        kind: the record of its options; see `training.tables.read_table`.
        version: part of every result's address; goes up when the same options give another result.
        as_stored: whether, where no calibration data are given, it computes nothing and so takes
            the weights in the type they are stored in.
    """

    name: str
    kind: type[Any]
    version: int
    as_stored: bool

    def label(self, options: Any) -> str:
        """The options in a few characters, for folder names and tables."""
        ...

    def needs_data(self, options: Any) -> bool:
        """Whether it needs a calibration set."""
        ...

    def refuse(self, subject: Subject, options: Any) -> None:
        """Raise `Unsupported` where the model's architecture or state does not allow it."""
        ...

    def estimate(self, subject: Subject, options: Any) -> Estimate:
        """What it will need and give, from shapes alone."""
        ...

    def apply(self, work: Work) -> Made:
        """Make the new model in memory."""
        ...

    def check(self, work: Work, made: Made, model: Any) -> dict[str, Any]:
        """Hold the model, loaded again from its folder, to what was promised.

        Returns:
            Measures for the manifest.

        Raises:
            IntegrityError: it is not what it should be.
        """
        ...
