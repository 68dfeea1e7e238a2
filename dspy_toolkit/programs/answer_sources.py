"""What may answer for a program when it cannot: other programs, heads, values known beforehand."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, get_args, get_origin

import dspy
from dspy.adapters.utils import serialize_for_json
from pydantic import TypeAdapter, ValidationError

from dspy_toolkit.contract import Engine, Message, Request, Response, StreamEvent, Usage
from dspy_toolkit.contract import response_to_events as events_of
from dspy_toolkit.errors import InvalidInput, nearest
from dspy_toolkit.programs.modules import plan_of
from dspy_toolkit.programs.signature import dspy_signature
from dspy_toolkit.programs.speaking import class_of
from dspy_toolkit.resilience import AnswerMemory
from dspy_toolkit.resilience.answering import noting_engines

KEY = "prediction"
"""Where the answer of a source names its prediction, in `provider_data`."""


class HeadFacts(Protocol):
    """What is asked about a head model: a reference of its signature and its fields."""

    @property
    def signature(self) -> str: ...

    @property
    def inputs(self) -> tuple[str, ...]: ...

    @property
    def specs(self) -> tuple[Any, ...]: ...


class HeadAnswers(Protocol):
    """A model that answers a whole signature in one pass, such as `training`'s `HeadModel`."""

    @property
    def facts(self) -> Any: ...

    def predict(self, inputs: Mapping[str, Any]) -> Any: ...


@dataclass(frozen=True)
class TypedDefault:
    """Output values to answer with when nothing else does, by field."""

    outputs: Mapping[str, Any]


Source: TypeAlias = dspy.Module | HeadAnswers | TypedDefault | AnswerMemory
Signature: TypeAlias = type[dspy.Signature]


@dataclass
class Asked:
    """One call of a program with fallbacks, as its sources see it.

    Attributes:
        sources: by name.
        inputs: what was asked.
        predictions: of the attempts that answered, with the engines that did, by the key that
            their answers hold.
    """

    sources: Mapping[str, Source]
    inputs: Mapping[str, Any]
    predictions: dict[str, tuple[dspy.Prediction, tuple[str, ...]]] = field(default_factory=dict)


asked: ContextVar[Asked] = ContextVar("dspy_toolkit_asked")


class SourceEngine:
    """A source under DSPy's engine contract, so that one policy serves engines and programs.

    It holds no program itself: a copy of the program with fallbacks asks its own copies.
    """

    model_string = "program"

    def __init__(self, name: str) -> None:
        self._name = name

    def complete(self, request: Request) -> Response:
        """Ask the source about the inputs of the call that is going on."""
        call = asked.get()
        with noting_engines() as engines:
            prediction = _predicted(call.sources[self._name], call.inputs)
        return self._kept(call, prediction, engines)

    def stream(self, request: Request) -> Generator[StreamEvent, None, None]:
        """The whole answer in one piece."""
        yield from events_of(self.complete(request))

    def close(self) -> None:
        """Nothing is open."""

    @property
    def async_twin(self) -> _AsyncSourceEngine:
        """The same for coroutines."""
        return _AsyncSourceEngine(self)

    async def acomplete(self, request: Request) -> Response:
        """`complete` for coroutines."""
        call = asked.get()
        source = call.sources[self._name]
        with noting_engines() as engines:
            if isinstance(source, dspy.Module):
                prediction = await source.acall(**call.inputs)
            else:
                prediction = _predicted(source, call.inputs)
        return self._kept(call, prediction, engines)

    def _kept(self, call: Asked, prediction: dspy.Prediction, engines: list[str]) -> Response:
        outputs = {name: serialize_for_json(value) for name, value in prediction.items()}
        key = f"{self._name}#{len(call.predictions)}"
        call.predictions[key] = prediction, tuple(dict.fromkeys(engines))
        return Response(
            id=None,
            model=self._name,
            message=Message.assistant(json.dumps(outputs, ensure_ascii=False)),
            finish_reason="stop",
            usage=Usage(),
            provider_data={KEY: key},
        )


class _AsyncSourceEngine:
    def __init__(self, engine: SourceEngine) -> None:
        self._engine = engine

    async def complete(self, request: Request) -> Response:
        return await self._engine.acomplete(request)

    async def stream(self, request: Request) -> AsyncGenerator[StreamEvent, None]:
        for event in events_of(await self.complete(request)):
            yield event

    async def aclose(self) -> None:
        pass


def engine_of(name: str, source: Source) -> Engine:
    """The engine a policy asks in a source's name."""
    return source if isinstance(source, AnswerMemory) else SourceEngine(name)


def signature_of(program: dspy.Module) -> Signature | None:
    """What goes in and out of a program; None where only its author knows."""
    record = plan_of(program).signature
    if record is not None:
        return dspy_signature(record)
    if class_of(program) is dspy.ChainOfThought:
        bare: Signature = program.predict.signature.delete("reasoning")
        return bare
    found = getattr(program, "signature", None)
    return found if isinstance(found, type) and issubclass(found, dspy.Signature) else None


def check_source(name: str, source: Source, signature: Signature) -> Source:
    """Refuse what answers another question; gives a default back with its values typed.

    Raises:
        InvalidInput: the signature is another one, or a value does not fit it.
    """
    if isinstance(source, AnswerMemory):
        return source
    if isinstance(source, TypedDefault):
        return TypedDefault(_typed_outputs(name, source.outputs, signature))
    wanted = _fields(signature)
    if isinstance(source, dspy.Module):
        own = signature_of(source)
        if own is None:
            raise InvalidInput(
                f"program {name!r} ({class_of(source).__name__}) does not say what goes in and "
                "out; give it a `signature` attribute"
            )
        found = _fields(own)
    else:
        facts = source.facts
        outputs = {spec.field: _of_head(spec, wanted[1].get(spec.field)) for spec in facts.specs}
        found = {each: wanted[0].get(each) for each in facts.inputs}, outputs
    if found != wanted:
        raise InvalidInput(
            f"program {name!r} has another signature: {_told(found)}, and {_told(wanted)} is "
            "asked; a fallback answers the same question"
        )
    return source


def typed(outputs: Mapping[str, Any], signature: Signature) -> dspy.Prediction:
    """A prediction of values that were JSON meanwhile."""
    fields = signature.output_fields
    return dspy.Prediction(
        **{
            name: TypeAdapter(fields[name].annotation).validate_python(value)
            if name in fields
            else value
            for name, value in outputs.items()
        }
    )


def _predicted(source: Source, inputs: Mapping[str, Any]) -> dspy.Prediction:
    if isinstance(source, dspy.Module):
        return source(**inputs)
    if isinstance(source, TypedDefault):
        return dspy.Prediction(**source.outputs)
    if isinstance(source, AnswerMemory):
        raise AssertionError("a memory is asked as the engine it is")
    return dspy.Prediction(**source.predict(inputs).outputs)


_Fields = tuple[dict[str, Any], dict[str, Any]]


def _fields(signature: Signature) -> _Fields:
    sides = (signature.input_fields, signature.output_fields)
    inputs, outputs = ({name: info.annotation for name, info in side.items()} for side in sides)
    return inputs, outputs


def _of_head(spec: Any, annotation: Any) -> Any:
    """The type of what a head answers, where the output has this type."""
    labels = tuple(each for each in spec.options if each is not None)
    known = _labels(annotation)
    return Literal[labels] if labels and known and set(labels) != known else annotation


def _labels(annotation: Any) -> set[Any]:
    args = get_args(annotation)
    if get_origin(annotation) is Literal:
        return set(args) - {None}
    return set().union(*map(_labels, args))


def _told(fields: _Fields) -> str:
    return " -> ".join(", ".join(_named(*each) for each in side.items()) for side in fields)


def _named(name: str, annotation: Any) -> str:
    plain = None if get_args(annotation) else getattr(annotation, "__name__", None)
    shown = plain or str(annotation).replace("typing.", "")
    return f"{name}: {'another type' if annotation is None else shown}"


def _typed_outputs(name: str, outputs: Mapping[str, Any], signature: Signature) -> dict[str, Any]:
    fields = signature.output_fields
    for key in outputs:
        if key not in fields:
            raise InvalidInput(f"default {name!r}: unknown output {key!r}; {nearest(key, fields)}")
    for key in fields:
        if key not in outputs:
            raise InvalidInput(f"default {name!r} has no value for the output {key!r}")
    try:
        return dict(typed(outputs, signature).items())
    except ValidationError as error:
        problem: Callable[..., Any] = error.errors()[0].get
        raise InvalidInput(
            f"default {name!r} does not fit the signature: {problem('msg')}, "
            f"got {problem('input')!r}"
        ) from None
