"""What a user may choose about an engine, and how a call may override it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dspy_toolkit.errors import InvalidInput, reject_unknown_keys


@dataclass(frozen=True)
class EngineOptions:
    """How a model is loaded and how it answers unless a call says otherwise.

    Attributes:
        adapter: folder of a LoRA or full fine-tune made by mlx-lm, laid over the weights.
        device: "auto" (what the settings say), "gpu" or "cpu".
        dtype: "auto", "float32", "float16" or "bfloat16": the type of weights and arithmetic.
        context: longest prompt plus answer in tokens; None takes the model's own limit.
        rows: most calls that decode together.
        prefill_rows: most prompts that are read together.
        prefill_tokens: most tokens of each prompt that are read in one step; None takes 256 on a
            CPU, where longer slices spend more on attention they mask out, else 2048.
        prefix_bytes: most memory for prefixes of earlier prompts, so that they need not be read
            again; 0 keeps none, None takes a tenth of the device's memory.
        prefix_disk_bytes: most that is kept of such prefixes in the home folder when the model is
            closed, to be there when it is opened again; 0 keeps none.
        row_bytes: most memory for the tokens of calls that run, those of stored prefixes not
            counted; None takes half of what the device has left when the model is loaded.
        queue: most calls that wait for their turn; one more is refused.
        guesses: most tokens of an answer that are guessed ahead from what was read and said, and
            checked in one run of the model; 0 guesses none. Answers do not depend on it.
        max_tokens: longest answer of a call that names none.
        temperature: 0 takes the likeliest token every time.
        top_p: smallest set of tokens holding this share of the probability; 1 keeps all.
        top_k: this many likeliest tokens; 0 keeps all.
        min_p: tokens at least this share as likely as the likeliest; 0 keeps all.
        repetition_penalty: how much a token seen lately is pushed down; 1 changes nothing.
        repetition_context: how many tokens back, prompt included, count as lately.
        template: extra variables of the chat template, for example `{"enable_thinking": False}`.
    """

    adapter: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    context: int | None = None
    rows: int = 32
    prefill_rows: int = 8
    prefill_tokens: int | None = None
    prefix_bytes: int | None = None
    prefix_disk_bytes: int = 0
    row_bytes: int | None = None
    queue: int = 1024
    guesses: int = 8
    max_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repetition_context: int = 20
    template: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.adapter is not None:
            object.__setattr__(self, "adapter", Path(self.adapter).expanduser().absolute())
        for name, rule in _RULES.items():
            value = getattr(self, name)
            if not rule.holds(value):
                raise InvalidInput(f"engine option {name} must be {rule.text}, got {value!r}")

    @property
    def generation(self) -> dict[str, Any]:
        """The options that change an answer, without those that only change speed."""
        values = {name: getattr(self, name) for name in _GENERATION}
        return {**values, "template": dict(self.template)}

    @property
    def speed(self) -> tuple[Any, ...]:
        """The options that decide how a model runs, but not what it answers."""
        return tuple(getattr(self, name) for name in _SPEED)

    def dump(self) -> dict[str, Any]:
        """The options that differ from the defaults, as JSON values."""
        plain = dataclasses.asdict(self)
        plain["adapter"] = None if self.adapter is None else str(self.adapter)
        plain["template"] = dict(self.template)
        defaults = dataclasses.asdict(EngineOptions())
        return {name: value for name, value in plain.items() if value != defaults[name]}

    @classmethod
    def load(cls, values: Mapping[str, Any]) -> EngineOptions:
        """Read what `dump` wrote.

        Raises:
            UnknownKey: a name is no option. InvalidInput: a value does not fit.
        """
        reject_unknown_keys(values, {f.name for f in dataclasses.fields(cls)}, "engine options")
        return cls(**values)


@dataclass(frozen=True)
class Rule:
    """What a value must fulfil, and how to say so."""

    text: str
    holds: Callable[[Any], bool]


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: Any, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _count(least: int) -> Rule:
    return Rule(f"a whole number of at least {least}", lambda value: _whole(value, least))


def _span(least: float, most: float) -> Rule:
    return Rule(f"a number from {least:g} to {most:g}", lambda value: _number(value, least, most))


def _one_of(*names: str) -> Rule:
    return Rule(f"one of {', '.join(names)}", lambda value: value in names)


_OPEN_COUNT = Rule(
    "a whole number of at least 1, or None", lambda value: value is None or _whole(value, 1)
)
SAMPLING_RULES: dict[str, Rule] = {
    "min_p": _span(0.0, 1.0),
    "repetition_penalty": Rule(
        "a number above 0, at most 10", lambda value: _number(value, 1e-6, 10.0)
    ),
    "repetition_context": _count(1),
}
_RULES: dict[str, Rule] = {
    "device": _one_of("auto", "gpu", "cpu"),
    "dtype": _one_of("auto", "float32", "float16", "bfloat16"),
    "context": _OPEN_COUNT,
    "rows": _count(1),
    "prefill_rows": _count(1),
    "prefill_tokens": _OPEN_COUNT,
    "prefix_bytes": Rule(
        "a whole number of at least 0, or None", lambda value: value is None or _whole(value, 0)
    ),
    "prefix_disk_bytes": _count(0),
    "row_bytes": _OPEN_COUNT,
    "queue": _count(0),
    "guesses": _count(0),
    "max_tokens": _count(1),
    "temperature": _span(0.0, 2.0),
    "top_p": _span(0.0, 1.0),
    "top_k": _count(0),
    **SAMPLING_RULES,
    "template": Rule("a mapping", lambda value: isinstance(value, Mapping)),
}
_SPEED = (
    "rows",
    "prefill_rows",
    "prefill_tokens",
    "prefix_bytes",
    "prefix_disk_bytes",
    "row_bytes",
    "queue",
    "guesses",
)
_GENERATION = (
    "context",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "repetition_context",
    "template",
)
