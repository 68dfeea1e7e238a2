"""Starting the thread of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dspy_toolkit.engine.device import Device, limit_memory
from dspy_toolkit.engine.file_limit import file_limit_kept
from dspy_toolkit.engine.flights import Flights
from dspy_toolkit.engine.grammar import Grammars
from dspy_toolkit.engine.options import EngineOptions
from dspy_toolkit.engine.source import ModelSource
from dspy_toolkit.engine.worker import Rows, Worker
from dspy_toolkit.store.files import sha256_json

if TYPE_CHECKING:
    from dspy_toolkit.engine.kept import KeptPrefixes


@dataclass(frozen=True)
class Facts:
    """What callers know of a loaded model without touching it.

    Attributes:
        tokenizer: mlx-lm's wrapper.
        eos: tokens that end an answer.
        context: most tokens of prompt and answer together, or None where the model names none.
        dtype, device: where it runs, and in which numbers.
        expanded: whether quantized weights were expanded to plain ones.
        unshared: why calls cannot share what they have in common, or None where they do.
        copies: why each call has a copy of what calls have in common and reads that in every step,
            or None where a step reads it once for all of them.
        grammars: reads grammars for its tokenizer.
        flights: the calls in work.
    """

    tokenizer: Any
    eos: frozenset[int]
    context: int | None
    dtype: str
    device: str
    expanded: bool
    unshared: str | None
    grammars: Grammars
    copies: str | None = None
    flights: Flights = field(default_factory=Flights)


def start_worker(
    source: ModelSource, options: EngineOptions, device: Device, files: str, home: Path
) -> Worker[Facts]:
    """Start the thread of a model; returns when it is loaded.

    Args:
        source: the model.
        options: how to load it.
        device: where it runs.
        files: digest of its files.
        home: where prefixes are kept that are to outlive the process.

    Raises:
        What `weights.load_model` raises.
    """

    def load() -> tuple[Facts, Rows]:
        from mlx.core import clear_streams

        with file_limit_kept():
            from dspy_toolkit.engine.plain_step import PlainStepper
            from dspy_toolkit.engine.runner import Runner, Unshareable
            from dspy_toolkit.engine.step import Stepper
            from dspy_toolkit.engine.weights import load_model

        limit_memory(device)
        try:
            loaded = load_model(source.folder, options.adapter, device)
        except BaseException:
            clear_streams()
            raise
        unshared: str | None = None
        copies: str | None = None
        batch: Rows
        try:
            runner = Runner(loaded.model, cpu=device.name == "cpu")
            copies = runner.copies
            batch = Stepper(runner, options, device, _kept(options, device, files, home))
        except Unshareable as error:
            unshared = f"{error}; what calls begin with is kept at checkpoints"
            batch = PlainStepper(loaded.model, options, device)
        facts = Facts(
            tokenizer=loaded.tokenizer,
            eos=frozenset(loaded.tokenizer.eos_token_ids),
            context=loaded.context,
            dtype=loaded.dtype,
            device=device.name,
            expanded=loaded.expanded,
            unshared=unshared,
            copies=copies,
            grammars=Grammars(loaded.tokenizer, frozenset(loaded.tokenizer.eos_token_ids)),
        )
        return facts, batch

    return Worker(load, source.name, options.queue)


def _kept(options: EngineOptions, device: Device, files: str, home: Path) -> KeptPrefixes | None:
    if not options.prefix_disk_bytes:
        return None
    from dspy_toolkit.engine.kept import KeptPrefixes

    identity = f"{files} {device.name} {device.dtype}"
    folder = home / "prefixes" / sha256_json(identity)[:16]
    return KeptPrefixes(folder, identity, options.prefix_disk_bytes)
