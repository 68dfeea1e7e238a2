"""A tool call that must come: the answer is held to the call's arguments by the grammar.

It works with any model whose output can be held to a schema, tools in its chat template or not:
the tools are described in the system message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dspy_toolkit.contract import FunctionTool, Request
from dspy_toolkit.server.errors import ApiError


@dataclass(frozen=True)
class ForcedTools:
    """How the answer is read.

    Attributes:
        names: the tools one of which is called; of a single one the answer is the arguments.
    """

    names: tuple[str, ...]

    def call(self, text: str) -> tuple[str, str]:
        """The tool's name and its arguments as JSON text, of a whole answer or one cut short."""
        if len(self.names) == 1:
            return self.names[0], text
        try:
            said: Any = json.loads(text)
            return str(said["name"]), json.dumps(said["arguments"], ensure_ascii=False)
        except (ValueError, KeyError, TypeError):
            # Cut by the limit of tokens; the finish reason says so.
            begun = [name for name in self.names if f'"{name}"' in text]
            return (begun or self.names)[0], text


def force(request: Request, only: str | None) -> tuple[Request, ForcedTools]:
    """Have a request answered by a call of one of its tools.

    Args:
        request: with tools.
        only: the tool to call, or None for any of them.

    Raises:
        ApiError: no such tool.
    """
    tools = [each for each in request.tools if isinstance(each, FunctionTool)]
    if only is not None:
        tools = [each for each in tools if each.name == only]
        if not tools:
            raise ApiError(
                400, f"tool_choice names {only!r}, which is no tool", param="tool_choice"
            )
    head = request.system if isinstance(request.system, str) else ""
    system = "\n\n".join(part for part in (head, _described(tools)) if part)
    form = {"type": "json_schema", "name": "call", "schema": rigid(_schema(tools))}
    config = replace(request.config, response_format=form, tool_choice=None)
    return (
        replace(request, system=system, tools=(), config=config),
        ForcedTools(tuple(each.name for each in tools)),
    )


def rigid(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with one way to set spaces: left the choice, small models write nothing else."""
    style = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return {"x-guidance": style, **schema}


def _schema(tools: Sequence[FunctionTool]) -> dict[str, Any]:
    if len(tools) == 1:
        return dict(tools[0].parameters)
    return {
        "anyOf": [
            {
                "type": "object",
                "properties": {"name": {"const": each.name}, "arguments": each.parameters},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for each in tools
        ]
    }


def _described(tools: Sequence[FunctionTool]) -> str:
    lines = [
        f"- {each.name}: {each.description or 'no description'}; arguments by this JSON schema: "
        f"{json.dumps(each.parameters, ensure_ascii=False)}"
        for each in tools
    ]
    told = (
        "Answer with the arguments of the function as one JSON object."
        if len(tools) == 1
        else 'Answer with {"name": ..., "arguments": ...} of the function that serves best.'
    )
    return "\n".join(["You can call:", *lines, told])
