"""Calibration sets: what a model reads while it is measured and compressed, kept by content."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dspy_toolkit.config import Settings
from dspy_toolkit.errors import IntegrityError, InvalidInput
from dspy_toolkit.store.files import new_folder, sha256_file, sha256_json, write_text
from dspy_toolkit.store.manifest import read_manifest, write_manifest
from dspy_toolkit.training.encode import Encoded
from dspy_toolkit.training.packing import Row, one_each

FEWEST_ROWS = 8
_HELD_OUT_EVERY = 4
_ROWS = "rows.jsonl"


@dataclass(frozen=True)
class CalibrationSet:
    """Rows of tokens with the place where the answer begins.

    Every fourth row is held out: techniques never see it, and errors are measured on it.

    Attributes:
        digest: hex SHA-256 of rows and tokenizer.
        source: where the rows come from, for people.
        tokenizer: hex SHA-256 of the tokenizer's file.
        rows: one an example.
    """

    digest: str
    source: str
    tokenizer: str
    rows: tuple[Row, ...]

    @property
    def fit(self) -> list[Row]:
        """The rows that techniques may use."""
        return [row for i, row in enumerate(self.rows) if i % _HELD_OUT_EVERY]

    @property
    def held(self) -> list[Row]:
        """The rows that errors are measured on."""
        return list(self.rows[::_HELD_OUT_EVERY])

    def windows(self, length: int, most: int) -> np.ndarray:
        """Equally long pieces of the rows for techniques, each with the end of a row.

        Longer rows give their last `length` tokens, because prompts that share their beginning
        differ there; shorter ones are laid end to end.

        Returns:
            (windows, length) int32; `length` is the longest there is where no row is longer.

        Raises:
            InvalidInput: the rows do not fill one window.
        """
        rows = [row.tokens for row in self.fit]
        length = min(length, sum(len(row) for row in rows))
        whole = [row[-length:] for row in rows if len(row) >= length]
        short = [row for row in rows if len(row) < length]
        if short:
            stream = np.concatenate(short)
            count = len(stream) // length
            whole += list(stream[: count * length].reshape(count, length))
        if length < 2 or not whole:
            raise InvalidInput(
                f"calibration set {self.digest[:12]} ({self.source}) is too small; give more text"
            )
        return np.stack(whole[:most]).astype(np.int32)


def calibration_set(
    examples: Sequence[Encoded], source: str, model: Path, settings: Settings, longest: int
) -> CalibrationSet:
    """Make a set and keep it in `<home>/calibration`.

    Args:
        examples: rows in order; each ends with what is predicted.
        source: where they come from.
        model: folder whose tokenizer they were made with.
        longest: tokens of a row that are kept, counted from its end.

    Raises:
        InvalidInput: there are fewer than `FEWEST_ROWS`.
    """
    cut = [
        Encoded(each.tokens[-longest:], each.weights[-longest:], each.place)
        for each in examples
        if each.weights[-longest:][1:].any()
    ]
    if len(cut) < FEWEST_ROWS:
        raise InvalidInput(
            f"calibration data from {source} is too small: {len(cut)} usable examples, at least "
            f"{FEWEST_ROWS} are needed; give more examples, or another source with --calibration"
        )
    tokenizer = tokenizer_digest(model)
    lines = [_line(each) for each in cut]
    digest = sha256_json({"rows": lines, "tokenizer": tokenizer})
    folder = settings.home / "calibration" / digest[:16]
    if not folder.exists():
        with new_folder(folder) as fresh:
            write_text(fresh / _ROWS, "".join(json.dumps(line) + "\n" for line in lines))
            write_manifest(
                fresh,
                {"kind": "calibration", "digest": digest, "source": source, "tokenizer": tokenizer},
            )
    return load_calibration(folder)


def load_calibration(folder: Path) -> CalibrationSet:
    """Read a set that was kept.

    Raises:
        NotFound: there is none. IntegrityError: it was changed or is damaged.
    """
    manifest = read_manifest(folder, "calibration set")
    if manifest.get("kind") != "calibration":
        raise IntegrityError(f"{folder} is no calibration set; make one with --calibration")
    lines = [json.loads(line) for line in (folder / _ROWS).read_text().splitlines()]
    examples = []
    for number, line in enumerate(lines, start=1):
        tokens = np.array(line["tokens"], np.int32)
        weights = np.zeros(len(tokens), np.float32)
        for begin, end in line["answers"]:
            weights[begin:end] = 1.0
        examples.append(Encoded(tokens, weights, f"{folder / _ROWS}:{number}"))
    return CalibrationSet(
        digest=str(manifest["digest"]),
        source=str(manifest["source"]),
        tokenizer=str(manifest["tokenizer"]),
        rows=tuple(one_each(examples)),
    )


def tokenizer_digest(model: Path) -> str:
    """Hex SHA-256 of the files that decide a model's tokens."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "tiktoken.model")
    present = {name: sha256_file(model / name) for name in names if (model / name).is_file()}
    return sha256_json(present)


def _line(example: Encoded) -> dict[str, Any]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], example.weights > 0, [False]])))
    spans = edges.reshape(-1, 2).tolist()
    return {"tokens": example.tokens.tolist(), "answers": spans}
