"""The API's description, with a typed path for every program as it is served now."""

from __future__ import annotations

import copy
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from dspy_toolkit.programs.shelf import ServedProgram
from dspy_toolkit.server import bodies, replies
from dspy_toolkit.server.catalog import Catalog

_FLAG = {"type": "boolean", "default": False}
_BODIES = (bodies.ChatBody, bodies.CompletionBody, bodies.EmbeddingBody)


class Description:
    """Makes the description anew when other programs are served.

    Args:
        app: whose routes are described.
        catalog: the programs.
    """

    def __init__(self, app: FastAPI, catalog: Catalog) -> None:
        self._app = app
        self._catalog = catalog
        self._made: dict[str, Any] = {}
        self._of: tuple[tuple[str, str], ...] | None = None

    def __call__(self) -> dict[str, Any]:
        """The description, OpenAPI 3.1."""
        programs = self._catalog.shelf.programs
        served = tuple((each.name, each.version) for each in programs)
        if served != self._of:
            self._made, self._of = self._make(programs), served
        return self._made

    def _make(self, programs: tuple[ServedProgram, ...]) -> dict[str, Any]:
        made = get_openapi(
            title=self._app.title,
            version=self._app.version,
            description=self._app.description,
            routes=self._app.routes,
        )
        schemas = made.setdefault("components", {}).setdefault("schemas", {})
        kinds: list[Any] = [(kind, "validation") for kind in _BODIES]
        kinds += [(replies.BatchReply, "serialization"), (replies.ProgramReply, "serialization")]
        _, found = models_json_schema(kinds, ref_template=replies.REFERENCE + "{model}")
        for name, schema in found["$defs"].items():
            schemas.setdefault(name, schema)
        for path in list(made["paths"].values()):
            for operation in path.values():
                operation.get("responses", {}).pop("422", None)
        for program in programs:
            _describe(made, schemas, program)
        made["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{}, {"key": []}]
        return made


def _describe(made: dict[str, Any], schemas: dict[str, Any], program: ServedProgram) -> None:
    name = program.name
    inputs = _moved(program.input_schema, f"{name}.inputs", schemas)
    outputs = _moved(program.output_schema, f"{name}.outputs", schemas)
    answer = copy.deepcopy(schemas["ProgramReply"])
    answer["properties"]["outputs"] = outputs
    schemas[f"{name}.answer"] = answer
    one = {
        "type": "object",
        "properties": {"inputs": inputs, "stream": _FLAG, "probabilities": _FLAG},
        "required": ["inputs"],
        "additionalProperties": False,
    }
    many = {
        "type": "object",
        "properties": {
            "inputs": {"type": "array", "items": inputs, "minItems": 1, "maxItems": 256},
            "probabilities": _FLAG,
        },
        "required": ["inputs"],
        "additionalProperties": False,
    }
    whole = {"application/json": {"schema": {"$ref": f"{replies.REFERENCE}{name}.answer"}}}
    stream = {"text/event-stream": {"schema": {"type": "object"}}}
    batch = {"application/json": {"schema": {"$ref": f"{replies.REFERENCE}BatchReply"}}}
    paths = made["paths"]
    paths[f"/v1/programs/{name}"] = {
        "post": _operation(f"Call {name}, version {program.version}", one, {**whole, **stream})
    }
    paths[f"/v1/programs/{name}/batch"] = {
        "post": _operation(f"Call {name} with many inputs", many, batch)
    }


def _operation(summary: str, body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    wrong = {"application/json": {"schema": {"$ref": f"{replies.REFERENCE}Error"}}}
    return {
        "tags": ["Programs"],
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": {"description": "The answer", "content": answer},
            **{
                str(status): {"description": "An error", "content": wrong}
                for status in replies.STATUSES
            },
        },
    }


def _moved(schema: dict[str, Any], prefix: str, schemas: dict[str, Any]) -> dict[str, Any]:
    """A schema whose definitions were put among the description's own, under a prefix."""
    moved = copy.deepcopy(schema)
    definitions = moved.pop("$defs", {})
    for name, definition in definitions.items():
        schemas[f"{prefix}.{name}"] = _renamed(definition, prefix)
    renamed: dict[str, Any] = _renamed(moved, prefix)
    return renamed


def _renamed(value: Any, prefix: str) -> Any:
    if isinstance(value, dict):
        return {
            key: f"{replies.REFERENCE}{prefix}.{part.removeprefix('#/$defs/')}"
            if key == "$ref" and isinstance(part, str)
            else _renamed(part, prefix)
            for key, part in value.items()
        }
    return [_renamed(part, prefix) for part in value] if isinstance(value, list) else value
