"""A live line for a training run: step, loss, tokens a second, time left."""

from __future__ import annotations

from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from dspy_toolkit.cli.output import talk_console
from dspy_toolkit.events import (
    CheckpointDamaged,
    CheckpointSaved,
    Event,
    PhaseAdvanced,
    PhaseStarted,
    RunResumed,
    RunStarted,
    TrainingEvaluated,
    TrainingStepped,
    emit,
)


class TrainingProgress:
    """Follows a run's events.

    Args:
        shown: whether there is a line; without one only `run` and `saved` are kept.

    Attributes:
        run: id of the run, once it has begun.
        saved: step of its newest checkpoint.
    """

    def __init__(self, shown: bool) -> None:
        self.run: str | None = None
        self.saved: int | None = None
        self._shown = shown
        self._validation = ""
        self._task: TaskID | None = None
        self._bar = Progress(
            TextColumn("train"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            console=talk_console(),
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        match event:
            case RunStarted(run=run):
                self.run = run
                self._say(f"run {run}")
            case RunResumed(step=0):
                self._say("no checkpoint is sound, so it begins again")
            case RunResumed(step=step):
                self.saved = step
                self._say(f"goes on after step {step}")
            case CheckpointSaved(step=step):
                self.saved = step
            case CheckpointDamaged(reason=reason):
                self._say(f"a checkpoint was set aside: {reason}")
            case TrainingEvaluated(loss=loss):
                self._validation = f"  validation {loss:.4f}"
            case TrainingStepped():
                self._advance(event)

    def _advance(self, event: TrainingStepped) -> None:
        if not self._shown:
            return
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("train", total=event.steps, facts="")
        self._bar.update(
            self._task,
            completed=event.step,
            facts=f"loss {event.loss:.4f}{self._validation}  {event.tokens_per_s:,.0f} tokens/s  "
            f"{_time(event.seconds_left)} left",
        )

    def _say(self, text: str) -> None:
        if self._shown:
            self._bar.console.print(text, markup=False, soft_wrap=True)


class TrainingPhase:
    """Tells the steps of a training as a phase of something larger, which the bar shows."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        if not isinstance(event, TrainingStepped):
            return
        if event.step == 1:
            emit(PhaseStarted(event.run, self._name, event.steps))
        emit(PhaseAdvanced(event.run, self._name, event.step, None))


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
