"""Head models: train one, open one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.engine.blas import preload_blas
from dspy_toolkit.registry import SignatureRecord
from dspy_toolkit.training.head_options import HeadExample, HeadOptions

if TYPE_CHECKING:
    from dspy_toolkit.training.head_model import HeadModel


def train_heads(
    record: SignatureRecord,
    train: Sequence[HeadExample],
    validation: Sequence[HeadExample],
    options: HeadOptions | None = None,
    settings: Settings | None = None,
    work: Path | None = None,
) -> HeadModel:
    """Train a head for each output of a signature.

    Args:
        record: the signature.
        train: at least one example; answers no head can give are left out.
        validation: what the best weights are chosen by.
        options: how.
        settings: device, type and home.
        work: folder for checkpoints; a training that stopped there goes on. None uses a
            temporary one.

    Raises:
        InvalidInput: an output is of a type no head gives, or examples are missing.
        TrainingDiverged: the loss became no number.
    """
    chosen = settings or load_settings()
    preload_blas(chosen.blas)
    from dspy_toolkit.training.head_training import fit_heads

    return fit_heads(record, train, validation, options or HeadOptions(), chosen, work)


def load_heads(folder: Path, settings: Settings | None = None) -> HeadModel:
    """Open a head model that was saved.

    Raises:
        NotFound: there is no such folder. IntegrityError: it was changed, or its backbone was.
    """
    chosen = settings or load_settings()
    preload_blas(chosen.blas)
    from dspy_toolkit.training.head_model import HeadModel

    return HeadModel.load(folder, chosen)


def examples_of(record: SignatureRecord, rows: Sequence[Mapping[str, Any]]) -> list[HeadExample]:
    """Examples of flat rows, as in a task's data files or taken from traces."""
    inputs = [each.name for each in record.inputs]
    outputs = [each.name for each in record.outputs]
    return [
        HeadExample(
            {name: row[name] for name in inputs if name in row},
            {name: row[name] for name in outputs if name in row},
        )
        for row in rows
    ]
