"""Where calibration data come from: a task's own prompts, a file, or the model's own samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from dspy_toolkit.compression.calibration import CalibrationSet, calibration_set, load_calibration
from dspy_toolkit.compression.opened import open_subject, working_device
from dspy_toolkit.compression.sampled import sample
from dspy_toolkit.compression.subject import Subject
from dspy_toolkit.config import Settings
from dspy_toolkit.engine.sizes import context_length
from dspy_toolkit.errors import InvalidInput, NotFound
from dspy_toolkit.store.files import read_text, sha256_json, write_text
from dspy_toolkit.store.manifest import NAME as MANIFEST
from dspy_toolkit.training.encode import Encoded, Encoder
from dspy_toolkit.training.examples import example_from, read_examples

if TYPE_CHECKING:
    from dspy_toolkit.compiler.trial import Trial

SAMPLES = "samples"
LONGEST = 1024
_SAMPLES = 64
_SAMPLE_TOKENS = 256


def calibration_from(
    source: str | None, task: Path | None, subject: Subject, settings: Settings
) -> CalibrationSet:
    """The calibration set a command names.

    Args:
        source: "samples", a file, or a kept set's folder; None takes the task's own prompts.
        task: a task folder or an artifact.
        subject: the model, whose tokenizer and answers it is made with.
        settings: where it is kept.

    Raises:
        InvalidInput: neither is given, or the data are too few.
    """
    if source == SAMPLES:
        return from_samples(subject, settings)
    if source is not None:
        place = Path(source).expanduser()
        if (place / MANIFEST).is_file():
            return load_calibration(place)
        return from_file(place, subject, settings)
    if task is None:
        raise InvalidInput(
            "this method needs calibration data; name a task with --task, or a file or 'samples' "
            "with --calibration"
        )
    from dspy_toolkit.compiler.trial import Trial

    return from_task(Trial(task, settings=settings), subject, settings)


def from_task(
    trial: Trial,
    subject: Subject,
    settings: Settings,
    splits: tuple[str, ...] = ("train", "validation"),
) -> CalibrationSet:
    """The prompts and answers of a program on its own examples, run on the original model.

    Kept under what decides them, so that the program is not run twice. Test examples are never
    among them.
    """
    key = sha256_json({"trial": trial.digest, "model": subject.digest, "splits": list(splits)})
    note = settings.home / "calibration" / "by-task" / f"{key[:32]}.txt"
    if note.is_file():
        known = settings.home / "calibration" / read_text(note, "note").strip()
        if known.is_dir():
            return load_calibration(known)
    conversations = trial.traces(subject.reference, trial.examples(*splits))
    encoder = Encoder(_tokenizer(subject, settings), "last")
    rows = []
    for number, turns in enumerate(conversations, start=1):
        place = f"conversation {number} of {trial.task.name}"
        rows.append(encoder(example_from({"messages": turns}, place)))
    made = calibration_set(
        rows, f"task {trial.task.name}", subject.folder, settings, _longest(subject)
    )
    write_text(note, made.digest[:16] + "\n")
    return made


def from_file(file: Path, subject: Subject, settings: Settings) -> CalibrationSet:
    """Chat or completion examples from JSON Lines, or paragraphs of a plain text."""
    if file.is_dir():
        raise NotFound(f"{file} is no calibration set and no file; give one of them")
    tokenizer = _tokenizer(subject, settings)
    if file.suffix == ".jsonl":
        rows = [*map(Encoder(tokenizer, "last"), read_examples([file]))]
    else:
        paragraphs = read_text(file, "calibration file").split("\n\n")
        rows = [_text(tokenizer, each.strip(), str(file)) for each in paragraphs if each.strip()]
    return calibration_set(rows, f"file {file.name}", subject.folder, settings, _longest(subject))


def from_samples(
    subject: Subject, settings: Settings, count: int = _SAMPLES, seed: int = 0
) -> CalibrationSet:
    """Texts the model writes itself at temperature 1, each from a first token drawn at random.

    Source:
        Liu et al., "LLM-QAT", arXiv:2305.17888, section 3.1.
    """
    device = working_device(settings)
    length = min(_SAMPLE_TOKENS, _longest(subject))
    with mx.stream(device.kind):
        opened = open_subject(subject, device)
        drawn: Any = sample(
            opened.model, _first_tokens(opened, count, seed), length - 1, seed
        ).tolist()
    rows = [
        Encoded(np.array(row, np.int32), _after_first(length), f"sample {i}")
        for i, row in enumerate(drawn)
    ]
    source = f"samples of {subject.name}, seed {seed}"
    return calibration_set(rows, source, subject.folder, settings, length)


def _first_tokens(opened: Any, count: int, seed: int) -> mx.array:
    special = set(opened.tokenizer.all_special_ids)
    known = np.array(sorted(set(opened.tokenizer.get_vocab().values()) - special))
    chosen = np.random.default_rng(seed).choice(known, size=count)
    return mx.array(chosen.astype(np.int32))[:, None]


def _text(tokenizer: Any, text: str, place: str) -> Encoded:
    tokens = np.array(tokenizer.encode(text, add_special_tokens=False), np.int32)
    return Encoded(tokens, _after_first(len(tokens)), place)


def _after_first(length: int) -> np.ndarray:
    return (np.arange(length) > 0).astype(np.float32)


def _tokenizer(subject: Subject, settings: Settings) -> Any:
    from mlx_lm.utils import load_tokenizer

    working_device(settings)
    return load_tokenizer(subject.folder, eos_token_ids=subject.config.get("eos_token_id"))


def _longest(subject: Subject) -> int:
    return min(LONGEST, context_length(subject.config) or LONGEST)
