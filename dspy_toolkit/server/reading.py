"""From a request's body to what an engine is asked."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.requests import Request as HttpRequest

from dspy_toolkit.contract import (
    Config,
    FunctionTool,
    Message,
    Reasoning,
    Request,
    TextPart,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
)
from dspy_toolkit.server import bodies
from dspy_toolkit.server.errors import ApiError
from dspy_toolkit.server.forced_tools import ForcedTools, force, rigid

B = TypeVar("B", bound=bodies.Body)
_SEEDS = 2**31


@dataclass(frozen=True)
class Asked:
    """What a chat comes down to.

    Attributes:
        requests: one for each different sample.
        copies: how often each answer is given: samples of a greedy answer are all the same.
        forced: how the answer is read as a call of a tool, where one must be called.
    """

    requests: tuple[Request, ...]
    copies: int = 1
    forced: ForcedTools | None = None


async def read_body(request: HttpRequest, kind: type[B]) -> B:
    """Read a request's body.

    Raises:
        ApiError: it is no JSON, or a field is wrong; says which.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        # Also keeps pages in a browser from posting here without the browser asking first.
        raise ApiError(415, "send the header content-type: application/json", code="media_type")
    raw = await request.body()
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise _refusal(error, raw) from None


def chat_request(body: bodies.ChatBody, thinks: bool) -> Asked:
    """Read a chat.

    Args:
        body: the request.
        thinks: whether the model has thinking that can be turned on and off.

    Raises:
        ApiError: settings that contradict each other.
    """
    _check_stream(body)
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    config = _config(body, body.max_completion_tokens or body.max_tokens, logprobs)
    if body.reasoning_effort is not None and (thinks or body.reasoning_effort != "none"):
        effort = "off" if body.reasoning_effort == "none" else body.reasoning_effort
        config = replace(config, reasoning=Reasoning(effort))
    if isinstance(body.response_format, bodies.ObjectFormat):
        anything = {"type": "json_schema", "schema": rigid({"type": "object"})}
        config = replace(config, response_format=anything)
    elif isinstance(body.response_format, bodies.SchemaFormat):
        schema = body.response_format.json_schema
        wanted = {"type": "json_schema", "name": schema.name, "schema": rigid(schema.schema_)}
        config = replace(config, response_format=wanted)
    system, messages = _messages(body.messages)
    tools = _tools(body)
    request = _built(model=body.model, messages=messages, system=system, tools=tools, config=config)
    forced = None
    if tools and (body.tool_choice == "required" or isinstance(body.tool_choice, bodies.NamedTool)):
        if config.response_format is not None:
            raise ApiError(
                400, "a forced tool call and response_format exclude each other",
                param="response_format",
            )  # fmt: skip
        only = body.tool_choice.function.name if not isinstance(body.tool_choice, str) else None
        request, forced = force(request, only)
    elif body.tool_choice is not None and not tools and body.tool_choice not in ("none", "auto"):
        raise ApiError(400, "tool_choice needs tools", param="tool_choice")
    elif body.tool_choice == "none":
        request = replace(request, tools=())
    elif tools and body.parallel_tool_calls is not None:
        choice = ToolChoice("auto", parallel=body.parallel_tool_calls)
        request = replace(request, config=replace(config, tool_choice=choice))
    return _sampled(request, body.n or 1, forced)


def completion_requests(body: bodies.CompletionBody) -> list[Asked]:
    """Read a plain completion: one `Asked` for each prompt."""
    _check_stream(body)
    config = _config(body, body.max_tokens or 16, body.logprobs, {"raw": True})
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    asked = []
    for number, prompt in enumerate(prompts):
        if not prompt.strip():
            where = "prompt" if isinstance(body.prompt, str) else f"prompt[{number}]"
            raise ApiError(400, "the prompt is empty; give some text", param=where)
        request = _built(model=body.model, messages=(Message.user(prompt),), config=config)
        asked.append(_sampled(request, body.n or 1, None))
    return asked


def _config(
    body: bodies.Sampled, room: int | None, logprobs: int | None, more: dict[str, Any] | None = None
) -> Config:
    extras = {
        name: value
        for name in ("min_p", "repetition_penalty")
        if (value := getattr(body, name)) is not None
    }
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return Config(
        max_tokens=room,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        stop=stop,
        seed=None if body.seed is None else body.seed % _SEEDS,
        frequency_penalty=body.frequency_penalty,
        presence_penalty=body.presence_penalty,
        logprobs=logprobs,
        extensions={**extras, **(more or {})} or None,
    )


def _check_stream(body: bodies.Sampled) -> None:
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream: true", param="stream_options")


def _sampled(request: Request, count: int, forced: ForcedTools | None) -> Asked:
    config = request.config
    if count == 1:
        return Asked((request,), 1, forced)
    if not config.temperature:
        return Asked((request,), count, forced)
    seeds = [None if config.seed is None else (config.seed + n) % _SEEDS for n in range(count)]
    samples = (replace(request, config=replace(config, seed=seed)) for seed in seeds)
    return Asked(tuple(samples), 1, forced)


def _messages(given: list[Any]) -> tuple[str | None, tuple[Message, ...]]:
    """The head's system text, then the turns."""
    rest = list(given)
    head = []
    while rest and isinstance(rest[0], bodies.SystemMessage):
        head.append(_text(rest.pop(0).content))
    if not rest:
        raise ApiError(400, "messages hold no turn; add one of the user's", param="messages")
    first = len(head)
    turns = tuple(_turn(each, f"messages[{first + n}]") for n, each in enumerate(rest))
    return ("\n\n".join(head) or None), turns


def _turn(message: Any, where: str) -> Message:
    try:
        match message:
            case bodies.UserMessage():
                return Message.user(_text(message.content))
            case bodies.SystemMessage():
                return Message.developer(_text(message.content))
            case bodies.ToolMessage():
                content = (TextPart(_text(message.content)),)
                return Message("tool", (ToolResultPart(message.tool_call_id, content),))
        spoken = _text(message.content) if message.content is not None else ""
        parts: list[Any] = [TextPart(spoken or message.refusal or "")]
        for number, call in enumerate(message.tool_calls or ()):
            place = f"{where}.tool_calls[{number}].function.arguments"
            parts.append(ToolCallPart(call.id, call.function.name, _arguments(call, place)))
        return Message.assistant(parts)
    except (TypeError, ValueError) as error:
        raise ApiError(400, f"{where} cannot be used: {error}", param=where) from None


def _arguments(call: bodies.ToolCall, where: str) -> dict[str, Any]:
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise ApiError(400, f"{where} must be a JSON object as text", param=where)
    return arguments


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    texts = [getattr(part, "text", None) or getattr(part, "refusal", "") for part in content]
    return "\n".join(map(str, texts))


def _tools(body: bodies.ChatBody) -> tuple[FunctionTool, ...]:
    tools: list[FunctionTool] = []
    for number, tool in enumerate(body.tools or ()):
        function = tool.function
        parameters = function.parameters or {"type": "object", "properties": {}}
        if function.name in (each.name for each in tools):
            where = f"tools[{number}].function.name"
            raise ApiError(400, f"two tools are called {function.name!r}", param=where)
        tools.append(FunctionTool(function.name, function.description, parameters))
    return tuple(tools)


def _built(**parts: Any) -> Request:
    try:
        return Request(**parts)
    except (TypeError, ValueError) as error:
        raise ApiError(400, f"the request cannot be used: {error}") from None


def _refusal(error: ValidationError, raw: bytes) -> ApiError:
    first = min(error.errors(include_url=False), key=lambda each: -len(each["loc"]))
    if first["type"] == "json_invalid":
        reason = str(first.get("ctx", {}).get("error", "unreadable"))
        return ApiError(400, f"the body is not JSON: {reason}", code="invalid_json")
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        return ApiError(400, "the body cannot be read", code="invalid_json")
    path = _path(first, data)
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"the field {path!r} is not known here", param=path, code="unknown")
    if first["type"] == "missing":
        return ApiError(400, f"the field {path!r} is missing", param=path, code="missing")
    if first["type"] == "union_tag_not_found":
        path = f"{path}.{str(first['ctx']['discriminator']).strip(chr(39))}".lstrip(".")
        return ApiError(400, f"the field {path!r} is missing", param=path, code="missing")
    reason = first["msg"].removeprefix("Input ").removeprefix("should ")
    where = f"the field {path!r}" if path else "the body"
    return ApiError(400, f"{where} {_said(reason)}", param=path or None, code="invalid_value")


def _said(reason: str) -> str:
    reason = reason[:200]
    return f"must {reason}" if reason.startswith(("be ", "have ", "match ")) else f": {reason}"


def _path(error: Any, data: Any) -> str:
    """The field as callers write it, without the names of union members on the way."""
    path = ""
    for part in error["loc"]:
        inside = isinstance(data, dict) and isinstance(part, str) and part in data
        if inside or (isinstance(data, list) and isinstance(part, int) and part < len(data)):
            path += f"[{part}]" if isinstance(part, int) else f".{part}"
            data = data[part]
    if error["type"] == "missing":
        path += f".{error['loc'][-1]}"
    return path.removeprefix(".")[:200]
