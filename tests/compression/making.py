"""A small llama with plain weights, its packed twin, and something to read."""

from __future__ import annotations

from pathlib import Path

from dspy_toolkit.compression.calibration import CalibrationSet
from dspy_toolkit.compression.calibration_sources import from_file
from dspy_toolkit.compression.subject import look_at
from dspy_toolkit.config import Settings
from tests.engine.tiny import write_model

WORDS = ("order", "refund", "team", "parcel", "ticket", "late", "card", "broken", "urgent", "low")


def plain_model(folder: Path) -> Path:
    """Four heads of two groups, two layers, bfloat16."""
    return write_model(folder / "plain")


def wide_model(folder: Path) -> Path:
    """Wide enough that a product of thin matrices is faster on any machine."""
    return write_model(folder / "wide", more={"hidden_size": 512, "intermediate_size": 1024})


def packed_model(folder: Path) -> Path:
    """The same, packed into 4 bits."""
    return write_model(folder / "packed", bits=4)


def reading(folder: Path, model: Path, settings: Settings, rows: int = 16) -> CalibrationSet:
    """A calibration set of paragraphs."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(
        " ".join(WORDS[(7 * row + word * word) % len(WORDS)] for word in range(8))
        for row in range(rows)
    )
    (folder / "text.txt").write_text(text)
    return from_file(folder / "text.txt", look_at(str(model), settings), settings)
