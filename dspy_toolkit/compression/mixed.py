"""Mixed bits: more of them for the matrices whose rounding hurts most."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx

from dspy_toolkit.compression.divergence import Reference
from dspy_toolkit.compression.opened import cast
from dspy_toolkit.compression.packing import (
    Packing,
    estimate_packed,
    pack,
    packable,
    packed_modules,
    plain_modules,
)
from dspy_toolkit.compression.quantize_options import MixedOptions
from dspy_toolkit.compression.subject import Subject, Unsupported
from dspy_toolkit.compression.technique import Estimate, Made, Work
from dspy_toolkit.errors import IntegrityError

SENSITIVITY_ROWS = 8


class Mixed:
    """Low bits everywhere, high bits where a unit of KL is cheapest, up to an average."""

    name = "mixed"
    kind: type[Any] = MixedOptions
    version = 1
    as_stored = False

    def label(self, options: Any) -> str:
        """Bits and target."""
        return f"mixed-{options.low}-{options.high}bit-{options.target:g}bpw-g{options.group}"

    def needs_data(self, options: Any) -> bool:
        """Sensitivities are measured on data."""
        return True

    def refuse(self, subject: Subject, options: Any) -> None:
        """Plain weights are needed."""
        subject.require_plain(self.name)
        packable(subject, options.packings()[0])

    def estimate(self, subject: Subject, options: Any) -> Estimate:
        """At most the target."""
        low, _ = options.packings()
        least = estimate_packed(subject, dict.fromkeys(packable(subject, low), low), 0)
        most = int(options.target * subject.parameters / 8)
        memory = least.memory_bytes + 4 * subject.parameters
        return Estimate(subject.parameters, max(least.disk_bytes, most), memory)

    def apply(self, work: Work) -> Made:
        """Measure each matrix alone, then spend bits where they help most."""
        options: MixedOptions = work.options
        low, high = options.packings()
        model = work.opened.model
        vocabulary = int(work.subject.config.get("vocab_size") or 256)
        reference = Reference(model, work.data.fit[:SENSITIVITY_ROWS], vocabulary)
        hurts = sensitivities(model, reference.compare_kl, low)
        sizes = {path: int(plain_modules(model)[path].weight.size) for path in hurts}
        width = 4 if work.subject.dtype == "float32" else 2
        fixed = width * (work.subject.parameters - sum(sizes.values()))
        budget = options.target * work.subject.parameters / 8 - fixed
        chosen = spend(hurts, sizes, low, high, budget, width)
        if not any(packing == high for packing in chosen.values()):
            raise Unsupported(
                f"{options.target:g} bits a weight leave no room for {options.high}-bit matrices; "
                "raise --target"
            )
        cast(model, work.subject.dtype)
        config = pack(model, work.opened.config, low, chosen.get)
        facts = {
            "sensitivities": {path: round(value, 6) for path, value in hurts.items()},
            "high": sorted(path for path, packing in chosen.items() if packing == high),
        }
        return Made(model, config, facts)

    def check(self, work: Work, made: Made, model: Any) -> dict[str, Any]:
        """No more bits than asked for."""
        found = packed_modules(made.model)
        bits = sum(
            8 * (m.weight.nbytes + m.scales.nbytes + m.biases.nbytes) for m in found.values()
        )
        count = sum(m.weight.size * 32 // m.bits for m in found.values())
        if bits > (work.options.target + 0.02) * count:
            raise IntegrityError(
                f"mixed gave {bits / count:.2f} bits a weight, more than the "
                f"{work.options.target:g} asked for; report this"
            )
        return {"packed": len(found)}


def sensitivities(
    model: Any, divergence: Callable[[Any], float], packing: Packing
) -> dict[str, float]:
    """KL to the original with one matrix rounded at a time, by module path.

    Args:
        model: changed and put back.
        divergence: KL of a model's answers to the original's.
        packing: what each matrix is rounded to.
    """
    found = {}
    for path, module in plain_modules(model).items():
        if not packing.fits(tuple(module.weight.shape)):
            continue
        plain = module.weight
        module.weight = rounded(plain, packing)
        found[path] = divergence(model)
        module.weight = plain
    return found


def rounded(weight: mx.array, packing: Packing) -> mx.array:
    """A matrix as it is after packing and unpacking."""
    parts = mx.quantize(weight, group_size=packing.group, bits=packing.bits, mode=packing.mode)
    plain = mx.dequantize(*parts, group_size=packing.group, bits=packing.bits, mode=packing.mode)
    return plain.astype(weight.dtype)


def spend(
    hurts: Mapping[str, float],
    sizes: Mapping[str, int],
    low: Packing,
    high: Packing,
    budget_bytes: float,
    float_bytes: int,
) -> dict[str, Packing]:
    """Give high bits to matrices, the one with most KL a byte first, while the budget lasts.

    Args:
        hurts: KL of each matrix alone at low bits.
        sizes: numbers of each matrix.
        budget_bytes: for all of them.
        float_bytes: of a scale.
    """
    chosen = dict.fromkeys(hurts, low)
    spent = sum(low.nbytes(sizes[path], float_bytes) for path in hurts)

    def cost(path: str) -> int:
        return high.nbytes(sizes[path], float_bytes) - low.nbytes(sizes[path], float_bytes)

    for path in sorted(hurts, key=lambda path: (-hurts[path] / cost(path), path)):
        if spent + cost(path) <= budget_bytes:
            chosen[path] = high
            spent += cost(path)
    return chosen
