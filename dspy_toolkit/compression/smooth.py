"""SmoothQuant's smoothing: ranges of activations move into the weights before these are packed.

MLX has no integer activations, so nothing but weights is packed here; smoothing alone changes no
answer. What activation quantization would cost can be simulated only, and is not.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from dspy_toolkit.compression.activations import input_norms
from dspy_toolkit.compression.opened import cast
from dspy_toolkit.compression.quantize import (
    Quantizer,
    packed_config,
    scale_pairs,
    windows_of,
)
from dspy_toolkit.compression.quantize_options import SmoothOptions
from dspy_toolkit.compression.subject import Subject
from dspy_toolkit.compression.technique import Made, Work

_SMALLEST = 1e-5


class SmoothQuant(Quantizer):
    """Smoothing, then round to nearest.

    Source:
        Xiao et al., "SmoothQuant", arXiv:2211.10438, equation 4.
    """

    name = "smoothquant"
    kind = SmoothOptions

    def refuse(self, subject: Subject, options: Any) -> None:
        """Only families whose norms and projections mlx-lm knows."""
        super().refuse(subject, options)
        scale_pairs(subject, self.name)

    def apply(self, work: Work) -> Made:
        """Smooth, then pack."""
        smooth(work.opened.model, windows_of(work), work.subject, work.options.strength)
        cast(work.opened.model, work.subject.dtype)
        return Made(work.opened.model, packed_config(work))


def smooth(model: Any, windows: mx.array, subject: Subject, strength: float) -> None:
    """Scale every matrix's inputs down and its columns up, in place; no answer changes.

    Args:
        windows: (windows, length) int32, calibration text.
        strength: share of an input's range that the weights take over, 0.5 in the paper.
    """
    from mlx_lm.quant.awq import apply_scale, submodule_from_key

    pairs = scale_pairs(subject, "smoothquant")
    inner = model[pairs.lm_key] if pairs.lm_key else model
    largest = input_norms(inner, windows).largest
    for number, block in enumerate(inner.layers):
        for pair in pairs.scale_configs:
            if pair.use_config is not None and not pair.use_config(block):
                continue
            owner = block[pair.block] if pair.block else block
            fed = [submodule_from_key(owner, key) for key in pair.layers]
            if not all(isinstance(each, nn.Linear) for each in fed):
                continue
            prefix = f"{pair.block}." if pair.block else ""
            inputs = largest[f"model.layers.{number}.{prefix}{pair.layers[0]}"]
            factors = smoothing_factors(inputs, [each.weight for each in fed], strength)
            apply_scale(submodule_from_key(block, pair.prev), fed, factors)
    mx.eval(model.parameters())


def smoothing_factors(inputs: mx.array, weights: list[mx.array], strength: float) -> mx.array:
    """How much each input channel is divided by, and each column multiplied with.

    Args:
        inputs: (channels,), largest absolute value seen of each.
        weights: matrices (rows, channels) that read these inputs.
        strength: in [0, 1].

    Returns:
        (channels,): `inputs ** strength / columns ** (1 - strength)`.
    """
    columns = mx.stack([mx.abs(each).max(axis=0) for each in weights]).max(axis=0)
    top = mx.maximum(inputs, _SMALLEST) ** strength
    return mx.maximum(top / mx.maximum(columns, _SMALLEST) ** (1 - strength), _SMALLEST)
