"""Quantization: round to nearest, and five ways to do better with calibration data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import mlx.core as mx

from dspy_toolkit.compression.opened import cast, silent
from dspy_toolkit.compression.packing import (
    Packing,
    estimate_packed,
    own_rule,
    pack,
    packable,
    packed_modules,
    plain_modules,
)
from dspy_toolkit.compression.quantize_options import AwqOptions, Packed, Windowed
from dspy_toolkit.compression.subject import Subject, Unsupported
from dspy_toolkit.compression.technique import Estimate, Made, Work
from dspy_toolkit.errors import EngineError, IntegrityError

_GPTQ_BITS = (2, 4, 8)


class Quantizer:
    """What all quantizers with one packing for the whole model share."""

    name: str
    kind: type[Any]
    version = 1
    as_stored = False

    def label(self, options: Any) -> str:
        """Method, bits and group."""
        return f"{self.name}-{options.label()}"

    def needs_data(self, options: Any) -> bool:
        """They see what the weights are multiplied with."""
        return True

    def refuse(self, subject: Subject, options: Any) -> None:
        """Plain weights whose rows divide into groups are needed, and affine codes."""
        subject.require_plain(self.name)
        if options.mode != "affine":
            raise Unsupported(f"{self.name} gives affine weights only; use method rtn for modes")
        packable(subject, options.packing)

    def estimate(self, subject: Subject, options: Any) -> Estimate:
        """Size from shapes."""
        chosen = dict.fromkeys(packable(subject, options.packing), options.packing)
        return estimate_packed(subject, chosen, self.extra_bytes(subject, options))

    def extra_bytes(self, subject: Subject, options: Any) -> int:
        """Memory beside the model and the result."""
        return 0

    def check(self, work: Work, made: Made, model: Any) -> dict[str, Any]:
        """Every matrix that can be packed is, as promised."""
        packing: Packing = work.options.packing
        # Not those of the model loaded again: a CPU expands them.
        found = packed_modules(made.model)
        wrong = [
            path
            for path, module in found.items()
            if (module.bits, module.group_size) != (packing.bits, packing.group)
            and own_rule(made.model, path, module) is True
        ]
        left = [
            path
            for path, module in plain_modules(made.model).items()
            if packing.fits(tuple(module.weight.shape))
            and own_rule(made.model, path, module) is True
        ]
        if wrong or left:
            raise IntegrityError(
                f"{self.name} left {(wrong + left)[0]} packed otherwise than asked; report this"
            )
        return {"packed": len(found)}


class RTN(Quantizer):
    """Round to nearest: no data, the yardstick of the others."""

    name = "rtn"
    kind = Packed
    as_stored = True

    def needs_data(self, options: Any) -> bool:
        """The weights say it all."""
        return False

    def refuse(self, subject: Subject, options: Any) -> None:
        """Plain weights whose rows divide into groups are needed."""
        subject.require_plain(self.name)
        packable(subject, options.packing)

    def estimate(self, subject: Subject, options: Any) -> Estimate:
        """The weights as they are, and the result."""
        whole = super().estimate(subject, options)
        return replace(whole, memory_bytes=subject.nbytes + whole.disk_bytes)

    def apply(self, work: Work) -> Made:
        """In the type the weights are stored in, as mlx-lm does."""
        cast(work.opened.model, work.subject.dtype)
        return Made(work.opened.model, packed_config(work))


class AWQ(Quantizer):
    """Scales that protect the channels which matter, found by search; mlx-lm's own.

    Source:
        Lin et al., "AWQ", arXiv:2306.00978.
    """

    name = "awq"
    kind = AwqOptions

    def refuse(self, subject: Subject, options: Any) -> None:
        """Only families whose norms and projections mlx-lm knows."""
        super().refuse(subject, options)
        scale_pairs(subject, self.name)

    def extra_bytes(self, subject: Subject, options: Any) -> int:
        """The inputs of a block's matrices, twice."""
        return 2 * _activations(subject, options)

    def apply(self, work: Work) -> Made:
        """Scale, clip and pack block by block."""
        from mlx_lm.quant.awq import awq_quantize

        _require_all_fit(work, self.name)
        packing = work.options.packing
        with silent():
            awq_quantize(
                work.opened.model,
                windows_of(work),
                scale_pairs(work.subject, self.name),
                group_size=packing.group,
                bits=packing.bits,
                embed_group_size=packing.group,
                embed_bits=packing.bits,
                n_grid=work.options.grid,
            )
        return Made(work.opened.model, packed_config(work))


class GPTQ(Quantizer):
    """Each column's rounding error is made up for by those after it; mlx-lm's own.

    Source:
        Frantar et al., "GPTQ", arXiv:2210.17323.
    """

    name = "gptq"
    kind = Windowed

    def refuse(self, subject: Subject, options: Any) -> None:
        """2, 4 or 8 bits."""
        super().refuse(subject, options)
        if options.packing.bits not in _GPTQ_BITS:
            raise Unsupported(
                f"gptq packs into 2, 4 or 8 bits, not {options.packing.bits}; "
                "choose one of these, or method awq"
            )

    def extra_bytes(self, subject: Subject, options: Any) -> int:
        """A Hessian for each matrix, all held at once."""
        return 4 * sum(
            tensor.shape[-1] ** 2 for tensor in packable(subject, options.packing).values()
        )

    def apply(self, work: Work) -> Made:
        """Gather Hessians, then round column by column."""
        from mlx_lm.quant.gptq import gptq_quantize

        _require_all_fit(work, self.name)
        packing = work.options.packing
        try:
            with silent():
                model, _ = gptq_quantize(
                    work.opened.model,
                    windows_of(work),
                    packing.bits,
                    packing.group,
                    fallback_bits=packing.bits,
                    fallback_group_size=packing.group,
                )
        except RuntimeError as error:
            # Cholesky refuses a Hessian of inputs that hardly vary.
            raise EngineError(
                f"gptq failed on {work.subject.reference} ({str(error)[:80]}); give more varied "
                "calibration data, or choose method awq"
            ) from None
        return Made(model, packed_config(work))


def _require_all_fit(work: Work, method: str) -> None:
    """mlx-lm's awq and gptq leave no matrix as it is."""
    packing: Packing = work.options.packing
    for path, module in plain_modules(work.opened.model).items():
        if not packing.fits(tuple(module.weight.shape)):
            raise Unsupported(
                f"{method} packs every matrix, and rows of {path} have {module.weight.shape[-1]} "
                f"numbers, which groups of {packing.group} do not divide; use method rtn or dwq"
            )


def scale_pairs(subject: Subject, method: str) -> Any:
    """mlx-lm's table of which norm or projection feeds which matrices, for a family.

    Raises:
        Unsupported: it knows none for this one.
    """
    from mlx_lm.quant.awq import AWQ_MODEL_CONFIGS

    known: Mapping[str, Any] = AWQ_MODEL_CONFIGS
    if subject.family not in known:
        raise Unsupported(
            f"{method} does not support architecture {subject.family!r}; it supports "
            f"{', '.join(sorted(known))}; use method rtn, gptq, dwq or mixed"
        )
    return known[subject.family]


def packed_config(work: Work) -> dict[str, Any]:
    """The configuration of a model all of whose matrices are packed alike, packing what is not."""
    packing: Packing = work.options.packing
    return pack(work.opened.model, work.opened.config, packing, lambda path: packing)


def windows_of(work: Work) -> mx.array:
    """The calibration text of a technique that has options `length` and `windows`."""
    return mx.array(work.data.windows(work.options.length, work.options.windows))


def _activations(subject: Subject, options: Any) -> int:
    config = {**subject.config, **(subject.config.get("text_config") or {})}
    width = 4 * int(config.get("hidden_size", 0)) + 2 * int(config.get("intermediate_size", 0))
    return 4 * width * int(options.windows) * int(options.length)
