"""Distillation: a smaller model learns to answer as a larger one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from dspy_toolkit.compression.calibration import tokenizer_digest
from dspy_toolkit.compression.imitation import Imitation, imitate
from dspy_toolkit.compression.layout import Cut, Layout, cut_parameters, layout_of, units, whole
from dspy_toolkit.compression.opened import open_subject
from dspy_toolkit.compression.prune import best, cut_model, vocabulary_of
from dspy_toolkit.compression.saliency import activity_scores
from dspy_toolkit.compression.subject import Subject, Unsupported, look_at
from dspy_toolkit.compression.technique import Estimate, Made, Work
from dspy_toolkit.errors import IntegrityError, InvalidInput, reject_unknown_keys
from dspy_toolkit.training.tables import text
from dspy_toolkit.training.tables import whole as whole_number

SHAPE = ("layers", "ffn", "heads", "width")


@dataclass(frozen=True, kw_only=True)
class DistillOptions(Imitation):
    """Options of distill. The student starts from the model given, cut to the shape asked for.

    Attributes:
        teacher: reference of another model to follow; None follows the model itself.
        teacher_digest: the teacher's digest, so that results are found by content.
        layers, ffn, heads, width: sizes of the student; None leaves them. `heads` counts queries.
        windows, length: pieces of calibration text by which the units that stay are chosen.
    """

    teacher: Annotated[str | None, text("a model")] = None
    teacher_digest: Annotated[str | None, text()] = None
    layers: Annotated[int | None, whole_number(1)] = None
    ffn: Annotated[int | None, whole_number(1)] = None
    heads: Annotated[int | None, whole_number(1)] = None
    width: Annotated[int | None, whole_number(1)] = None
    windows: Annotated[int, whole_number(1)] = 16
    length: Annotated[int, whole_number(2)] = 512


class Distill:
    """A student of a smaller shape follows a teacher over a task's own prompts."""

    name = "distill"
    kind: type[Any] = DistillOptions
    version = 1
    as_stored = False

    def label(self, options: Any) -> str:
        """The shape, and how it follows."""
        shape = "-".join(f"{key}{value}" for key, value in shape_of(options).items())
        return f"distill-{shape or 'same'}-{options.divergence}-{options.steps}"

    def needs_data(self, options: Any) -> bool:
        """What the student reads."""
        return True

    def refuse(self, subject: Subject, options: Any) -> None:
        """Plain weights, and a shape that the model holds."""
        subject.require_plain("a student")
        if options.teacher is None and not shape_of(options):
            raise InvalidInput(
                "a student of its own shape that follows itself learns nothing; name a shape, for "
                "example layers=2, or another teacher"
            )
        if shape_of(options):
            cut_to(layout_of(subject), options, subject)

    def estimate(self, subject: Subject, options: Any) -> Estimate:
        """The student's size; training needs it five times over, and the teacher."""
        count = subject.parameters
        if shape_of(options):
            layout = layout_of(subject)
            count = cut_parameters(subject, layout, cut_to(layout, options, subject))
        width = 4 if subject.dtype == "float32" else 2
        return Estimate(count, width * count, 4 * (5 * count + 2 * subject.parameters))

    def apply(self, work: Work) -> Made:
        """Cut, then follow."""
        options: DistillOptions = work.options
        student, config = work.opened.model, dict(work.opened.config)
        teacher = self._teacher(work)
        if shape_of(options):
            layout = layout_of(work.subject)
            cut = self._chosen(work, layout)
            student, config = cut_model(student, config, layout, cut)
        facts = imitate(
            student,
            teacher,
            work.data.fit,
            options,
            vocabulary=vocabulary_of(work.subject),
            end=int(work.opened.tokenizer.eos_token_id),
            run=work.run,
            scratch=work.scratch,
            on_gpu=not work.opened.device.slow_quantized,
        )
        return Made(student, config, facts)

    def check(self, work: Work, made: Made, model: Any) -> dict[str, Any]:
        """The shape asked for."""
        for key, value in shape_of(work.options).items():
            name = {"layers": "num_hidden_layers", "ffn": "intermediate_size",
                    "heads": "num_attention_heads", "width": "hidden_size"}[key]  # fmt: skip
            if made.config[name] != value:
                raise IntegrityError(f"distill gave {name} {made.config[name]}; report this")
        return {}

    def _teacher(self, work: Work) -> Any:
        reference = work.options.teacher
        if reference is None:
            return work.again().model
        subject = look_at(reference, work.settings)
        if tokenizer_digest(subject.folder) != tokenizer_digest(work.subject.folder):
            raise Unsupported(
                f"teacher {reference} has another tokenizer than {work.subject.reference}, so "
                "their answers cannot be compared token by token; choose models of one family"
            )
        return open_subject(subject, work.opened.device).model

    def _chosen(self, work: Work, layout: Layout) -> Cut:
        import mlx.core as mx

        options = work.options
        sizes = cut_to(layout, options, work.subject)
        windows = mx.array(work.data.windows(options.length, options.windows))

        def keep(structure: str, count: int) -> list[list[int]]:
            if count == units(layout, structure):
                blocks = 1 if structure in ("layers", "width") else layout.layers
                return [list(range(count))] * blocks
            scores = activity_scores(structure, work.opened.model, windows, layout)
            return [best(each, count) for each in scores]

        layers = keep("layers", len(sizes.layers))[0]
        inner = keep("ffn", len(sizes.inner[0]))
        groups = keep("heads", len(sizes.groups[0]))
        return Cut(
            layers=tuple(layers),
            inner=tuple(tuple(inner[i]) for i in layers),
            groups=tuple(tuple(groups[i]) for i in layers),
            width=tuple(keep("width", len(sizes.width))[0]),
        )


def shape_of(options: Any) -> dict[str, int]:
    """The sizes asked for, by name."""
    return {key: value for key in SHAPE if (value := getattr(options, key)) is not None}


def cut_to(layout: Layout, options: Any, subject: Subject) -> Cut:
    """A cut of the sizes asked for, of the first units.

    Raises:
        InvalidInput: the model is smaller, or heads are no whole groups. Unsupported: as
            `layout_of`.
    """
    everything = whole(layout)
    has = {
        "layers": layout.layers,
        "ffn": layout.inner,
        "heads": layout.groups * layout.heads,
        "width": layout.width,
    }
    asked = shape_of(options)
    for key, value in asked.items():
        layout_of(subject, key)
        if value > has[key]:
            raise InvalidInput(
                f"a student with {key}={value} does not fit {subject.reference}, which has "
                f"{has[key]}; ask for at most that"
            )
    if asked.get("heads", 0) % layout.heads:
        raise InvalidInput(
            f"heads must be a multiple of {layout.heads}, which share keys and values; "
            f"got {asked['heads']}"
        )
    layers = range(asked.get("layers", layout.layers))
    inner = tuple(range(asked.get("ffn", layout.inner)))
    groups = tuple(range(asked.get("heads", has["heads"]) // layout.heads))
    return Cut(
        layers=tuple(layers),
        inner=(inner,) * len(layers),
        groups=(groups,) * len(layers),
        width=tuple(range(asked["width"])) if "width" in asked else everything.width,
    )


def parse_shape(words: str) -> dict[str, int]:
    """A shape from the command line, such as `layers=2,ffn=192`.

    Raises:
        InvalidInput: it is none. UnknownKey: a name is none of a shape's.
    """
    shape = {}
    for word in words.split(","):
        key, equals, value = word.partition("=")
        if not equals or not value.strip().isdecimal():
            raise InvalidInput(
                f"shape {words!r} cannot be read; write for example layers=2,ffn=192, or give a "
                "model that exists"
            )
        shape[key.strip()] = int(value)
    reject_unknown_keys(shape, SHAPE, f"shape {words!r}")
    return shape


def is_shape(words: str) -> bool:
    """Whether a student is given as a shape, not as a model."""
    return "=" in words and not Path(words).expanduser().exists()
