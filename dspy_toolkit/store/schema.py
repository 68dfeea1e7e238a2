"""JSON Schemas: holding what is written, and what is read again, against one."""

from __future__ import annotations

import json
from importlib.resources.abc import Traversable
from typing import Any

from dspy_toolkit.errors import IntegrityError


def check(content: Any, schema_file: Traversable, what: str) -> None:
    """Refuse content that does not fit a schema.

    Args:
        content: a JSON value.
        schema_file: the schema, draft 2020-12, for example `files(__package__) / "x.schema.json"`.
        what: what the content is to the user ("report runs/a/report.json"), for the message.

    Raises:
        IntegrityError: it does not fit; the message names the first place that is wrong.
    """
    from jsonschema import Draft202012Validator

    schema = json.loads(schema_file.read_text("utf-8"))
    problems = sorted(Draft202012Validator(schema).iter_errors(content), key=lambda e: e.json_path)
    if problems:
        first = problems[0]
        raise IntegrityError(f"{what} does not fit its schema: {first.json_path}: {first.message}")
