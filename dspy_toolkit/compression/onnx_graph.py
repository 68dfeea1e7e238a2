"""A llama-like model as an ONNX graph with a cache, of basic operators only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dspy_toolkit.compression.layout import Layout

OPSET = 17
_MASKED = -1e9


class LlamaGraph:
    """Builds the graph: `input_ids` and one past of keys and values a block in, logits and the
    grown cache out.

    Shapes: `input_ids` (batch, length) int64; `past.N.key` and `past.N.value`
    (batch, groups, past, head); `logits` (batch, length, vocabulary); `present.N.*` as the past,
    longer by length.
    """

    def __init__(
        self, weights: Mapping[str, np.ndarray], config: Mapping[str, Any], layout: Layout
    ) -> None:
        self._weights = weights
        self._layout = layout
        self._eps = float(config["rms_norm_eps"])
        self._theta = float(config.get("rope_theta") or 10000.0)
        self._nodes: list[Any] = []
        self._constants: dict[str, np.ndarray] = {}
        self._count = 0

    def model(self) -> Any:
        """The whole model as an `onnx.ModelProto`."""
        from onnx import TensorProto, helper, numpy_helper

        layout, kind = self._layout, TensorProto.FLOAT
        ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])
        past_shape: list[str | int | None] = ["batch", layout.groups, "past", layout.head]
        new_shape: list[str | int | None] = ["batch", layout.groups, "total", layout.head]
        names = [f"{i}.{part}" for i in range(layout.layers) for part in ("key", "value")]
        logits = self._forward()
        vocabulary = self._weights["model.embed_tokens.weight"].shape[0]
        graph = helper.make_graph(
            self._nodes,
            "llama",
            [ids, *(helper.make_tensor_value_info(f"past.{n}", kind, past_shape) for n in names)],
            [
                helper.make_tensor_value_info(logits, kind, ["batch", "length", vocabulary]),
                *(helper.make_tensor_value_info(f"present.{n}", kind, new_shape) for n in names),
            ],
            [numpy_helper.from_array(array, name) for name, array in self._constants.items()],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        made.ir_version = 9
        return made

    def _forward(self) -> str:
        cosine, sine, mask = self._positions()
        table = self._constant("embedding", self._weights["model.embed_tokens.weight"])
        stream = self._op("Gather", table, "input_ids", axis=0)
        for block in range(self._layout.layers):
            stream = self._block(block, stream, cosine, sine, mask)
        stream = self._norm(stream, "model.norm.weight")
        head = self._weights.get("lm_head.weight")
        if head is None:
            return self._op(
                "MatMul", stream, self._op("Transpose", table, perm=[1, 0]), to="logits"
            )
        return self._op("MatMul", stream, self._constant("head", head.T), to="logits")

    def _positions(self) -> tuple[str, str, str]:
        """Cosines and sines (length, head / 2) of the new tokens, and the mask (length, total)."""
        half = self._layout.head // 2
        length = self._size("input_ids", 1)
        past = self._size("past.0.key", 2)
        total = self._op("Add", past, length)
        zero, one = self._scalar("zero", 0), self._scalar("one", 1)
        places = self._op("Range", past, total, one)
        column = self._op("Unsqueeze", places, self._axes(1))
        angles = self._op(
            "Mul",
            self._op("Cast", column, to_type=1),
            self._constant(
                "frequencies",
                (self._theta ** (-np.arange(half, dtype=np.float32) / half)).astype(np.float32),
            ),
        )
        seen = self._op("LessOrEqual", self._op("Range", zero, total, one), column)
        mask = self._op("Where", seen, self._float("nothing", 0.0), self._float("masked", _MASKED))
        return self._op("Cos", angles), self._op("Sin", angles), mask

    def _block(self, block: int, stream: str, cosine: str, sine: str, mask: str) -> str:
        prefix = f"model.layers.{block}."
        read = self._norm(stream, f"{prefix}input_layernorm.weight")
        stream = self._op("Add", stream, self._attention(block, read, cosine, sine, mask))
        read = self._norm(stream, f"{prefix}post_attention_layernorm.weight")
        gate = self._linear(read, f"{prefix}mlp.gate_proj")
        active = self._op("Mul", gate, self._op("Sigmoid", gate))
        inner = self._op("Mul", active, self._linear(read, f"{prefix}mlp.up_proj"))
        return self._op("Add", stream, self._linear(inner, f"{prefix}mlp.down_proj"))

    def _attention(self, block: int, read: str, cosine: str, sine: str, mask: str) -> str:
        layout, prefix = self._layout, f"model.layers.{block}.self_attn."
        heads = layout.groups * layout.heads

        def split(name: str, count: int, norm: str | None) -> str:
            each = self._op(
                "Reshape", self._linear(read, prefix + name), self._shape(0, 0, count, layout.head)
            )
            if norm is not None and prefix + norm in self._weights:
                each = self._norm(each, prefix + norm)
            return self._op("Transpose", each, perm=[0, 2, 1, 3])

        query = self._rotated(split("q_proj", heads, "q_norm.weight"), cosine, sine)
        key = self._rotated(split("k_proj", layout.groups, "k_norm.weight"), cosine, sine)
        value = split("v_proj", layout.groups, None)
        key = self._op("Concat", f"past.{block}.key", key, axis=2, to=f"present.{block}.key")
        value = self._op(
            "Concat", f"past.{block}.value", value, axis=2, to=f"present.{block}.value"
        )
        turned = self._op("Transpose", self._shared(key), perm=[0, 1, 3, 2])
        scale = self._float("scale", layout.head**-0.5)
        scores = self._op("Mul", self._op("MatMul", query, turned), scale)
        weights = self._op("Softmax", self._op("Add", scores, mask), axis=-1)
        mixed = self._op("MatMul", weights, self._shared(value))
        flat = self._op(
            "Reshape",
            self._op("Transpose", mixed, perm=[0, 2, 1, 3]),
            self._shape(0, 0, heads * layout.head),
        )
        return self._linear(flat, prefix + "o_proj")

    def _shared(self, each: str) -> str:
        """Keys or values of groups, once for every head of a group."""
        if self._layout.heads == 1:
            return each
        wide = self._op("Unsqueeze", each, self._axes(2))
        wide = self._op("Expand", wide, self._shape(1, 1, self._layout.heads, 1, 1))
        heads = self._layout.groups * self._layout.heads
        return self._op("Reshape", wide, self._shape(0, heads, -1, self._layout.head))

    def _rotated(self, each: str, cosine: str, sine: str) -> str:
        half = self._layout.head // 2
        first = self._slice(each, 0, half)
        second = self._slice(each, half, 2 * half)
        left = self._op("Sub", self._op("Mul", first, cosine), self._op("Mul", second, sine))
        right = self._op("Add", self._op("Mul", second, cosine), self._op("Mul", first, sine))
        return self._op("Concat", left, right, axis=-1)

    def _norm(self, stream: str, weight: str) -> str:
        square = self._op("ReduceMean", self._op("Mul", stream, stream), axes=[-1], keepdims=1)
        size = self._op("Sqrt", self._op("Add", square, self._float("eps", self._eps)))
        scaled = self._op("Div", stream, size)
        return self._op("Mul", scaled, self._constant(weight, self._weights[weight]))

    def _linear(self, x: str, path: str) -> str:
        matrix = np.ascontiguousarray(self._weights[f"{path}.weight"].T)
        y = self._op("MatMul", x, self._constant(f"{path}.weight", matrix))
        bias = self._weights.get(f"{path}.bias")
        return y if bias is None else self._op("Add", y, self._constant(f"{path}.bias", bias))

    def _slice(self, each: str, begin: int, end: int) -> str:
        return self._op("Slice", each, self._axes(begin), self._axes(end), self._axes(-1))

    def _size(self, name: str, axis: int) -> str:
        shape = self._op("Shape", name)
        return self._op("Gather", shape, self._scalar(f"axis{axis}", axis), axis=0)

    def _scalar(self, name: str, value: int) -> str:
        return self._constant(name, np.array(value, np.int64))

    def _float(self, name: str, value: float) -> str:
        return self._constant(name, np.array(value, np.float32))

    def _axes(self, *values: int) -> str:
        return self._constant("ints" + "_".join(map(str, values)), np.array(values, np.int64))

    def _shape(self, *values: int) -> str:
        return self._axes(*values)

    def _constant(self, name: str, array: np.ndarray) -> str:
        self._constants.setdefault(name, array)
        return name

    def _op(self, kind: str, *inputs: str, to: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        self._count += 1
        name = to or f"{kind.lower()}{self._count}"
        if "to_type" in attributes:
            attributes["to"] = attributes.pop("to_type")
        self._nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name
