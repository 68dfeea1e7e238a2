"""`/v1/models` and `/v1/embeddings`."""

from __future__ import annotations

import base64
import struct
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response

from dspy_toolkit.server import replies
from dspy_toolkit.server.bodies import EmbeddingBody
from dspy_toolkit.server.catalog import Catalog
from dspy_toolkit.server.errors import ApiError
from dspy_toolkit.server.reading import read_body
from dspy_toolkit.server.service import Watch, allowed, service_of
from dspy_toolkit.server.streams import together, unless_gone

router = APIRouter(tags=["OpenAI-compatible"])


@router.get("/v1/models", **replies.described(replies.Models, None))
async def list_models(request: HttpRequest) -> Response:
    """List the models, compiled programs among them."""
    catalog = service_of(request).catalog
    return JSONResponse({"object": "list", "data": [_facts(catalog, n) for n in catalog.names]})


@router.get("/v1/models/{name:path}", **replies.described(replies.Model, None))
async def show_model(request: HttpRequest, name: str) -> Response:
    """Show one model."""
    catalog = service_of(request).catalog
    catalog.model(name)
    return JSONResponse(_facts(catalog, name))


@router.post("/v1/embeddings", **replies.described(replies.Embeddings, EmbeddingBody))
async def embed(request: HttpRequest) -> Response:
    """Texts as vectors of length 1: the mean of the model's last hidden states over the tokens."""
    body = await read_body(request, EmbeddingBody)
    model = service_of(request).catalog.model(allowed(request, body.model))
    if model is None or model.embed is None:
        raise ApiError(
            400, f"{body.model!r} offers no embeddings", param="model", code="unsupported"
        )
    texts = [body.input] if isinstance(body.input, str) else body.input
    for number, text in enumerate(texts):
        if not text:
            where = "input" if isinstance(body.input, str) else f"input[{number}]"
            raise ApiError(400, "the text to embed is empty", param=where)
    with Watch(model.name, model.version).during():
        found = await unless_gone(request, together([model.embed(text) for text in texts]))
    data = [
        {"object": "embedding", "index": n, "embedding": _coded(vector, body.encoding_format)}
        for n, (vector, _) in enumerate(found)
    ]
    tokens = sum(count for _, count in found)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "data": data, "model": model.name, "usage": usage})


def _coded(vector: list[float], form: str | None) -> list[float] | str:
    if form == "base64":
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return vector


def _facts(catalog: Catalog, name: str) -> dict[str, Any]:
    model = catalog.models.get(name)
    version = model.version if model else catalog.shelf.version(name) or ""
    return {
        "id": name,
        "object": "model",
        "created": catalog.since,
        "owned_by": "dspy-toolkit",
        "kind": "model" if model else "program",
        "version": version,
    }
