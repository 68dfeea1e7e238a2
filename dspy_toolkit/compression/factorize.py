"""Low rank: matrices become products of two thin ones where that is smaller and faster."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from dspy_toolkit.compression.activations import input_products
from dspy_toolkit.compression.imitation import Imitation
from dspy_toolkit.compression.layout import FAMILIES
from dspy_toolkit.compression.packing import plain_modules
from dspy_toolkit.compression.prune import heal
from dspy_toolkit.compression.subject import Subject
from dspy_toolkit.compression.technique import Estimate, Made, Work
from dspy_toolkit.engine.low_rank import KEY, LowRankEmbedding, LowRankLinear
from dspy_toolkit.errors import IntegrityError, InvalidInput
from dspy_toolkit.training.tables import FLAG, number, whole

_DAMPING = 1e-2
_TOKENS = 256
_TIMED = 15


@dataclass(frozen=True, kw_only=True)
class FactorizeOptions(Imitation):
    """Options of factorize; give rank or energy.

    Attributes:
        rank: of every matrix.
        energy: share of the squared output, over the calibration data, that each matrix keeps.
        embedding: whether the embedding is factorized too.
        heal: whether the result learns to answer as the original; the other options say how.
        windows, length: pieces of calibration text.
    """

    rank: Annotated[int | None, whole(1)] = None
    energy: Annotated[float | None, number(0, 1, above=True)] = None
    embedding: Annotated[bool, FLAG] = False
    heal: Annotated[bool, FLAG] = False
    windows: Annotated[int, whole(1)] = 16
    length: Annotated[int, whole(2)] = 512


class Factorize:
    """Activation-aware low rank.

    Source:
        Wang et al., "SVD-LLM", arXiv:2403.07378, section 3.1: truncation after whitening by the
        Cholesky factor of the inputs' products.
    """

    name = "factorize"
    kind: type[Any] = FactorizeOptions
    version = 1
    as_stored = False

    def label(self, options: Any) -> str:
        """Rank or energy."""
        how = f"rank{options.rank}" if options.rank else f"energy{options.energy:g}"
        return (
            f"{how}{'-embedding' if options.embedding else ''}{'-healed' if options.heal else ''}"
        )

    def needs_data(self, options: Any) -> bool:
        """Inputs decide what a matrix may forget."""
        return True

    def refuse(self, subject: Subject, options: Any) -> None:
        """Plain weights, and one of rank and energy."""
        subject.require_plain(self.name)
        if (options.rank is None) == (options.energy is None):
            raise InvalidInput("factorize needs --rank or --energy, one of them")

    def estimate(self, subject: Subject, options: Any) -> Estimate:
        """No larger than the original: what would be is left as it is."""
        width = 4 if subject.dtype == "float32" else 2
        squares = sum(4 * t.shape[-1] ** 2 for t in subject.tensors.values() if len(t.shape) > 1)
        memory = (5 if options.heal else 2) * 4 * subject.parameters + squares
        return Estimate(subject.parameters, width * subject.parameters, memory, sure=False)

    def apply(self, work: Work) -> Made:
        """Factorize each matrix; keep a product where it is smaller and measured faster."""
        options: FactorizeOptions = work.options
        model = work.opened.model
        windows = mx.array(work.data.windows(options.length, options.windows))
        products = input_products(model, windows)
        ranks: dict[str, int] = {}
        told: dict[str, Any] = {}
        fresh = []
        for path, module in plain_modules(model).items():
            if path == "lm_head" and work.subject.family not in FAMILIES:
                # Some architectures take a model without `lm_head.weight` for one without a head.
                told[path] = {"kept": "output layer"}
                continue
            if module.weight.ndim != 2:
                told[path] = {"kept": "experts"}
                continue
            thin, facts = self._thin(path, module, products, options)
            told[path] = facts
            if thin is not None:
                ranks[path] = facts["rank"]
                fresh.append((path, thin))
        if not fresh:
            raise InvalidInput(
                "no matrix becomes smaller and faster at this rank; lower --rank or --energy, or "
                f"factorize a wider model than {work.subject.reference}"
            )
        model.update_modules(tree_unflatten(fresh))
        mx.eval(model.parameters())
        made = {"matrices": told}
        if options.heal:
            made["healing"] = heal(work, model, work.again().model)
        return Made(model, {**work.opened.config, KEY: ranks}, made)

    def check(self, work: Work, made: Made, model: Any) -> dict[str, Any]:
        """Fewer parameters than before."""
        count = sum(array.size for _, array in tree_flatten(model.parameters()))
        if count >= work.subject.parameters:
            raise IntegrityError("factorize saved nothing; report this")
        return {"factorized": len(made.config[KEY])}

    def _thin(
        self, path: str, module: Any, products: dict[str, mx.array], options: FactorizeOptions
    ) -> tuple[Any, dict[str, Any]]:
        weight = module.weight
        table = isinstance(module, nn.Embedding)
        if table and not options.embedding:
            return None, {"kept": "embedding"}
        gram = products.get(path)
        # The embedding reads no inputs; all its rows count alike.
        factor = whitening(mx.eye(weight.shape[1]) if gram is None else gram)
        up, down, energies = truncated(weight, factor)
        rank = options.rank or rank_for(energies, options.energy or 1.0)
        rows, columns = weight.shape
        if rank * (rows + columns) >= rows * columns:
            return None, {"rank": rank, "kept": "not smaller"}
        thin = (
            LowRankEmbedding(rows, columns, rank)
            if table
            else LowRankLinear(columns, rows, rank, "bias" in module)
        )
        thin.up, thin.down = up[:, :rank], down[:rank]
        if "bias" in module:
            thin.bias = module.bias
        mx.eval(thin.parameters())
        before, after = seconds_of(module, thin, columns)
        facts = {
            "rank": rank,
            "energy": round(float(energies[rank - 1]), 5),
            "speed_up": round(before / after, 3),
        }
        return (thin, facts) if after < before else (None, {**facts, "kept": "not faster"})


def whitening(gram: mx.array) -> mx.array:
    """A lower triangular factor L with L L^T = gram, damped so that it exists.

    Args:
        gram: (columns, columns), sum of products of inputs.
    """
    damp = _DAMPING * mx.diag(gram).mean()
    with mx.stream(mx.cpu):
        return mx.linalg.cholesky(gram + damp * mx.eye(gram.shape[0]))


def truncated(weight: mx.array, factor: mx.array) -> tuple[mx.array, mx.array, list[float]]:
    """The best approximations of a matrix by rank, measured on its outputs.

    Args:
        weight: (rows, columns).
        factor: (columns, columns), lower triangular, from `whitening`.

    Returns:
        up (rows, k), down (k, columns) with `up[:, :r] @ down[:r]` the approximation of rank r,
        and the share of the squared output that each rank keeps.
    """
    with mx.stream(mx.cpu):
        left, values, right = mx.linalg.svd(weight.astype(mx.float32) @ factor)
        count = values.shape[0]
        inverse = mx.linalg.tri_inv(factor)
        root = mx.sqrt(values)
        up = left[:, :count] * root
        down = (root[:, None] * right[:count]) @ inverse
        energy = mx.cumsum(values**2) / mx.maximum((values**2).sum(), 1e-30)
        mx.eval(up, down, energy)
    shares: Any = energy.tolist()
    return up, down, shares


def rank_for(energies: list[float], share: float) -> int:
    """The smallest rank that keeps a share of the squared output."""
    return next((i for i, e in enumerate(energies, start=1) if e >= share - 1e-6), len(energies))


def seconds_of(module: Any, thin: Any, columns: int) -> tuple[float, float]:
    """Least times of two modules in turns on `_TOKENS` inputs; of embeddings, as output layers."""
    x = mx.ones((_TOKENS, columns))
    runs = [getattr(each, "as_linear", each) for each in (module, thin)]
    times: list[list[float]] = [[], []]
    for _ in range(_TIMED):
        for run, seen in zip(runs, times, strict=True):
            began = time.perf_counter()
            mx.eval(run(x))
            seen.append(time.perf_counter() - began)
    return min(times[0]), min(times[1])
