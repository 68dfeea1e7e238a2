"""DWQ: scales and biases of packed weights learn to answer as the original does."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from dspy_toolkit.compression.following import Course, follow, rows_source
from dspy_toolkit.compression.opened import cast
from dspy_toolkit.compression.packing import packed_modules
from dspy_toolkit.compression.quantize import Quantizer, packed_config
from dspy_toolkit.compression.quantize_options import DwqOptions
from dspy_toolkit.compression.subject import Subject
from dspy_toolkit.compression.technique import Made, Work
from dspy_toolkit.training.backbone import abilities
from dspy_toolkit.training.language_loss import Arrays, Loss, answer_logits
from dspy_toolkit.training.losses import kl_to_teacher


class DWQ(Quantizer):
    """Round to nearest, then distil the original into scales and biases.

    mlx-lm's command of the same name does this through packed products, which a CPU computes some
    twenty times slower than plain ones; here the codes stay unpacked on a CPU while they learn.

    Source:
        mlx-lm, LEARNED_QUANTS.md.
    """

    name = "dwq"
    kind = DwqOptions
    version = 2

    def extra_bytes(self, subject: Subject, options: Any) -> int:
        """The teacher, codes, and what a step keeps for its gradient."""
        return 9 * subject.parameters

    def apply(self, work: Work) -> Made:
        """Pack, learn, and put what was learnt into the packed modules."""
        teacher = work.again().model
        teacher.freeze()
        student = work.opened.model
        cast(student, work.subject.dtype)
        config = packed_config(work)
        options: DwqOptions = work.options
        on_cpu = work.opened.device.slow_quantized
        # Scales hardly move: a rate that falls leaves them short of where they are going.
        course = Course(
            options.steps,
            options.batch,
            options.learning_rate,
            options.seed,
            not on_cpu,
            "constant",
        )
        vocabulary = int(work.subject.config.get("vocab_size") or 256)
        packed = learnable(student, unpack=on_cpu)
        facts = follow(
            work.run,
            student,
            teacher_loss(teacher, vocabulary, options.temperature),
            rows_source(work.data.fit, course),
            course,
            work.scratch,
        )
        settle(student, packed)
        return Made(student, config, facts)


def teacher_loss(teacher: Any, vocabulary: int, temperature: float) -> Loss:
    """KL(teacher || student) over the tokens of answers."""
    able = abilities(teacher, vocabulary)

    def loss(model: Any, batch: Arrays) -> tuple[mx.array, mx.array]:
        goal = mx.stop_gradient(answer_logits(teacher, batch, able))
        weights = batch["weights"]
        each = kl_to_teacher(answer_logits(model, batch, able), goal, temperature)
        return (each * weights).sum(), weights.sum()

    return loss


def learnable(model: Any, unpack: bool) -> dict[str, Any]:
    """Freeze a packed model but for scales and biases, which become float32.

    Args:
        unpack: whether packed matrices are replaced by ones with plain products, for a CPU;
            experts stay packed.

    Returns:
        The packed modules by path, for `settle`.
    """
    packed = packed_modules(model)
    model.freeze()
    fresh = []
    for path, module in packed.items():
        if unpack and isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding):
            fresh.append((path, _unpacked(module)))
        else:
            module.scales = module.scales.astype(mx.float32)
            module.biases = module.biases.astype(mx.float32)
            module.unfreeze(keys=["scales", "biases"], recurse=False)
    model.update_modules(tree_unflatten(fresh))
    model.update(
        tree_unflatten(
            [
                (name, array.astype(mx.float32))
                for name, array in tree_flatten(model.parameters())
                if unpack and mx.issubdtype(array.dtype, mx.floating)
            ]
        )
    )
    mx.eval(model.parameters())
    return packed


def settle(model: Any, packed: dict[str, Any]) -> None:
    """Give packed modules what was learnt, and put them back."""
    leaves = dict(tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module))
    for path, module in packed.items():
        learnt = leaves[path]
        module.scales, module.biases = learnt.scales, learnt.biases
    model.update_modules(tree_unflatten(list(packed.items())))
    model.unfreeze()
    mx.eval(model.parameters())


class _Codes(nn.Module):  # type: ignore[misc]  # MLX ships no complete types
    """Packed weights as plain codes with scales and biases that learn."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.scales = module.scales.astype(mx.float32)
        self.biases = module.biases.astype(mx.float32)
        ones, zeros = mx.ones_like(self.scales), mx.zeros_like(self.scales)
        codes = mx.dequantize(
            module.weight, ones, zeros, group_size=module.group_size, bits=module.bits
        )
        # A leading underscore keeps it from being a parameter.
        self._codes = codes.astype(mx.uint8).reshape(*self.scales.shape, module.group_size)
        self._shift = module.bias.astype(mx.float32) if "bias" in module else None
        mx.eval(self._codes)

    def matrix(self) -> mx.array:
        """The weights (rows, columns) that the codes stand for."""
        codes = self._codes.astype(mx.float32)
        each: mx.array = codes * self.scales[..., None] + self.biases[..., None]
        return each.flatten(-2)


class _CodesLinear(_Codes):
    def __call__(self, x: mx.array) -> mx.array:
        y: mx.array = x @ self.matrix().T
        return y if self._shift is None else y + self._shift


class _CodesEmbedding(_Codes):
    def __call__(self, tokens: mx.array) -> mx.array:
        codes = self._codes[tokens].astype(mx.float32)
        each: mx.array = codes * self.scales[tokens][..., None] + self.biases[tokens][..., None]
        return each.flatten(-2)

    def as_linear(self, x: mx.array) -> mx.array:
        return x @ self.matrix().T


def _unpacked(module: Any) -> Any:
    kind = _CodesEmbedding if isinstance(module, nn.QuantizedEmbedding) else _CodesLinear
    return kind(module)
