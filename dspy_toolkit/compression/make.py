"""Making one compressed model from what a command says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.engine.blas import preload_blas
from dspy_toolkit.store.files import refuse_existing
from dspy_toolkit.training.tables import read_table

if TYPE_CHECKING:
    from dspy_toolkit.compression.build import Built


def make(
    model: str,
    method: str,
    options: Mapping[str, Any],
    *,
    task: Path | None = None,
    calibration: str | None = None,
    output: Path | None = None,
    settings: Settings | None = None,
) -> Built:
    """Make a model smaller by one technique, or find it where it was made before.

    Everything that can be refused is refused before calibration data are gathered.

    Args:
        model: "embedded", a model folder, or a hub id.
        method: name of the technique.
        options: of the technique.
        task: a task folder or an artifact, whose prompts are calibration data.
        calibration: a file, a kept set, or "samples", instead.
        output: a new folder for a copy.
        settings: where results lie.

    Raises:
        As `build.order` and `build.build`.
    """
    chosen = settings or load_settings()
    # Before anything imports MLX.
    preload_blas(chosen.blas)
    from dspy_toolkit.compression.build import build, order
    from dspy_toolkit.compression.calibration_sources import calibration_from
    from dspy_toolkit.compression.subject import look_at
    from dspy_toolkit.compression.techniques import technique

    if output is not None:
        refuse_existing(output.expanduser())
    way = technique(method)
    record = read_table(way.kind, options, f"options of {method}", Path.cwd())
    subject = look_at(model, chosen)
    way.refuse(subject, record)
    wanted = way.needs_data(record) or task is not None or calibration is not None
    data = calibration_from(calibration, task, subject, chosen) if wanted else None
    return build(order(model, method, options, data, chosen), chosen, output)


def distill_stages(
    teacher: str,
    students: Sequence[str],
    options: Mapping[str, Any],
    *,
    task: Path | None = None,
    calibration: str | None = None,
    output: Path | None = None,
    settings: Settings | None = None,
) -> list[Built]:
    """Distil a teacher into a student, or through several ever smaller ones.

    Args:
        teacher: the model to follow.
        students: shapes, each cut from the result before it, the first from the teacher; or, as
            the first, a model of its own.
        options: of distill, but for shape and teacher.
        task, calibration, output, settings: as for `make`; the copy is of the last stage.

    Returns:
        One result a stage, in order.

    Raises:
        As `make`.
    """
    chosen = settings or load_settings()
    preload_blas(chosen.blas)
    from dspy_toolkit.compression.build import build, order
    from dspy_toolkit.compression.calibration_sources import calibration_from
    from dspy_toolkit.compression.distill import is_shape, parse_shape
    from dspy_toolkit.compression.subject import look_at

    if output is not None:
        refuse_existing(output.expanduser())
    shapes = [parse_shape(each) if is_shape(each) else None for each in students]
    guide = look_at(teacher, chosen)
    follows = {"teacher": str(guide.folder), "teacher_digest": guide.digest}
    start = teacher if shapes[0] is not None else students[0]
    # Refused before calibration data are gathered.
    look_at(start, chosen)
    data = calibration_from(calibration, task, guide, chosen)
    built: list[Built] = []
    for shape in shapes:
        named = {} if shape is not None and not built else follows
        wanted = order(start, "distill", {**options, **(shape or {}), **named}, data, chosen)
        last = len(built) == len(shapes) - 1
        built.append(build(wanted, chosen, output if last else None))
        start = str(built[-1].folder)
    return built


def run_pipeline(
    path: Path,
    model: str,
    goals: Sequence[str],
    *,
    task: Path | None = None,
    candidates: Sequence[str] | None = None,
    recompile: int = 0,
    block: int = 16,
    seed: int = 0,
    settings: Settings | None = None,
) -> dict[str, Any]:
    """Find the smallest model on which a program still passes its own metric.

    Args:
        path: a task folder, an artifact, or a run; a task's program is compiled first.
        model: the original.
        goals: such as "size<=2MB" or "score>=baseline-0.02".
        task: whose examples and metric, where an artifact's own is not in its home any more.
        candidates: names of those to try; None tries all that the model allows.
        recompile: candidates that get prompts of their own where only the score keeps them out.
        block: examples between two looks at a candidate.
        seed: of everything random.
        settings: where everything lies.

    Returns:
        The report, which lies in the pipeline's folder too.

    Raises:
        InvalidInput: a goal cannot be read. Else as `pipeline.Pipeline`.
    """
    chosen = settings or load_settings()
    preload_blas(chosen.blas)
    from dspy_toolkit.compiler.trial import Trial
    from dspy_toolkit.compression.goals import parse_goal
    from dspy_toolkit.compression.pipeline import Pipeline, PipelineOptions

    read = [parse_goal(each) for each in goals]
    trial = Trial(path, task, chosen)
    options = PipelineOptions(
        candidates=tuple(candidates) if candidates else None,
        block=block,
        recompile=recompile,
        seed=seed,
    )
    return Pipeline(trial, model, read, options, chosen).run()


def export_model(
    model: str, to: str, output: Path, kind: str = "f16", settings: Settings | None = None
) -> dict[str, Any]:
    """Write a model for another runtime; see `export.export`."""
    chosen = settings or load_settings()
    preload_blas(chosen.blas)
    from dspy_toolkit.compression.export import export

    return export(model, to, output, chosen, kind).to_dict()
