"""The application: every route, and errors in one form."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from dspy_toolkit.server import chat, models, programs, watching
from dspy_toolkit.server.errors import ApiError, unexpected
from dspy_toolkit.server.gateway import REQUEST_ID, Door, Gateway
from dspy_toolkit.server.openapi import Description
from dspy_toolkit.server.service import Service

_ABOUT = (
    "Local models and compiled programs. Chat, completions and embeddings take what OpenAI's "
    "interface takes; each program has a path of its own, typed by its signature."
)


def create_app(service: Service, door: Door | None = None) -> Gateway:
    """The application over a service, behind its door.

    Args:
        service: what is served.
        door: who and what is let in; everybody and the usual sizes when left out.
    """
    app = FastAPI(
        title="dspy_toolkit", version=version("dspy-toolkit"), description=_ABOUT, redoc_url=None
    )
    app.state.service = service
    for part in (chat, models, programs, watching):
        app.include_router(part.router)
    handlers: dict[Any, Any] = {
        ApiError: _told,
        HTTPException: _plain,
        RequestValidationError: _invalid,
        Exception: _broken,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
    app.openapi = Description(app, service.catalog)  # type: ignore[method-assign]
    return Gateway(app, door or Door())


async def _told(request: HttpRequest, error: ApiError) -> Response:
    return JSONResponse(error.body, error.status, error.headers)


async def _plain(request: HttpRequest, error: HTTPException) -> Response:
    told = ApiError(error.status_code, str(error.detail).lower())
    return JSONResponse(told.body, told.status, error.headers)


async def _broken(request: HttpRequest, error: Exception) -> Response:
    # The gateway hears of it too, and tells the metrics.
    told = unexpected(str(getattr(request.state, REQUEST_ID, "")))
    return JSONResponse(told.body, told.status)


async def _invalid(request: HttpRequest, error: RequestValidationError) -> Response:
    return JSONResponse(ApiError(400, "the request cannot be read").body, 400)
