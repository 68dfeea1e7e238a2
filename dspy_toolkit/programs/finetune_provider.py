"""DSPy's fine-tuning over a local model: traces in, a language model with an adapter out.

Training itself is handed in, because it stands above this package.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias

from dspy.clients.provider import Provider, TrainingJob
from dspy.clients.utils_finetune import TrainDataFormat, TrainingStatus

from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.programs.lm import LocalLM, ModelSource
from dspy_toolkit.programs.opening import local_lm

TrainAdapter: TypeAlias = Callable[[str, Sequence[Mapping[str, Any]]], Path]
"""From a model's reference and chat examples, `{"messages": [...]}`, to an adapter's folder."""


class AdapterJob(TrainingJob):  # type: ignore[misc]  # DSPy ships no types
    """A fine-tuning that runs where it was asked for, and is over when that call returns."""

    def status(self) -> TrainingStatus:
        """Where it is, in DSPy's words."""
        if not self.done():
            return TrainingStatus.running
        failed = isinstance(self.result(), Exception)
        return TrainingStatus.failed if failed else TrainingStatus.succeeded

    def cancel(self) -> bool:
        """Nothing can be called off from here: Ctrl-C stops the training and saves it."""
        return False


class AdapterProvider(Provider):  # type: ignore[misc]  # DSPy ships no types
    """Trains adapters for one local model.

    Args:
        source: the model.
        train: makes the adapter.
        generation: `temperature` and `max_tokens` of the tuned model.
        settings: for opening it.
    """

    def __init__(
        self,
        source: ModelSource,
        train: TrainAdapter,
        generation: Mapping[str, Any],
        settings: Settings | None = None,
    ) -> None:
        super().__init__()
        self.finetunable = True
        self.TrainingJob = AdapterJob
        self.tuned: dict[str, LocalLM] = {}
        self._source = source
        self._train = train
        self._generation = dict(generation)
        self._settings = settings

    def finetune(
        self,
        job: TrainingJob,
        model: str,
        train_data: Sequence[Mapping[str, Any]],
        train_data_format: TrainDataFormat | str | None = None,
        train_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Train an adapter and open the model with it; returns the new model's string.

        Raises:
            InvalidInput: the data is not chat, or the model has an adapter already.
        """
        if train_data_format not in (TrainDataFormat.CHAT, None):
            raise InvalidInput(
                f"local models are fine-tuned on chat data, not on {train_data_format!r}"
            )
        if self._source.adapter is not None:
            raise InvalidInput(
                f"{self._source.reference} has the adapter {self._source.adapter} already; "
                "fine-tune the bare model"
            )
        folder = self._train(self._source.reference, [_plain(each) for each in train_data])
        tuned = local_lm(
            self._source.reference,
            adapter=folder,
            settings=self._settings,
            **self._generation,
            **self._source.options,
        )
        self.tuned[tuned.model] = tuned
        return str(tuned.model)


class TunableLM(LocalLM):
    """A local model that DSPy's `finetune` and `BootstrapFinetune` can train.

    Training runs on the calling thread, not on one of DSPy's, so that Ctrl-C reaches it.
    """

    def finetune(
        self,
        train_data: Sequence[Mapping[str, Any]],
        train_data_format: TrainDataFormat | str | None = None,
        train_kwargs: Mapping[str, Any] | None = None,
    ) -> AdapterJob:
        """Train an adapter; the job's result is the language model with it."""
        ended = threading.Thread(target=lambda: None)
        ended.start()
        job = AdapterJob(thread=ended, model=self.model, train_data=list(train_data))
        job.set_result(
            self.copy(
                model=self.provider.finetune(
                    job, self.model, train_data, train_data_format, train_kwargs
                )
            )
        )
        return job

    def copy(self, **kwargs: Any) -> Self:
        """A copy, which for the string of a tuned model has that model's engine."""
        tuned = self.provider.tuned.get(kwargs.get("model"))
        if tuned is None:
            return super().copy(**kwargs)  # type: ignore[no-any-return]
        return super().copy(  # type: ignore[no-any-return]
            **kwargs, engine=tuned.engine, async_engine=_twin(tuned), source=tuned.source
        )


def tunable(lm: LocalLM, train: TrainAdapter, settings: Settings | None = None) -> TunableLM:
    """The same model as one that can be fine-tuned; both share the engine.

    Args:
        lm: opened from a reference.
        train: makes an adapter.
        settings: for opening the tuned model.

    Raises:
        InvalidInput: the model was made in Python and has no reference.
    """
    if lm.source is None:
        raise InvalidInput(
            "only a model that was opened by its reference can be fine-tuned; use local_lm(...)"
        )
    generation = {name: lm.kwargs[name] for name in ("temperature", "max_tokens")}
    return TunableLM(
        lm.model,
        engine=lm.engine,
        async_engine=_twin(lm),
        seed=lm.seed,
        source=lm.source,
        provider=AdapterProvider(lm.source, train, generation, settings),
        cache=lm.cache,
        **generation,
    )


def _twin(lm: LocalLM) -> Any:
    return getattr(lm.engine, "async_twin", None)


def _plain(example: Mapping[str, Any]) -> dict[str, Any]:
    """A chat example with each turn's content as one text."""
    return {
        "messages": [
            {"role": turn["role"], "content": _text(turn["content"])}
            for turn in example["messages"]
        ]
    }


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = [part.get("text") if part.get("type") == "text" else None for part in content]
    if None in parts:
        raise InvalidInput("a trace holds an image or other media, which text models cannot learn")
    return "".join(str(part) for part in parts)
