"""`/v1/programs`: compiled programs by name, typed by their signatures."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response

from dspy_toolkit.programs.served import FieldText, ProgramAnswer
from dspy_toolkit.programs.shelf import ServedProgram
from dspy_toolkit.server import replies
from dspy_toolkit.server.bodies import BatchBody, ProgramBody
from dspy_toolkit.server.errors import ApiError
from dspy_toolkit.server.predicting import ask, look_up, predict
from dspy_toolkit.server.reading import read_body
from dspy_toolkit.server.service import Service, Watch, allowed, service_of
from dspy_toolkit.server.streams import EventStream, begun, together, unless_gone
from dspy_toolkit.server.writing import event

router = APIRouter(tags=["Programs"])


@router.get("/v1/programs", **replies.described(replies.Programs, None))
async def list_programs(request: HttpRequest) -> Response:
    """List the programs, with the schemas of their inputs and outputs."""
    programs = [_facts(each) for each in service_of(request).catalog.shelf.programs]
    return JSONResponse({"object": "list", "data": programs})


@router.get("/v1/programs/{name}", **replies.described(replies.ProgramFacts, None))
async def show_program(request: HttpRequest, name: str) -> Response:
    """Show one program."""
    with service_of(request).catalog.program(name) as program:
        return JSONResponse(_facts(program))


# Described for each program by its own signature, see `openapi`.
@router.post("/v1/programs/{name}", include_in_schema=False)
async def call_program(request: HttpRequest) -> Response:
    """Answer one set of inputs, whole or field by field."""
    service, name = service_of(request), str(request.path_params["name"])
    body = await read_body(request, ProgramBody)
    if body.stream:
        return EventStream(
            await begun(request, _events(service, allowed(request, name), body.inputs))
        )
    with service.catalog.program(allowed(request, name)) as program:
        weigh = body.probabilities
        found = look_up(service, program, body.inputs, weigh)
        if found.answer is not None:
            return JSONResponse(reply(program, found.answer, True))
        answer = await unless_gone(request, ask(service, program, body.inputs, weigh, found.key))
        return JSONResponse(reply(program, answer, False))


@router.post("/v1/programs/{name}/batch", include_in_schema=False)
async def call_program_often(request: HttpRequest, name: str) -> Response:
    """Answer many sets of inputs together, all by one version."""
    service = service_of(request)
    body = await read_body(request, BatchBody)
    with service.catalog.program(allowed(request, name)) as program:
        weigh = body.probabilities
        works = [_item(service, program, n, each, weigh) for n, each in enumerate(body.inputs)]
        results = await unless_gone(request, together(works))
        return JSONResponse(
            {"program": program.name, "version": program.version, "results": results}
        )


def reply(program: ServedProgram, answer: ProgramAnswer, cached: bool) -> dict[str, Any]:
    """The body of a program's answer."""
    return {
        "program": program.name,
        "version": program.version,
        "outputs": answer.outputs,
        "probabilities": answer.probabilities,
        "answered_by": list(answer.answered_by),
        "cached": cached,
        "usage": {
            "prompt_tokens": answer.input_tokens,
            "completion_tokens": answer.output_tokens,
            "total_tokens": answer.input_tokens + answer.output_tokens,
        },
    }


async def _item(
    service: Service,
    program: ServedProgram,
    number: int,
    values: Mapping[str, Any],
    weigh: bool,
) -> dict[str, Any]:
    try:
        answer, cached = await predict(service, program, values, weigh)
    except ApiError as error:
        return {"index": number, "answer": None, "error": error.body["error"]}
    return {"index": number, "answer": reply(program, answer, cached), "error": None}


async def _events(
    service: Service, name: str, values: Mapping[str, Any]
) -> AsyncGenerator[bytes, None]:
    """`field` events as fields are written, `restart` when all of them are void, then `answer`."""
    with service.catalog.program(name) as program:
        watch = Watch(program.name, program.version)
        with watch.during():
            pieces = program.stream(values)
            try:
                async for piece in pieces:
                    watch.first()
                    if isinstance(piece, FieldText):
                        yield event({"field": piece.field, "text": piece.text}, "field")
                    elif isinstance(piece, ProgramAnswer):
                        yield event(reply(program, piece, False), "answer")
                    else:
                        yield event({}, "restart")
            finally:
                await pieces.aclose()


def _facts(program: ServedProgram) -> dict[str, Any]:
    return {
        "name": program.name,
        "version": program.version,
        "inputs": program.input_schema,
        "outputs": program.output_schema,
    }
