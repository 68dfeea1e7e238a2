"""A model's weights as plain float32 matrices, whatever it was packed or factorized into."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from dspy_toolkit.compression.layout import Layout, layout_of
from dspy_toolkit.compression.opened import Opened, open_subject
from dspy_toolkit.compression.subject import Subject, Tensor, look_at
from dspy_toolkit.config import Settings
from dspy_toolkit.engine.chat import Chat
from dspy_toolkit.engine.device import choose_device
from dspy_toolkit.engine.low_rank import KEY

_QUESTIONS = ("Name a team.", "The parcel is late, please help today!", "2 + 2 = ?", "refund: yes")
_PACKING = ("quantization", "quantization_config", KEY)


@dataclass(frozen=True)
class PlainModel:
    """A model as other runtimes want it.

    Attributes:
        subject: the model on disk.
        opened: in memory, on the CPU in float32.
        config: without what says how it was packed.
        weights: float32 by name.
        layout: its sizes.
    """

    subject: Subject
    opened: Opened
    config: dict[str, Any]
    weights: dict[str, np.ndarray]
    layout: Layout


@dataclass(frozen=True)
class Probe:
    """A question, the prompt it becomes, and that prompt's tokens."""

    question: str
    text: str
    tokens: list[int]


def plain_model(reference: str, settings: Settings) -> PlainModel:
    """Load a llama-like model on the CPU and expand it.

    Raises:
        NotFound, EngineError: it cannot be loaded. Unsupported: it is not llama-like.
    """
    subject = look_at(reference, settings)
    device = choose_device("cpu", "float32")
    with mx.stream(device.kind):
        opened = open_subject(subject, device)
        arrays = dict(tree_flatten(opened.model.parameters()))
        weights = {
            name: np.array(array.astype(mx.float32)) for name, array in _multiplied(arrays).items()
        }
    config = {key: value for key, value in subject.config.items() if key not in _PACKING}
    tensors = {name: Tensor("F32", array.shape) for name, array in weights.items()}
    layout = layout_of(replace(subject, tensors=tensors), done="exported")
    return PlainModel(subject, opened, config, weights, layout)


def answers(model: Any, prompts: list[list[int]], new: int) -> list[list[int]]:
    """The likeliest tokens after each prompt, one after the other, without a cache."""
    found = []
    for prompt in prompts:
        tokens = list(prompt)
        for _ in range(new):
            logits = model(mx.array([tokens]))[0, -1]
            choice: Any = logits.argmax().item()
            tokens.append(int(choice))
        found.append(tokens[len(prompt) :])
    return found


def probes(plain: PlainModel) -> list[Probe]:
    """Questions to compare answers on, through the model's own chat template."""
    chat = Chat(plain.opened.tokenizer, {})
    rendered = [chat.render([{"role": "user", "content": each}], [], {}) for each in _QUESTIONS]
    return [
        Probe(question, text, chat.encode(text))
        for question, text in zip(_QUESTIONS, rendered, strict=True)
    ]


def copy_beside(source: Path, target: Path) -> None:
    """Copy tokenizer and template of a model into another folder."""
    from dspy_toolkit.training.result import copy_tokenizer

    copy_tokenizer(source, target)


def _multiplied(arrays: dict[str, mx.array]) -> dict[str, mx.array]:
    whole = {}
    for name, array in arrays.items():
        stem, _, leaf = name.rpartition(".")
        if leaf == "up" and f"{stem}.down" in arrays:
            whole[f"{stem}.weight"] = array @ arrays[f"{stem}.down"]
        elif not (leaf == "down" and f"{stem}.up" in arrays):
            whole[name] = array
    return whole
