"""A program that can be tried on one model after another: what it scores, and what it asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy

from dspy_toolkit.compiler.dspy_scope import corrected
from dspy_toolkit.compiler.evaluation import Evaluation, evaluate
from dspy_toolkit.compiler.opening import open_model
from dspy_toolkit.compiler.run import CompileOptions, compile_task
from dspy_toolkit.compiler.scoring import artifact_at, task_of
from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.engine.recording import RecordingEngine
from dspy_toolkit.programs.artifact import Artifact, load_artifact
from dspy_toolkit.programs.cache import under
from dspy_toolkit.programs.calls import Calls, CallTally, counted
from dspy_toolkit.programs.formats import prompt_format
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.task import Task, load_task


@dataclass(frozen=True)
class Tried:
    """What a program came to on some examples.

    Attributes:
        evaluation: outcomes in the examples' order.
        calls: model calls, and how many of them the cache answered.
    """

    evaluation: Evaluation
    calls: Calls


class Trial:
    """A task's bare program, or a compiled one, with its examples and metric.

    Args:
        path: a task folder, an artifact, or the folder of a run.
        task: whose examples and metric, where `path` is an artifact; see `scoring.score_path`.
        settings: where runs lie; read from the environment when left out.

    Raises:
        NotFound, InvalidInput, IntegrityError: with what to do.
    """

    def __init__(
        self, path: Path, task: Path | None = None, settings: Settings | None = None
    ) -> None:
        self.settings = settings or load_settings()
        self.artifact: Artifact | None = artifact_at(path)
        self.task: Task = (
            task_of(self.artifact, task, self.settings)
            if self.artifact
            else load_task(task or path, self.settings)
        )

    @property
    def digest(self) -> dict[str, Any]:
        """What decides the program's answers beside the model, for content addresses."""
        data = self.task.data
        return {
            "task": self.task.name,
            "program": None if self.artifact is None else self.artifact.manifest["seal"],
            "signature": self.task.signature.digest if self.task.signature else None,
            "format": self.task.format,
            "data": [data.train.digest, data.validation.digest, data.test.digest],
        }

    def examples(self, *splits: str) -> list[dspy.Example]:
        """The examples of some splits, one after the other."""
        return [each for name in splits for each in self.task.data.split(name).examples]

    def with_program(self, folder: Path) -> Trial:
        """The same task with another compiled program."""
        other = Trial.__new__(Trial)
        other.settings, other.task, other.artifact = self.settings, self.task, load_artifact(folder)
        return other

    def score(
        self, model: str, examples: Sequence[dspy.Example], threads: int | None = None
    ) -> Tried:
        """Score the program on a model.

        Raises:
            NotFound, EngineError: the model cannot be opened. MetricError: the metric is at fault.
        """
        with self._opened(model) as lm, self._surrounded(lm) as tally:
            found = evaluate(
                self._program(lm),
                examples,
                self.task.metric,
                threads=threads or self.settings.threads,
            )
            return Tried(found, tally.calls)

    def traces(self, model: str, examples: Sequence[dspy.Example]) -> list[list[dict[str, Any]]]:
        """Let the program answer and keep every conversation with the model, the answer last.

        Nothing is taken from the cache of answers, which holds no prompts.
        """
        with self._opened(model) as lm:
            recorder = RecordingEngine(lm.engine)
            heard = lm.copy(engine=recorder, cache=False)
            with self._surrounded(heard):
                evaluate(
                    self._program(heard),
                    examples,
                    self.task.metric,
                    threads=self.settings.threads,
                )
        # Threads answer in any order; a content address must not depend on it.
        return sorted(recorder.conversations, key=repr)

    def compiled_on(self, model: str, seed: int = 0) -> Path | None:
        """Compile the task for a model with its own optimizer; None where the result is worse."""
        done = compile_task(self.task, CompileOptions(model=model, seed=seed), self.settings)
        return None if done.report["artifact"] is None else Path(done.report["artifact"])

    def _program(self, lm: LocalLM) -> dspy.Module:
        return self.artifact.program(lm) if self.artifact else self.task.program()

    @contextmanager
    def _opened(self, model: str) -> Iterator[LocalLM]:
        lm = (
            self.artifact.language_model(model, settings=self.settings)
            if self.artifact
            else open_model(self.task, self.settings, model)
        )
        try:
            yield lm
        finally:
            lm.release()

    @contextmanager
    def _surrounded(self, lm: LocalLM) -> Iterator[CallTally]:
        with ExitStack() as stack:
            stack.enter_context(corrected(lambda line: None))
            stack.enter_context(dspy.context(lm=lm, adapter=prompt_format(self.task.format)))
            stack.enter_context(under(self.settings))
            yield stack.enter_context(counted(CallTally()))
