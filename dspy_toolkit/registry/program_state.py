"""Carrying the saved state of a DSPy program to a newer version of its signature."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.registry.carry import carry, field_names, migration_between
from dspy_toolkit.registry.record import SignatureRecord

_REASONING = "reasoning"
_LONE = "the predictor"


@dataclass
class CarriedProgram:
    """The new state, how many demonstrations it holds, and what did not come along."""

    state: dict[str, Any]
    demos: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def carry_program(state: Any, versions: Sequence[SignatureRecord], where: str) -> CarriedProgram:
    """Carry every predictor over the first of `versions` to the last.

    Raises:
        InvalidInput: the state is none of a DSPy program, no predictor is over the signature, or
            one uses its fields in a way of its own (as ReAct does) and must be compiled again.
    """
    if not isinstance(state, dict):
        raise InvalidInput(f"{where} is no saved DSPy program; name its program.json")
    carried = CarriedProgram({})
    # A lone predictor is saved without a name.
    lone = _fields(state) is not None
    found = False
    for name, part in ({_LONE: state} if lone else state).items():
        fields = _fields(part)
        new = part
        if fields is not None and matches(fields, versions[0]):
            found = True
            new = _predictor(name, part, versions, carried)
        elif shared := set(fields or ()) & set(map(label, field_names(versions[0]))):
            raise InvalidInput(
                f"{where}: predictor {name!r} uses {sorted(shared)[0]!r} of "
                f"{versions[0].reference} in a way of its own; "
                f"compile the program again for {versions[-1].reference}"
            )
        carried.state.update(new if lone else {name: new})
    if not found:
        raise InvalidInput(
            f"{where} holds no predictor over {versions[0].reference}; name the right signature"
        )
    return carried


def _fields(part: Any) -> list[str] | None:
    try:
        return [each["prefix"].removesuffix(":") for each in part["signature"]["fields"]]
    except (TypeError, KeyError, AttributeError):
        return None


def matches(labels: Sequence[str], record: SignatureRecord) -> bool:
    """Whether a predictor with these field labels is a predict or chain of thought over it."""
    inputs = [label(each.name) for each in record.inputs]
    outputs = [label(each.name) for each in record.outputs]
    return list(labels) in (inputs + outputs, [*inputs, label(_REASONING), *outputs])


def _predictor(
    name: str, part: dict[str, Any], versions: Sequence[SignatureRecord], carried: CarriedProgram
) -> dict[str, Any]:
    demos = []
    for index, demo in enumerate(part.get("demos", [])):
        result = carry(demo, versions)
        carried.dropped += result.dropped
        if result.values is None:
            where = f"{name}, demonstration {index + 1}"
            carried.refused.append((where, " and ".join(result.why)))
        else:
            demos.append(result.values)
    carried.demos += len(demos)
    new = {**part, "demos": demos, "signature": part["signature"]}
    for old, after in itertools.pairwise(versions):
        new["signature"] = _signature(name, new["signature"], old, after, carried)
        if "fields" in new:
            renames = migration_between(old, after).renames
            names = field_names(after)
            renamed = {renames.get(key, key): value for key, value in new["fields"].items()}
            new["fields"] = {key: value for key, value in renamed.items() if key in names}
    return new


def _signature(
    name: str,
    state: Mapping[str, Any],
    old: SignatureRecord,
    new: SignatureRecord,
    carried: CarriedProgram,
) -> dict[str, Any]:
    instructions = new.instructions
    if state["instructions"] != old.instructions:
        instructions = state["instructions"]
        if old.instructions != new.instructions:
            carried.notes.append(f"{name}: optimized instructions were kept; read them once")
    by_label = {each["prefix"].removesuffix(":"): each for each in state["fields"]}
    renamed = {after: before for before, after in migration_between(old, new).renames.items()}
    descriptions = {each.name: _description(each.name, each.description) for each in old.all_fields}
    fields = []
    for each in new.all_fields:
        before = renamed.get(each.name, each.name)
        kept = by_label.get(label(before), {}).get("description")
        plain = _description(each.name, each.description)
        changed = kept is not None and kept != descriptions.get(before)
        fields.append({"prefix": f"{label(each.name)}:", "description": kept if changed else plain})
    if label(_REASONING) in by_label and _REASONING not in descriptions:
        fields.insert(len(new.inputs), by_label[label(_REASONING)])
    return {**state, "instructions": instructions, "fields": fields}


def _description(name: str, description: str) -> str:
    return description or f"${{{name}}}"


def label(name: str) -> str:
    """A field's name as DSPy titles it in prompts and saved programs: `unit_price`, Unit Price."""
    spaced = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    spaced = re.sub("([a-z0-9])([A-Z])", r"\1_\2", spaced)
    spaced = re.sub(r"([a-zA-Z])(\d)", r"\1_\2", spaced)
    spaced = re.sub(r"(\d)([a-zA-Z])", r"\1_\2", spaced)
    words = spaced.split("_")
    return " ".join(word if word.isupper() else word.capitalize() for word in words)
