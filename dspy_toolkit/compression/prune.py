"""Pruning: leave out what matters least, whole units or single weights, and heal what is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import mlx.core as mx
from mlx.utils import tree_flatten

from dspy_toolkit.compression.imitation import Imitation, imitate
from dspy_toolkit.compression.layout import (
    Cut,
    Layout,
    cut_config,
    cut_parameters,
    cut_weights,
    first_units,
    kept_units,
    layout_of,
    units,
)
from dspy_toolkit.compression.saliency import METHODS, activity_scores, unit_scores, weight_scores
from dspy_toolkit.compression.sparsity import GradualMask, sparse, sparsity
from dspy_toolkit.compression.subject import Subject, Unsupported
from dspy_toolkit.compression.technique import Estimate, Made, Work
from dspy_toolkit.errors import IntegrityError, InvalidInput
from dspy_toolkit.training.tables import FLAG, number, one_of, whole

STRUCTURES = ("layers", "ffn", "heads", "width", "unstructured")
# Packed groups and fast products want whole multiples.
_MULTIPLE = {"ffn": 32, "width": 32, "heads": 1, "layers": 1}


@dataclass(frozen=True, kw_only=True)
class PruneOptions(Imitation):
    """Options of prune.

    Attributes:
        method: how weights are scored.
        structure: what is left out.
        target: share of the model's parameters to leave out; with unstructured, share of the
            weights in the blocks' matrices that become 0.
        heal: whether the result learns to answer as the original; the other options say how.
        windows, length: pieces of calibration text that scores are measured on.
    """

    method: Annotated[str, one_of(*METHODS)] = "wanda"
    structure: Annotated[str, one_of(*STRUCTURES)] = "ffn"
    target: Annotated[float, number(0, 0.95, above=True)] = 0.25
    heal: Annotated[bool, FLAG] = False
    windows: Annotated[int, whole(1)] = 16
    length: Annotated[int, whole(2)] = 512


class Prune:
    """Leaving out units of a model, or setting weights to 0."""

    name = "prune"
    kind: type[Any] = PruneOptions
    version = 1
    as_stored = False

    def label(self, options: Any) -> str:
        """Method, structure and target."""
        healed = f"-healed{options.steps}" if options.heal else ""
        return f"{options.method}-{options.structure}-{options.target:g}{healed}"

    def needs_data(self, options: Any) -> bool:
        """All but plain magnitude do."""
        return bool(options.heal or options.method != "magnitude")

    def refuse(self, subject: Subject, options: Any) -> None:
        """Plain weights of a known layout are needed, and a target that can be reached."""
        subject.require_plain(self.name)
        if options.structure == "unstructured":
            if options.method == "activation":
                raise Unsupported(
                    "activation scores whole units, not single weights; choose method wanda, "
                    "magnitude or gradient for unstructured"
                )
            layout_of(subject)
            return
        kept_count(subject, layout_of(subject, options.structure), options)

    def estimate(self, subject: Subject, options: Any) -> Estimate:
        """Size from shapes; training needs the model five times over."""
        count = subject.parameters
        if options.structure != "unstructured":
            layout = layout_of(subject, options.structure)
            kept = kept_count(subject, layout, options)
            count = cut_parameters(subject, layout, first_units(layout, options.structure, kept))
        width = 4 if subject.dtype == "float32" else 2
        copies = 5 if options.heal else 3
        return Estimate(count, width * count, copies * 4 * subject.parameters)

    def apply(self, work: Work) -> Made:
        """Score, cut or mask, heal."""
        layout = layout_of(work.subject)
        if work.options.structure == "unstructured":
            return _masked(work)
        cut = chosen_cut(work, layout)
        student, config = cut_model(work.opened.model, work.opened.config, layout, cut)
        facts: dict[str, Any] = {"kept": _told(cut, work.options.structure)}
        if work.options.heal:
            facts["healing"] = heal(work, student, work.opened.model)
        return Made(student, config, facts)

    def check(self, work: Work, made: Made, model: Any) -> dict[str, Any]:
        """As many parameters, or zeros, as promised."""
        if work.options.structure != "unstructured":
            before, after = (
                work.subject.parameters,
                sum(array.size for _, array in tree_flatten(model.parameters())),
            )
            return {"removed": round(1 - after / before, 4)}
        found = sparsity(model)
        if found < work.options.target - 0.005:
            raise IntegrityError(
                f"{found:.3f} of the weights are 0 after writing, {work.options.target:g} were "
                "asked for; report this"
            )
        return {"sparsity": round(found, 4)}


def kept_count(subject: Subject, layout: Layout, options: Any) -> int:
    """How many units stay so that the target share of parameters goes.

    Raises:
        InvalidInput: the structure does not hold that many parameters; says how many it does.
    """
    structure = options.structure
    step, total = _MULTIPLE[structure], units(layout, structure)

    def removed(kept: int) -> float:
        left = cut_parameters(subject, layout, first_units(layout, structure, kept))
        return 1 - left / subject.parameters

    for kept in range(total - 1, 0, -1):
        if kept % step == 0 and removed(kept) >= options.target - 1e-4:
            return kept
    least = step if step < total else 1
    raise InvalidInput(
        f"leaving out {structure} removes at most {100 * removed(least):.3g} % of the parameters "
        f"of {subject.reference}, {100 * options.target:g} % were asked for; lower --target, or "
        f"choose another --structure of {', '.join(STRUCTURES[:-1])}"
    )


def chosen_cut(work: Work, layout: Layout) -> Cut:
    """The units that score highest."""
    options: PruneOptions = work.options
    kept = kept_count(work.subject, layout, options)
    scores = structure_scores(work, layout)
    return kept_units(layout, options.structure, [best(each, kept) for each in scores])


def structure_scores(work: Work, layout: Layout) -> list[mx.array]:
    """Scores of a structure's units by the method asked for."""
    options = work.options
    model = work.opened.model
    windows = mx.zeros((0, 0), mx.int32)
    if options.method in ("wanda", "activation"):
        windows = mx.array(work.data.windows(options.length, options.windows))
    if options.method == "activation":
        return activity_scores(options.structure, model, windows, layout)
    rows = work.data.fit if options.method == "gradient" else []
    return unit_scores(
        options.structure,
        weight_scores(options.method, model, windows, rows, vocabulary_of(work.subject)),
        layout,
    )


def best(scores: mx.array, count: int) -> list[int]:
    """Places of the highest scores, in order; the earlier where two are equal."""
    values: Any = scores.tolist()
    ranked = sorted(range(len(values)), key=lambda i: (-values[i], i))
    return sorted(ranked[:count])


def cut_model(
    model: Any, config: dict[str, Any], layout: Layout, cut: Cut
) -> tuple[Any, dict[str, Any]]:
    """A new, smaller model of the same architecture with the weights that stay."""
    from mlx_lm.utils import _get_classes

    smaller = cut_config(config, layout, cut)
    kind, arguments = _get_classes(smaller)
    student = kind(arguments.from_dict(smaller))
    weights = cut_weights(dict(tree_flatten(model.parameters())), layout, cut)
    student.load_weights(list(weights.items()))
    mx.eval(student.parameters())
    return student, smaller


def heal(work: Work, student: Any, teacher: Any, after: Any = None) -> dict[str, Any]:
    """Let a damaged model learn to answer as the original, on the calibration set."""
    return imitate(
        student,
        teacher,
        work.data.fit,
        work.options,
        vocabulary=vocabulary_of(work.subject),
        end=int(work.opened.tokenizer.eos_token_id),
        run=work.run,
        scratch=work.scratch,
        on_gpu=not work.opened.device.slow_quantized,
        after=after,
    )


def vocabulary_of(subject: Subject) -> int:
    """Rows of a model's embedding."""
    return int(subject.config.get("vocab_size") or 256)


def _masked(work: Work) -> Made:
    options: PruneOptions = work.options
    model = work.opened.model
    windows = (
        mx.array(work.data.windows(options.length, options.windows))
        if options.method == "wanda"
        else mx.zeros((0, 0), mx.int32)
    )
    if not options.heal:
        rows = work.data.fit if options.method == "gradient" else []
        scores = weight_scores(options.method, model, windows, rows, vocabulary_of(work.subject))
        sparse(model, scores, options.target, by_row=options.method == "wanda")
        return Made(model, dict(work.opened.config))
    teacher = work.again().model
    mask = GradualMask(model, options.method, options.target, options.steps, windows)
    facts = heal(work, model, teacher, after=mask)
    return Made(model, dict(work.opened.config), {"healing": facts})


def _told(cut: Cut, structure: str) -> Any:
    kept = {"layers": cut.layers, "width": cut.width, "ffn": cut.inner, "heads": cut.groups}
    chosen: Any = kept[structure]
    return [list(each) if isinstance(each, tuple) else each for each in chosen]
