"""`/v1/chat/completions` and `/v1/completions`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response

from dspy_toolkit.contract import Request, StreamEvent, Usage
from dspy_toolkit.server.bodies import ChatBody, CompletionBody
from dspy_toolkit.server.catalog import ServedModel
from dspy_toolkit.server.errors import ApiError
from dspy_toolkit.server.program_chat import answer_chat
from dspy_toolkit.server.reading import Asked, chat_request, completion_requests, read_body
from dspy_toolkit.server.replies import ChatCompletion, Completion, described
from dspy_toolkit.server.service import Watch, allowed, service_of
from dspy_toolkit.server.streams import EventStream, begun, merged, together, unless_gone
from dspy_toolkit.server.writing import (
    DONE,
    ChatStream,
    CompletionStream,
    Envelope,
    chat_choice,
    completion_choice,
    usage_body,
)

router = APIRouter(tags=["OpenAI-compatible"])


@router.post("/v1/chat/completions", **described(ChatCompletion, ChatBody, streams=True))
async def chat(request: HttpRequest) -> Response:
    """Answer a conversation, with a model or with a program served as one."""
    body = await read_body(request, ChatBody)
    service = service_of(request)
    model = service.catalog.model(allowed(request, body.model))
    if model is None:
        return await answer_chat(request, service, body)
    asked = chat_request(body, model.thinks)
    watch = Watch(model.name, model.version)
    if body.stream:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        events = _chat_events(watch, model, asked, usage)
        return EventStream(await begun(request, events))
    with watch.during():
        works = [model.engine.complete(each) for each in asked.requests]
        responses = await unless_gone(request, together(works))
    answers = [each for each in responses for _ in range(asked.copies)]
    choices = [chat_choice(n, each, asked.forced) for n, each in enumerate(answers)]
    usage_ = usage_body([responses[0].usage], [each.usage for each in responses])
    return JSONResponse(Envelope("chat.completion", "chatcmpl", model.name).body(choices, usage_))


@router.post("/v1/completions", **described(Completion, CompletionBody, streams=True))
async def complete(request: HttpRequest) -> Response:
    """Continue a text as it is, without a chat template."""
    body = await read_body(request, CompletionBody)
    model = service_of(request).catalog.model(allowed(request, body.model))
    if model is None:
        raise ApiError(
            400,
            f"{body.model!r} is a program; ask it at /v1/programs/{body.model} or "
            "/v1/chat/completions",
            param="model",
        )
    asked = completion_requests(body)
    watch = Watch(model.name, model.version)
    if body.stream:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        events = _completion_events(watch, model, asked, usage)
        return EventStream(await begun(request, events))
    with watch.during():
        works = [model.engine.complete(one) for each in asked for one in each.requests]
        responses = iter(await unless_gone(request, together(works)))
    choices: list[dict[str, Any]] = []
    read, drawn = list[Usage | None](), list[Usage | None]()
    for each in asked:
        own = [next(responses) for _ in each.requests]
        read.append(own[0].usage)
        drawn += [one.usage for one in own]
        for one in own * each.copies:
            choices.append(completion_choice(len(choices), one))
    envelope = Envelope("text_completion", "cmpl", model.name)
    return JSONResponse(envelope.body(choices, usage_body(read, drawn)))


async def _chat_events(
    watch: Watch, model: ServedModel, asked: Asked, usage: bool
) -> AsyncGenerator[bytes, None]:
    envelope = Envelope("chat.completion.chunk", "chatcmpl", model.name)
    requests = [each for each in asked.requests for _ in range(asked.copies)]
    writers = [ChatStream(envelope, n, asked.forced) for n in range(len(requests))]
    with watch.during():
        async with aclosing(merged(_numbered(model, requests))) as items:
            async for number, item in items:
                if item.type == "start":
                    yield writers[number].start()
                    continue
                watch.first()
                for chunk in writers[number].chunks(item):
                    yield chunk
    if usage:
        used = [each.usage for each in writers]
        yield envelope.chunk([], usage=usage_body(used[:1], used))
    yield DONE


async def _completion_events(
    watch: Watch, model: ServedModel, asked: Sequence[Asked], usage: bool
) -> AsyncGenerator[bytes, None]:
    envelope = Envelope("text_completion", "cmpl", model.name)
    groups = [[one for one in each.requests for _ in range(each.copies)] for each in asked]
    requests = [one for group in groups for one in group]
    writers = [CompletionStream(envelope, n) for n in range(len(requests))]
    with watch.during():
        async with aclosing(merged(_numbered(model, requests))) as items:
            async for number, item in items:
                if item.type != "start":
                    watch.first()
                for chunk in writers[number].chunks(item):
                    yield chunk
    if usage:
        used = [each.usage for each in writers]
        read = [used[number * len(groups[0])] for number in range(len(groups))]
        yield envelope.chunk([], usage=usage_body(read, used))
    yield DONE


def _numbered(
    model: ServedModel, requests: Sequence[Request]
) -> list[AsyncGenerator[tuple[int, StreamEvent], None]]:
    async def one(number: int, request: Request) -> AsyncGenerator[tuple[int, StreamEvent], None]:
        events = model.engine.stream(request)
        try:
            async for each in events:
                yield number, each
        finally:
            close = getattr(events, "aclose", None)
            if close is not None:
                await close()

    return [one(number, request) for number, request in enumerate(requests)]
