"""Between DSPy's canonical types and the engine's own. The only file here that imports DSPy."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from dspy import lm15
from dspy.clients.engines.base import validate_request

from dspy_toolkit.engine.chat import Turn
from dspy_toolkit.engine.output import Piece, Score
from dspy_toolkit.engine.refusals import EngineStopped, QueueFull, TooLarge, TooLate
from dspy_toolkit.engine.source import one_line
from dspy_toolkit.engine.weighing import Choice, read_choices

Request: TypeAlias = lm15.Request
Response: TypeAlias = lm15.Response

# What `Config.extensions` of an explicit request may hold, beyond lm15's own fields. `raw` has
# the text go to the model as it is, without the chat template.
EXTENSIONS = ("min_p", "repetition_penalty", "repetition_context", "template", "raw")
SUPPORTED_PARAMS = (
    "temperature",
    "max_tokens",
    "max_completion_tokens",
    "top_p",
    "top_k",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "logprobs",
    "top_logprobs",
    "stream",
)
SCHEMA_PARAMS = ("response_format",)
# Beside the grammar: the choices to weigh, a list of `{"name", "after", "options", "end"}`.
OPTIONS_KEY = "x-dspy-toolkit-options"
TOOL_PARAMS = ("tools", "tool_choice")
REASONING_PARAMS = ("reasoning_effort",)


@dataclass(frozen=True)
class Ask:
    """A request in the engine's own words; None where the caller left a value open.

    `schema` is the JSON schema the answer is to fulfil, with `GRAMMAR_KEY` in it if a grammar is
    to be taken instead. `choices` are the places in the answer whose options are to be weighed.
    """

    turns: list[Turn]
    tools: list[dict[str, Any]] = field(default_factory=list)
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stops: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logprobs: int | None = None
    thinking: bool | None = None
    extensions: dict[str, Any] = field(default_factory=dict)
    schema: Mapping[str, Any] | None = None
    choices: tuple[Choice, ...] = ()


@dataclass(frozen=True)
class Call:
    """A tool call the model made."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """A finished answer.

    Attributes:
        pieces: text and thinking, in order.
        reason: "stop", "length" or "tool_call".
        input_tokens: tokens read.
        output_tokens: tokens drawn.
        cached_tokens: those of the tokens read that an earlier call had read already.
        calls: tool calls, in order; they stand after the text.
        late: those of the pieces that no stream has brought, because they looked like calls.
        weights: the options' probabilities, by the names of their choices.
    """

    pieces: Sequence[Piece]
    reason: str
    input_tokens: int
    output_tokens: int
    calls: Sequence[Call] = ()
    late: Sequence[Piece] = ()
    cached_tokens: int = 0
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def read_request(request: Request, tools: bool, thinking: bool) -> Ask:
    """Take a request apart.

    Args:
        request: from DSPy.
        tools: whether the model can be offered tools.
        thinking: whether the model has thinking that can be turned on and off.

    Raises:
        lm15.UnsupportedFeatureError: it asks for what the engine cannot do.
        lm15.InvalidRequestError: it holds no text, an unknown extension, or broken choices.
    """
    validate_request(request)
    config = request.config
    _refuse(config, tools=bool(request.tools), can_call=tools, can_think=thinking)
    extensions = dict(config.extensions or {})
    for name in extensions:
        if name not in EXTENSIONS:
            raise invalid(f"extension {name!r} is unknown; known: {', '.join(EXTENSIONS)}")
    turns = list(_turns(request))
    if not any(turn["content"].strip() for turn in turns):
        raise invalid("the prompt is empty; give at least one message with text")
    offered = [] if config.tool_choice and config.tool_choice.mode == "none" else request.tools
    allowed = config.tool_choice.allowed if config.tool_choice else ()
    return Ask(
        turns=turns,
        tools=[
            _declaration(t, i) for i, t in enumerate(offered) if not allowed or t.name in allowed
        ],
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        stops=config.stop,
        seed=config.seed,
        presence_penalty=config.presence_penalty or 0.0,
        frequency_penalty=config.frequency_penalty or 0.0,
        logprobs=config.logprobs,
        thinking=None if config.reasoning is None else not config.reasoning.is_off,
        extensions=extensions,
        schema=_schema(config.response_format),
        choices=_choices(config),
    )


def _schema(form: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The schema in a response format; lm15 has checked its shape."""
    if form is None or form["type"] == "text":
        return None
    if form["type"] == "json_object":
        return {"type": "object"}
    return {key: value for key, value in form["schema"].items() if key != OPTIONS_KEY}


def _choices(config: lm15.Config) -> tuple[Choice, ...]:
    if config.probabilities in (None, "off"):
        return ()
    entries = (config.response_format or {}).get("schema", {}).get(OPTIONS_KEY)
    if entries is None:
        if config.probabilities == "required":
            raise unsupported(
                "config.probabilities", f"probabilities without {OPTIONS_KEY!r} in the schema"
            )
        return ()
    try:
        return read_choices(entries)
    except ValueError as error:
        raise invalid(f"{OPTIONS_KEY}: {error}") from None


def _refuse(config: lm15.Config, tools: bool, can_call: bool, can_think: bool) -> None:
    refusals = {
        "config.response_format": (
            True if tools and config.response_format else None,
            "constrained output together with tools",
        ),
        "config.service_tier": (config.service_tier, "service tiers"),
        "config.store": (config.store or None, "storing answers"),
        "config.cache": (config.cache, "prompt cache settings"),
        "config.tool_choice": (
            config.tool_choice
            if config.tool_choice and config.tool_choice.mode == "required"
            else None,
            "forcing a tool call",
        ),
        "tools": (True if tools and not can_call else None, "tools with this model"),
        "config.reasoning": (
            config.reasoning
            if config.reasoning and not config.reasoning.is_off and not can_think
            else None,
            "thinking with this model",
        ),
    }
    for feature, (value, what) in refusals.items():
        if value is not None:
            raise unsupported(feature, f"{what} ({value!r})" if value is not True else what)


def _turns(request: Request) -> Iterator[Turn]:
    if request.system is not None:
        parts = (
            (lm15.TextPart(request.system),) if isinstance(request.system, str) else request.system
        )
        yield {"role": "system", "content": _text(parts, "system")}
    for number, message in enumerate(request.messages):
        where = f"messages[{number}]"
        if message.role == "tool":
            for part in message.parts_of(lm15.ToolResultPart):
                result = {"role": "tool", "content": _text(part.content, where)}
                name = {"name": part.name} if part.name else {}
                yield {**result, "tool_call_id": part.id, **name}
            continue
        role = "system" if message.role == "developer" else message.role
        calls = message.parts_of(lm15.ToolCallPart)
        spoken = [part for part in message.parts if not isinstance(part, lm15.ToolCallPart)]
        turn: Turn = {"role": role, "content": _text(spoken, where)}
        if calls:
            turn["tool_calls"] = [
                {
                    "type": "function",
                    "id": call.id,
                    "function": {"name": call.name, "arguments": call.input},
                }
                for call in calls
            ]
        yield turn


def _text(parts: Sequence[lm15.Part], where: str) -> str:
    texts = []
    for number, part in enumerate(parts):
        if isinstance(part, lm15.TextPart | lm15.RefusalPart):
            texts.append(part.text)
        elif isinstance(part, lm15.DataPart):
            texts.append(json.dumps(part.value, ensure_ascii=False))
        elif not isinstance(part, lm15.ThinkingPart | lm15.CitationPart):
            raise unsupported(
                f"{where}.parts[{number}]", f"{part.type} input; the model reads text"
            )
    return "\n".join(texts)


def _declaration(tool: lm15.Tool, number: int) -> dict[str, Any]:
    if not isinstance(tool, lm15.FunctionTool):
        raise unsupported(f"tools[{number}]", f"the built-in tool {tool.name!r}")
    function = {"name": tool.name, "parameters": tool.parameters}
    if tool.description:
        function["description"] = tool.description
    return {"type": "function", "function": function}


class Translator:
    """Turns an answer's pieces into lm15 parts and events.

    Args:
        model: the model string of the request.
        token_text: a token id as text, for log probabilities.
        scored: whether log probabilities were asked for.
    """

    def __init__(self, model: str, scored: bool, token_text: Any = str) -> None:
        self._model = model
        self._scored = scored
        self._token_text = token_text
        self._parts: list[str] = []

    def start(self) -> lm15.StreamStartEvent:
        """The first event of a stream."""
        return lm15.StreamStartEvent(model=self._model)

    def delta(self, piece: Piece) -> lm15.StreamDeltaEvent | None:
        """The event of a piece as it comes; None for the inside of a tool call."""
        if piece.kind == "tool":
            return None
        index = self._index(piece.kind)
        if piece.kind == "thinking":
            return lm15.StreamDeltaEvent(lm15.ThinkingDelta(text=piece.text, part_index=index))
        scores = tuple(self._score(score) for score in piece.scores) if self._scored else ()
        return lm15.StreamDeltaEvent(
            lm15.TextDelta(
                text=piece.text,
                part_index=index,
                logprobs=scores,
                logprobs_complete=piece.complete or not self._scored,
            )
        )

    def late(self, answer: Answer) -> Iterator[lm15.StreamDeltaEvent]:
        """The events that are known only at the end: text of broken calls, then the calls."""
        for piece in answer.late:
            event = self.delta(piece)
            if event is not None:
                yield event
        for call in answer.calls:
            self._parts.append("call")
            yield lm15.StreamDeltaEvent(
                lm15.ToolCallDelta(
                    input=json.dumps(call.arguments),
                    part_index=len(self._parts) - 1,
                    id=call.id,
                    name=call.name,
                )
            )

    def end(self, answer: Answer) -> lm15.StreamEndEvent:
        """The last event of a stream."""
        # Streams have no place for a DataPart.
        data = {"probabilities": _plain(answer.weights)} if answer.weights else None
        return lm15.StreamEndEvent(
            finish_reason=answer.reason, usage=_usage(answer), provider_data=data
        )

    def response(self, answer: Answer) -> Response:
        """A whole answer."""
        parts: list[lm15.Part] = []
        for kind, text in _runs(answer.pieces):
            parts.append(lm15.ThinkingPart(text) if kind == "thinking" else lm15.TextPart(text))
        parts += [lm15.ToolCallPart(call.id, call.name, call.arguments) for call in answer.calls]
        if answer.weights:
            parts.append(_weighed(answer.weights))
        scores = [self._score(s) for p in answer.pieces if p.kind == "text" for s in p.scores]
        return Response(
            id=None,
            model=self._model,
            message=lm15.Message.assistant(parts or [lm15.TextPart("")]),
            finish_reason=answer.reason,
            usage=_usage(answer),
            logprobs=tuple(scores) if self._scored else None,
            logprobs_complete=not self._scored or all(piece.complete for piece in answer.pieces),
        )

    def _index(self, kind: str) -> int:
        if not self._parts or self._parts[-1] != kind:
            self._parts.append(kind)
        return len(self._parts) - 1

    def _score(self, score: Score) -> lm15.TokenLogprob:
        text = self._token_text(score.token)
        return lm15.TokenLogprob(
            token=text,
            logprob=score.logprob,
            bytes=_bytes(text),
            token_id=score.token,
            top=tuple(
                lm15.TopLogprob(
                    token=(other := self._token_text(token)),
                    logprob=logprob,
                    bytes=_bytes(other),
                    token_id=token,
                )
                for token, logprob in score.top
            ),
        )


def _weighed(weights: Mapping[str, Mapping[str, float]]) -> lm15.DataPart:
    """Probabilities in lm15's form, beside the likeliest option of each choice."""
    found = _plain(weights)
    likeliest = {name: max(each, key=each.__getitem__) for name, each in found.items()}
    return lm15.DataPart(likeliest, probabilities=found, method="candidate_sequence_likelihood")


def _plain(weights: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {name: dict(each) for name, each in weights.items()}


def _runs(pieces: Sequence[Piece]) -> Iterator[tuple[str, str]]:
    """Join neighbouring pieces of one kind."""
    kind = ""
    texts: list[str] = []
    for piece in pieces:
        if piece.kind == "tool":
            continue
        if texts and piece.kind != kind:
            yield kind, "".join(texts)
            texts = []
        kind = piece.kind
        texts.append(piece.text)
    if texts:
        yield kind, "".join(texts)


def _bytes(text: str) -> tuple[int, ...] | None:
    # A token may hold part of a character, which decodes to a replacement: then say nothing.
    return None if "�" in text else tuple(text.encode())


def _usage(answer: Answer) -> lm15.Usage:
    return lm15.Usage(
        input_tokens=answer.input_tokens,
        output_tokens=answer.output_tokens,
        cache_read_tokens=answer.cached_tokens,
    )


def invalid(message: str) -> lm15.InvalidRequestError:
    """The request cannot be answered as it is; it is not tried again."""
    return lm15.InvalidRequestError(message, provider="mlx")


def unsupported(feature: str, what: str) -> lm15.UnsupportedFeatureError:
    """The engine cannot do what the request asks for."""
    return lm15.UnsupportedFeatureError(
        f"the MLX engine does not support {what}; leave it out", feature=feature, provider="mlx"
    )


def too_long(prompt_tokens: int, context: int) -> lm15.ContextLengthError:
    """The prompt leaves no room for an answer."""
    return lm15.ContextLengthError(
        f"the prompt has {prompt_tokens} tokens and the model takes {context}, answer included",
        provider="mlx",
    )


def server_error(message: str) -> lm15.ServerError:
    """The engine failed; the same call may succeed when made again."""
    return lm15.ServerError(message, provider="mlx")


def failure(error: BaseException) -> lm15.LM15Error:
    """What a caller hears of an error inside the engine."""
    if isinstance(error, QueueFull):
        return lm15.RateLimitError(str(error), provider="mlx")
    if isinstance(error, TooLarge):
        return invalid(str(error))
    if isinstance(error, TooLate):
        return lm15.TimeoutError(str(error), provider="mlx")
    if isinstance(error, EngineStopped):
        return server_error(str(error))
    return server_error(f"the engine failed: {one_line(error)}")


def closed() -> lm15.ConfigurationError:
    """The engine was closed by its owner; trying again is of no use."""
    return lm15.ConfigurationError("the engine is closed; open it again", provider="mlx")
