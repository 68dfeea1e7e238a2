"""The application: every route, and errors in one form."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

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
    return Gateway(_Straight(app), door or Door())


class _Straight:
    """Takes calls of models and programs to their functions, and the rest to FastAPI.

    They read their requests and write their answers themselves; FastAPI's own way there would take
    longer than all they do beside asking the model.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        paths = {
            route.endpoint: route.path
            for part in (chat, models, programs)
            for route in part.router.routes
            if isinstance(route, Route)
        }
        straight = (chat.chat, programs.call_program, chat.complete, models.embed)
        self._routes = [Route(paths[each], each, methods=["POST"]) for each in straight]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for route in self._routes:
            match, found = route.matches(scope)
            if match is Match.FULL:
                scope.update(found, app=self._app)
                await route.handle(scope, receive, send)
                return
        await self._app(scope, receive, send)


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
