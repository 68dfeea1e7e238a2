"""What quantizers may be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from dspy_toolkit.compression.packing import AFFINE_BITS, AFFINE_GROUPS, MODES, Packing
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.training.tables import Check, number, one_of, whole


def one_number(*values: int) -> Check:
    """One of some whole numbers."""
    told = ", ".join(map(str, values))
    return Check(f"one of {told}", lambda value: not isinstance(value, bool) and value in values)


BITS = one_number(*AFFINE_BITS)
GROUP = one_number(16, *AFFINE_GROUPS)


@dataclass(frozen=True, kw_only=True)
class Packed:
    """How weights are packed.

    Attributes:
        bits: of a weight; None takes 4, or what the mode has.
        group: weights that share a scale; None takes 64, or what the mode has.
        mode: "affine", "mxfp4", "nvfp4" or "mxfp8".
    """

    bits: Annotated[int | None, BITS] = None
    group: Annotated[int | None, GROUP] = None
    mode: Annotated[str, one_of(*MODES)] = "affine"

    @property
    def packing(self) -> Packing:
        """The packing, with the mode's own bits and group.

        Raises:
            InvalidInput: bits or group are not those of the mode.
        """
        group, bits = MODES[self.mode]
        asked = Packing(self.bits or bits, self.group or group, self.mode)
        if self.mode != "affine" and (asked.bits, asked.group) != (bits, group):
            raise InvalidInput(
                f"mode {self.mode} has {bits} bits and groups of {group}; "
                "leave out --bits and --group, or choose mode affine"
            )
        if self.mode == "affine" and asked.group not in AFFINE_GROUPS:
            raise InvalidInput(f"mode affine has groups of 32, 64 or 128, got {asked.group}")
        return asked

    def label(self) -> str:
        """Short, for names."""
        asked = self.packing
        return f"{asked.bits}bit-g{asked.group}" if self.mode == "affine" else self.mode


@dataclass(frozen=True, kw_only=True)
class Windowed(Packed):
    """A method that reads calibration data.

    Attributes:
        windows: pieces of calibration text it reads.
        length: tokens of a piece.
    """

    windows: Annotated[int, whole(1)] = 32
    length: Annotated[int, whole(2)] = 512


@dataclass(frozen=True, kw_only=True)
class AwqOptions(Windowed):
    """Options of awq; `grid` is how many strengths of scaling are tried.

    The search runs every block some hundred times over its windows, so it takes fewer.
    """

    windows: Annotated[int, whole(1)] = 8
    length: Annotated[int, whole(2)] = 256
    grid: Annotated[int, whole(2)] = 20


@dataclass(frozen=True, kw_only=True)
class SmoothOptions(Windowed):
    """Options of smoothquant; `strength` is how much of the range moves into the weights."""

    strength: Annotated[float, number(0, 1)] = 0.5


@dataclass(frozen=True, kw_only=True)
class DwqOptions(Packed):
    """Options of dwq.

    Attributes:
        steps: updates of scales and biases.
        batch: rows of an update.
        learning_rate: of all steps but the first few, in which it rises.
        temperature: what logits are divided by, 2 in mlx-lm.
        seed: of the order of rows.
    """

    steps: Annotated[int, whole(1)] = 60
    batch: Annotated[int, whole(1)] = 4
    learning_rate: Annotated[float, number(0, above=True)] = 1e-4
    temperature: Annotated[float, number(0, 100, above=True)] = 2.0
    seed: Annotated[int, whole(0)] = 0


@dataclass(frozen=True, kw_only=True)
class MixedOptions:
    """Options of mixed: `low` and `high` bits, so that a weight has `target` bits on average.

    Attributes:
        target: bits a weight, scales and biases counted.
        group: weights that share a scale.
    """

    low: Annotated[int, BITS] = 4
    high: Annotated[int, BITS] = 8
    target: Annotated[float, number(2, 9)] = 5.0
    group: Annotated[int, one_number(*AFFINE_GROUPS)] = 64

    def packings(self) -> tuple[Packing, Packing]:
        """The low and the high one.

        Raises:
            InvalidInput: they are in the wrong order, or the target lies not between them.
        """
        low, high = Packing(self.low, self.group), Packing(self.high, self.group)
        beside = 32 / self.group
        if not self.low < self.high:
            raise InvalidInput(f"low must be below high, got {self.low} and {self.high}")
        if not self.low + beside <= self.target <= self.high + beside:
            raise InvalidInput(
                f"target must lie between {self.low + beside:g} and {self.high + beside:g} bits a "
                f"weight with these settings, got {self.target:g}"
            )
        return low, high
