"""A compiled program kept open for many callers at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import dspy
from dspy.adapters.utils import serialize_for_json
from dspy.utils.exceptions import ContextWindowExceededError, is_retryable_lm_error

from dspy_toolkit.config import Settings
from dspy_toolkit.contract import (
    AsyncEngine,
    Engine,
    Request,
    Response,
    StreamEndEvent,
    StreamEvent,
)
from dspy_toolkit.errors import EngineError
from dspy_toolkit.programs.artifact import Artifact
from dspy_toolkit.programs.field_stream import FieldReader
from dspy_toolkit.programs.formats import prompt_format
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.speaking import silenced
from dspy_toolkit.programs.weighed import PROBABILITIES
from dspy_toolkit.registry.values import json_schema
from dspy_toolkit.resilience import answered_by

_KEY = "dspy_toolkit_answerers"
_ENDED = object()


class ProgramFailed(EngineError):
    """A program gave no answer.

    Attributes:
        reason: "too_long" (the inputs leave no room), "timeout", "busy" (the same call may
            succeed later), "unusable" (the model's answer cannot be read) or "failed".
        retry_after_s: when to ask again, where the engine said so.
    """

    def __init__(self, reason: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.retryable = reason in ("timeout", "busy")


@dataclass(frozen=True)
class ProgramAnswer:
    """What a program answered.

    Attributes:
        outputs: JSON values by output field.
        probabilities: of each option, by the output fields that were decided among options.
        answered_by: the engines that gave the answer, in the order asked; a fallback shows here.
        input_tokens, output_tokens: of all model calls of it.
    """

    outputs: dict[str, Any]
    probabilities: dict[str, dict[str, float]] = field(default_factory=dict)
    answered_by: tuple[str, ...] = ()
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True)
class FieldText:
    """The next piece of an output field."""

    field: str
    text: str


@dataclass(frozen=True)
class Restarted:
    """The model is asked anew: what was streamed so far counts for nothing."""


Streamed = FieldText | Restarted | ProgramAnswer


class LoadedProgram:
    """One version of a program, built once; any number of coroutines may call it together.

    Attributes:
        name: what callers know it by.
        version: names its content.
        artifact: what it was built from.
        lm: the model it runs on, which `close` gives back.
    """

    def __init__(self, name: str, version: str, artifact: Artifact, lm: LocalLM) -> None:
        self.name = name
        self.version = version
        self.artifact = artifact
        self.lm = lm
        self._form = artifact.manifest["prompt_format"]
        self._program = silenced(artifact.program(lm))
        self._adapter = prompt_format(self._form)
        self._weighing = prompt_format(self._form)
        if PROBABILITIES not in self.outputs and hasattr(self._weighing, PROBABILITIES):
            self._weighing.probabilities = True
        self._threaded = not hasattr(type(self._program), "aforward")

    @property
    def primary(self) -> str:
        """The engine that answers unless a policy has another one stand in."""
        policy = getattr(self.lm.engine, "policy", None)
        return "model" if policy is None else str(policy.primary)

    @property
    def engines(self) -> dict[str, Engine]:
        """What it asks, by the name that events use, unless a policy stands in between.

        Tokens of the model alone do not show that calls come through that.
        """
        guarded = hasattr(self.lm.engine, "policy")
        name = f"{self.name} {self.version} over {self.lm.model}" if guarded else self.lm.model
        return {name: self.lm.engine}

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the input fields."""
        return tuple(self.artifact.manifest["inputs"])

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the output fields; empty where only the program's own code knows them."""
        record = self.artifact.signature
        return tuple(each.name for each in record.outputs) if record else ()

    @property
    def input_schema(self) -> dict[str, Any]:
        """JSON Schema of the inputs."""
        record = self.artifact.signature
        if record is not None:
            return json_schema(record, "inputs")
        anything: dict[str, Any] = {name: {} for name in self.inputs}
        return {
            "type": "object",
            "properties": anything,
            "required": list(self.inputs),
            "additionalProperties": False,
        }

    @property
    def output_schema(self) -> dict[str, Any]:
        """JSON Schema of the outputs."""
        record = self.artifact.signature
        return json_schema(record, "outputs") if record is not None else {"type": "object"}

    async def call(self, values: Mapping[str, Any], weigh: bool = False) -> ProgramAnswer:
        """Answer one set of inputs. Cancelling the task frees the model's rows.

        Args:
            values: JSON values by input field.
            weigh: whether to measure the probability of every option of Literal, bool and Enum
                outputs too, where the prompt format and the model allow it. It costs a run of the
                model for each option that begins otherwise.

        Raises:
            InvalidInput: a field is missing, unknown or does not fit.
            ProgramFailed: no usable answer came.
        """
        adapter = self._weighing if weigh else self._adapter
        return await self._run(self.artifact.check(values), adapter, None)

    async def stream(self, values: Mapping[str, Any]) -> AsyncGenerator[Streamed, None]:
        """Answer piece by piece, then with the whole. Closing the iterator frees the rows.

        Raises:
            As `call`.
        """
        given = self.artifact.check(values)
        pieces: asyncio.Queue[Any] = asyncio.Queue(maxsize=64)
        fields = {
            id(predictor): tuple(predictor.signature.output_fields)
            for predictor in self._program.predictors()
        }
        listener = _Listener(self._form, fields, self.outputs, pieces)

        async def run() -> ProgramAnswer:
            try:
                return await self._run(given, self._adapter, listener)
            finally:
                with suppress(asyncio.CancelledError):
                    await pieces.put(_ENDED)

        task = asyncio.create_task(run())
        try:
            while (piece := await pieces.get()) is not _ENDED:
                yield piece
            yield await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def close(self) -> None:
        """Give the model back."""
        self.lm.release()

    async def _run(
        self, given: dict[str, Any], adapter: dspy.Adapter, listener: _Listener | None
    ) -> ProgramAnswer:
        meter, answerers = _Meter(), list[str]()
        more = {"send_stream": listener} if listener is not None else {}
        settings = {"usage_tracker": meter, _KEY: answerers, "disable_history": True, "trace": []}
        try:
            with dspy.context(adapter=adapter, **settings, **more):
                prediction = await self._call(given)
        except NotImplementedError:
            # DSPy does not stream decisions; nothing was sent yet.
            if listener is None or listener.heard:
                raise
            return await self._run(given, adapter, None)
        except dspy.DSPyError as error:
            raise _failure(error) from error
        outputs = {name: _as_json(value) for name, value in prediction.items()}
        if PROBABILITIES not in self.outputs:
            outputs.pop(PROBABILITIES, None)
        return ProgramAnswer(
            outputs=outputs,
            probabilities=_probabilities(prediction),
            answered_by=tuple(dict.fromkeys(answerers)) or ("model",),
            input_tokens=meter.input_tokens,
            output_tokens=meter.output_tokens,
        )

    async def _call(self, given: dict[str, Any]) -> Any:
        if self._threaded:
            return await dspy.asyncify(self._program)(**given)
        return await self._program.acall(**given)


class WitnessedEngine:
    """An async engine that notes which engine of a policy gave each answer, for `LoadedProgram`."""

    def __init__(self, inner: AsyncEngine) -> None:
        self._inner = inner

    async def complete(self, request: Request) -> Response:
        """Answer a request."""
        response = await self._inner.complete(request)
        _note(answered_by(response))
        return response

    async def stream(self, request: Request) -> AsyncGenerator[StreamEvent, None]:
        """Answer a request piece by piece."""
        async for event in self._inner.stream(request):
            if isinstance(event, StreamEndEvent) and isinstance(event.provider_data, dict):
                _note(event.provider_data.get("answered_by"))
            yield event

    async def aclose(self) -> None:
        """Close the engine."""
        await self._inner.aclose()

    def __deepcopy__(self, memo: dict[int, Any]) -> WitnessedEngine:
        return self


def open_program(
    artifact: Artifact, name: str, version: str, settings: Settings, lm: LocalLM | None = None
) -> LoadedProgram:
    """Build a program on the model it was compiled for, or on `lm`, with the call cache off.

    Raises:
        As `Artifact.language_model` and `Artifact.program`.
    """
    used = lm or artifact.language_model(settings=replace(settings, cache=False))
    try:
        return LoadedProgram(name, version, artifact, used)
    except BaseException:
        used.release()
        raise


class _Listener:
    """Where DSPy sends what a model writes: split into fields, for one call of a program."""

    def __init__(
        self,
        form: str,
        fields: Mapping[int, tuple[str, ...]],
        wanted: tuple[str, ...],
        pieces: asyncio.Queue[Any],
    ) -> None:
        self._form = form
        self._fields = fields
        self._wanted = wanted
        self._pieces = pieces
        self._readers: dict[int, FieldReader] = {}
        self._ended: set[int] = set()
        self.heard = False

    async def send(self, chunk: Any) -> None:
        """Take a piece of one predictor's answer."""
        who = getattr(chunk, "predict_id", None)
        if who is None or not getattr(chunk, "choices", None):
            return
        self.heard = True
        if who in self._ended:
            self._ended.clear()
            self._readers.clear()
            await self._pieces.put(Restarted())
        if who not in self._readers:
            names = [name for name in self._fields.get(who, ()) if self._takes(name)]
            self._readers[who] = FieldReader(self._form, names)
        choice = chunk.choices[0]
        last = choice.finish_reason is not None
        for name, text in self._readers[who].add(choice.delta.content or "", last):
            await self._pieces.put(FieldText(name, text))
        if last:
            self._ended.add(who)

    def _takes(self, name: str) -> bool:
        return not self._wanted or name in self._wanted or name == "reasoning"


class _Meter:
    """Stands where DSPy's usage tracker does, and keeps sums only."""

    def __init__(self) -> None:
        self.input_tokens = 0
        self.output_tokens = 0

    def add_usage(self, model: str, usage: dict[str, Any]) -> None:
        self.input_tokens += usage.get("prompt_tokens") or 0
        self.output_tokens += usage.get("completion_tokens") or 0


def _note(engine: object) -> None:
    answerers = dspy.settings.get(_KEY)
    if isinstance(answerers, list) and isinstance(engine, str):
        answerers.append(engine)


def _probabilities(prediction: Any) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    measured = prediction.get(PROBABILITIES)
    if isinstance(measured, Mapping):
        for name, weights in measured.items():
            if isinstance(weights, Mapping):
                found[name] = {_said(option): float(each) for option, each in weights.items()}
    for name, value in prediction.items():
        options = getattr(value, "probabilities", None)
        certain = getattr(value, "probability", None)
        if name in found:
            continue
        if isinstance(options, Mapping):
            found[name] = {str(option): float(chance) for option, chance in options.items()}
        elif isinstance(certain, float | int):
            found[name] = {"true": float(certain), "false": 1.0 - float(certain)}
    return found


def _as_json(value: Any) -> Any:
    # DSPy's way makes a validator for each value.
    return value if value is None or type(value) in (str, bool, int) else serialize_for_json(value)


def _said(option: Any) -> str:
    """An option as JSON writes it, texts without quotes."""
    return str(option).lower() if isinstance(option, bool) else str(option)


def _failure(error: dspy.DSPyError) -> ProgramFailed:
    text = " ".join(str(error).split())[:300]
    if isinstance(error, ContextWindowExceededError):
        return ProgramFailed("too_long", "the inputs are too long for the program's model")
    if isinstance(error, dspy.AdapterParseError):
        return ProgramFailed("unusable", "the model's answer does not fit the program's outputs")
    if isinstance(error, dspy.LMTimeoutError):
        return ProgramFailed("timeout", "the program's model took too long")
    if is_retryable_lm_error(error):
        after = getattr(error, "retry_after", None)
        return ProgramFailed("busy", "the program's model cannot answer now", after)
    return ProgramFailed("failed", f"the program's model failed: {text}")


def version_of(artifact: Artifact) -> str:
    """A short name for what an artifact holds, model and all: the seal of its manifest."""
    return str(artifact.manifest["seal"])[:12]
