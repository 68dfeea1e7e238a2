"""A compiled program behind the chat interface, for clients that know nothing else."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response

from dspy_toolkit.programs.served import FieldText, ProgramAnswer, Restarted
from dspy_toolkit.programs.shelf import ServedProgram
from dspy_toolkit.server.bodies import ChatBody, UserMessage
from dspy_toolkit.server.errors import ApiError
from dspy_toolkit.server.predicting import predict
from dspy_toolkit.server.service import Service, Watch
from dspy_toolkit.server.streams import EventStream, begun, unless_gone
from dspy_toolkit.server.writing import DONE, Envelope

_TAKEN = ("model", "messages", "stream", "stream_options", "user", "metadata", "store")
_HARMLESS: dict[str, Any] = {"n": 1, "service_tier": None, "logprobs": False, "tools": []}


async def answer_chat(request: HttpRequest, service: Service, body: ChatBody) -> Response:
    """Call a program with the inputs in the last message, and answer with its outputs.

    The message is a JSON object of the inputs, or plain text where there is a single input.
    Outputs come as a JSON object, or as plain text where there is a single one of text.

    Raises:
        ApiError: the message does not fit, or asks for what a program has settled already.
    """
    _refuse_settings(body)
    usage = bool(body.stream_options and body.stream_options.include_usage)
    if body.stream:
        return EventStream(await begun(request, _events(service, body, usage)))
    with service.catalog.program(body.model) as program:
        values = _inputs(program, body)
        answer, _ = await unless_gone(request, predict(service, program, values))
        envelope = Envelope("chat.completion", "chatcmpl", program.name)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": _said(program, answer), "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
        return JSONResponse(
            envelope.body([choice], _usage(answer)),
            headers={"x-program-version": program.version},
        )


async def _events(service: Service, body: ChatBody, usage: bool) -> AsyncGenerator[bytes, None]:
    with service.catalog.program(body.model) as program:
        values = _inputs(program, body)
        watch = Watch(program.name, program.version)
        envelope = Envelope("chat.completion.chunk", "chatcmpl", program.name)
        plain = len(program.outputs) == 1
        said = ""
        with watch.during():
            pieces = program.stream(values)
            try:
                started = False
                async for piece in pieces:
                    if not started:
                        started = True
                        yield _chunk(envelope, {"role": "assistant", "content": ""})
                    watch.first()
                    if isinstance(piece, ProgramAnswer):
                        whole = _said(program, piece)
                        rest = whole.removeprefix(said) if whole.startswith(said) else ""
                        if rest:
                            yield _chunk(envelope, {"content": rest})
                        yield _chunk(envelope, {}, "stop")
                        if usage:
                            yield envelope.chunk([], usage=_usage(piece))
                    elif isinstance(piece, Restarted) and said:
                        raise ApiError(502, "the model broke off its answer", code="restarted")
                    elif isinstance(piece, FieldText) and plain and piece.field in program.outputs:
                        said += piece.text
                        yield _chunk(envelope, {"content": piece.text})
            finally:
                await pieces.aclose()
        yield DONE


def _chunk(envelope: Envelope, delta: dict[str, Any], reason: str | None = None) -> bytes:
    return envelope.chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}])


def _inputs(program: ServedProgram, body: ChatBody) -> Mapping[str, Any]:
    last = body.messages[-1]
    if not isinstance(last, UserMessage):
        raise ApiError(400, "the last message must be the user's", param="messages")
    content = last.content
    text = content if isinstance(content, str) else "\n".join(part.text for part in content)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if isinstance(values, dict) and (len(program.inputs) != 1 or set(values) <= {*program.inputs}):
        return values
    if len(program.inputs) == 1:
        return {program.inputs[0]: text}
    raise ApiError(
        400,
        f"write the inputs as a JSON object: {', '.join(program.inputs)}",
        param=f"messages[{len(body.messages) - 1}].content",
    )


def _said(program: ServedProgram, answer: ProgramAnswer) -> str:
    if len(program.outputs) == 1:
        value = answer.outputs.get(program.outputs[0])
        if isinstance(value, str):
            return value
    return json.dumps(answer.outputs, ensure_ascii=False)


def _usage(answer: ProgramAnswer) -> dict[str, Any]:
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def _refuse_settings(body: ChatBody) -> None:
    for name in ChatBody.model_fields:
        value = getattr(body, name)
        if name in _TAKEN or value is None or (name in _HARMLESS and value == _HARMLESS[name]):
            continue
        raise ApiError(
            400,
            f"{body.model!r} is a compiled program, which has its own {name}; leave it out",
            param=name,
            code="unsupported",
        )
