"""The table of optimizers as text: for the terminal, and for docs/optimizers.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dspy_toolkit.compiler.optimizers.row import Optimizer


def columns() -> tuple[str, ...]:
    """Heads of the table."""
    return ("optimizer", "uses", "train", "calls", "durable", "DSPy")


def cells(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """One optimizer's line."""
    uses = [
        word
        for word, used in (
            ("teacher", facts["teacher"]),
            ("prompt model", facts["prompt_model"]),
            *((extra, True) for extra in facts["extras"]),
        )
        if used
    ]
    refused = facts["refused"] is not None
    return (
        facts["name"],
        ", ".join(uses) or "-",
        str(facts["least_train"]),
        "-" if refused else f"{'about ' if facts['unforeseen'] else ''}{facts['calls']}",
        "cannot be used" if refused else "yes" if facts["durable"] else "no",
        facts["dspy_class"] or "none",
    )


def option_columns() -> tuple[str, ...]:
    """Heads of an optimizer's options."""
    return ("option", "type", "default", "what")


def option_cells(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """One option's line."""
    kind = " or ".join(facts["choices"]) if facts["choices"] else _KINDS[facts["type"]]
    default = facts["default"]
    shown = str(default).lower() if isinstance(default, bool) else str(default)
    return facts["name"], kind, "off" if default is None else shown, facts["description"]


def pages(rows: Iterable[Optimizer]) -> str:
    """Everything about the optimizers, as Markdown."""
    facts = [row.facts() for row in rows]
    parts = [_grid(columns(), map(cells, facts))]
    for each in facts:
        parts += [f"### {each['name']}", " ".join(_sentences(each))]
        if each["options"]:
            parts.append(_grid(option_columns(), map(option_cells, each["options"])))
    return "\n\n".join(parts)


def _sentences(facts: Mapping[str, Any]) -> Iterable[str]:
    yield facts["description"]
    if facts["program"]:
        yield f"Needs {facts['program']}."
    yield f"Takes the metric for: {facts['metric']}."
    for key, words in (
        ("unforeseen", "Its calls are foretold roughly only: {}."),
        ("not_durable", "A run is not wholly durable: {}."),
        ("refused", "It cannot be used: {}."),
    ):
        if facts[key]:
            yield words.format(facts[key])


def _grid(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in rows)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


_KINDS = {"int": "whole number", "float": "number", "bool": "true or false", "str": "text"}
