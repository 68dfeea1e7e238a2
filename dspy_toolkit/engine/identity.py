"""From a model's files and options to the device it runs on and the string DSPy's cache sees."""

from __future__ import annotations

from dataclasses import dataclass

from dspy_toolkit.config import Settings
from dspy_toolkit.engine.device import Device, choose_device
from dspy_toolkit.engine.digest import answer_digest, model_digest
from dspy_toolkit.engine.options import EngineOptions
from dspy_toolkit.engine.source import ModelSource


@dataclass(frozen=True)
class Identity:
    """What a model is here.

    Attributes:
        device: where it runs, and in which numbers.
        files: digest of its files and of its adapter's.
        model_string: `mlx/<name>#<12 hex digits>` of everything that decides an answer.
    """

    device: Device
    files: str
    model_string: str


def identify(source: ModelSource, options: EngineOptions, settings: Settings) -> Identity:
    """Decide device and number type and hash what decides the answers.

    Raises:
        ModelBroken: the model's files are not in order. EngineError: no such device.
    """
    device = choose_device(
        settings.device if options.device == "auto" else options.device,
        settings.dtype if options.dtype == "auto" else options.dtype,
    )
    files = model_digest(source.folder, options.adapter, settings.home)
    digest = answer_digest(files, device.dtype, options)
    return Identity(device, files, f"mlx/{source.name}#{digest[:12]}")
