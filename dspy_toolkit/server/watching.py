"""`/health` and `/metrics`."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from dspy_toolkit.monitoring import CONTENT_TYPE, Finding
from dspy_toolkit.server.service import service_of

router = APIRouter(tags=["Operation"])
_SHOWN: dict[int | str, dict[str, Any]] = {
    200: {"description": "Well", "content": {"application/json": {"schema": {"type": "object"}}}},
    503: {"description": "Not", "content": {"application/json": {"schema": {"type": "object"}}}},
}


@router.get("/health/live", responses=_SHOWN)
async def live(request: HttpRequest) -> Response:
    """Whether the process answers."""
    return await _checked(request, "live")


@router.get("/health/ready", responses=_SHOWN)
async def ready(request: HttpRequest) -> Response:
    """Whether all that is to be served is loaded and takes calls."""
    return await _checked(request, "ready")


@router.get("/health/deep", responses=_SHOWN)
async def deep(request: HttpRequest) -> Response:
    """Whether models really generate tokens, seen in traffic lately or tried now."""
    return await _checked(request, "deep")


@router.get("/metrics", responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: HttpRequest) -> Response:
    """Everything measured, in Prometheus's text format."""
    text = await asyncio.to_thread(service_of(request).metrics)
    return PlainTextResponse(text, media_type=CONTENT_TYPE)


async def _checked(request: HttpRequest, level: str) -> Response:
    service = service_of(request)
    status, found = await asyncio.to_thread(service.health, level)
    if level != "live":
        catalog = service.catalog
        loading, failed = sorted(catalog.loading), sorted(catalog.failed)
        # Why it failed may name files of this machine, which callers are not told.
        missing = [Finding(name, False, "is still being loaded") for name in loading]
        missing += [
            Finding(name, False, "is not served; the server's output says why") for name in failed
        ]
        findings = [*found["findings"], *map(vars, missing)]
        found = {**found, "findings": findings, "loading": loading, "failed": failed}
        if not catalog.ready:
            status, found["ok"] = 503, False
    return JSONResponse(found, status)
