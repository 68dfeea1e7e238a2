"""Training runs: begin one, go on with one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.engine.blas import preload_blas
from dspy_toolkit.errors import ToolkitError
from dspy_toolkit.events import RunFinished, RunStarted, emit
from dspy_toolkit.store.lock import working_in
from dspy_toolkit.training.recipe import Recipe
from dspy_toolkit.training.report import read_report, write_report
from dspy_toolkit.training.run_folder import RunFolder, create_run, open_run

if TYPE_CHECKING:
    from dspy_toolkit.store.history import History
    from dspy_toolkit.training.session import Session


def train(recipe: Recipe, settings: Settings | None = None) -> dict[str, Any]:
    """Train by a recipe, in a new run.

    Model and data are read and checked before the run's folder is made.

    Returns:
        The report, also `report.json` in the run's folder, which holds model or adapter too.

    Raises:
        InvalidInput, NotFound, EngineError: recipe, data or model are not in order.
        TrainingDiverged: the loss became no number; the last checkpoint stays.
        StorageError: the disk is full; the checkpoints stay, and the run can be resumed.
        KeyboardInterrupt: Ctrl-C; a checkpoint was written first.
    """
    settings = settings or load_settings()
    preload_blas(settings.blas)
    from dspy_toolkit.training.session import Session, dependencies, settled

    recipe = settled(recipe)
    session = Session(recipe)
    run = create_run(settings, recipe, dependencies(recipe, settings))
    return _kept(run, settings, session, fresh=True)


def resume(reference: str, settings: Settings | None = None) -> dict[str, Any]:
    """Go on with a run from its newest sound checkpoint, as if it had never stopped.

    A run that is finished gives its report back.

    Args:
        reference: id or folder of the run.
        settings: where runs lie.

    Raises:
        As `train`; and IntegrityError: data or model were changed since the run began.
    """
    settings = settings or load_settings()
    run = open_run(settings, reference)
    report = read_report(run.path)
    if report is not None:
        return report
    preload_blas(settings.blas)
    from dspy_toolkit.training.session import Session, dependencies

    with working_in(run.path, f"run {run.run}"):
        run.require_unchanged(dependencies(run.recipe, settings))
    return _kept(run, settings, Session(run.recipe), fresh=False)


def _kept(run: RunFolder, settings: Settings, session: Session, fresh: bool) -> dict[str, Any]:
    from dspy_toolkit.store.history import History, RunRow

    began = time.time()
    recipe = run.recipe
    history = History(settings.database)
    try:
        with working_in(run.path, f"run {run.run}"):
            if fresh:
                base = recipe.model.base or "new"
                kind = f"{recipe.optimizer.name}/{recipe.model.mode}"
                row = RunRow(run.run, recipe.name, kind, base, recipe.seed, run.started_at)
                history.add(row)
            emit(RunStarted(run.run, recipe.name, recipe.optimizer.name))
            report = session.run(run)
            write_report(run.path, report)
        history.finish(run.run, report)
    except BaseException as error:
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        _note(history, run.run, error, reason)
        emit(RunFinished(run.run, time.time() - began, reason))
        raise
    finally:
        history.close()
    emit(RunFinished(run.run, time.time() - began))
    return report


def _note(history: History, run: str, error: BaseException, reason: str) -> None:
    try:
        if isinstance(error, KeyboardInterrupt):
            history.interrupt(run)
        else:
            history.fail(run, " ".join(reason.split()))
    except ToolkitError:
        # The first error says more than a history that cannot be written because of it.
        return
