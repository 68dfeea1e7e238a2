"""What an answer in ChatAdapter's form may look like, as a grammar for the engine.

Headers and the closing marker are fixed; numbers, options and JSON values follow their types and
constraints. A text may be anything up to the next header. Since values are cut there, a text
cannot contain a line that begins with `[[ ## `, which ChatAdapter would read as a header too.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import dspy

from dspy_toolkit.programs.json_layout import json_value
from dspy_toolkit.programs.value_grammar import (
    WHOLE,
    Weighed,
    is_grammar,
    is_optional,
    options_of,
    quoted,
    schema_of,
)

_DONE = "completed"
_TEXT = r"((?s:.*)\n)?[ \t]*\[\[ ## "
_NUMBER = WHOLE + r"(\.[0-9]{1,12})?"


def chat_grammar(signature: type[dspy.Signature]) -> str:
    """The grammar of a signature's answers, in llguidance's dialect of Lark.

    A constraint that no grammar can hold, such as a pattern that looks ahead, is left out.
    """
    names = list(signature.output_fields)
    start = [quoted(f"[[ ## {names[0]} ## ]]\n")]
    rules = []
    for number, name in enumerate(names):
        following = names[number + 1] if number + 1 < len(names) else None
        header = f"{following} ## ]]\n" if following else f"{_DONE} ## ]]\n"
        info = signature.output_fields[name]
        rule = f"field_{number}"
        written = _value(rule, info.annotation, info.metadata)
        if written is None:
            start.append(f"({rule} {quoted(header)}{'' if following else f' | {rule}_end'})")
            rules.append(f"{rule}[lazy]: /{_TEXT}/")
            if following is None:
                # A model may end its last text without the closing marker.
                rules.append(f"{rule}_end: {rule.upper()}_END")
                rules.append(f"{rule.upper()}_END: /(?s:.*)/ & ~/({_TEXT})(?s:.*)/")
        else:
            closed = written.startswith(f"{rule}[lazy]")
            start.append(f"{rule} {quoted(header if closed else f'{chr(10) * 2}[[ ## {header}')}")
            rules.append(written)
    return "\n".join([f"start: {' '.join(start)}", *rules]) + "\n"


def cut_field(signature: type[dspy.Signature], completion: str) -> str | None:
    """The output field at which an answer ends before its time, or None for a whole answer."""
    if completion.rstrip().endswith(f"[[ ## {_DONE} ## ]]"):
        return None
    names = list(signature.output_fields)
    reached = [name for name in names if f"[[ ## {name} ## ]]" in completion]
    last: str = reached[-1] if reached else names[0]
    info = signature.output_fields[names[-1]]
    if last == names[-1] and _value("x", info.annotation, info.metadata) is None:
        return None
    return last


def chat_options(signature: type[dspy.Signature]) -> list[Weighed]:
    """The fields of a signature's answers that are one of a few options."""
    names = [*signature.output_fields, _DONE]
    found = []
    for name, following in pairwise(names):
        kind, empty = is_optional(signature.output_fields[name].annotation)
        options = options_of(kind)
        if options is not None:
            values = {_written(option): option for option in options}
            found.append(
                Weighed(
                    name,
                    f"[[ ## {name} ## ]]\n",
                    f"\n\n[[ ## {following} ## ]]",
                    values | ({"None": None} if empty else {}),
                )
            )
    return found


def _written(option: Any) -> str:
    return str(getattr(option, "value", option))


def _value(rule: str, kind: Any, constraints: list[Any]) -> str | None:
    """The rule of a value, which ends with the next header's beginning if it is lazy; None for
    a text that may be anything."""
    kind, empty = is_optional(kind)
    if kind is str:
        return None if empty else _bounded_text(rule, constraints)
    body = None if kind is None else _body(kind, constraints)
    if body is None:
        return None
    none = ' | "None"' if empty else ""
    return _if_valid(f"{rule}: {body}{none}")


def _body(kind: Any, constraints: list[Any]) -> str | None:
    options = options_of(kind)
    if options is not None:
        return " | ".join(quoted(_written(option)) for option in options)
    schema = schema_of(kind, constraints)
    if schema is None:
        return None
    shape = schema.get("type")
    if shape in ("integer", "number") and kind in (int, float):
        if schema.keys() - {"type"}:
            return f"%json {json.dumps(schema)}"
        return f"/{WHOLE if shape == 'integer' else _NUMBER}/"
    if shape in ("array", "object") or "$ref" in schema:
        return json_value(kind, constraints)
    return None


def _bounded_text(rule: str, constraints: list[Any]) -> str | None:
    schema = schema_of(str, constraints) or {}
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    bounds = []
    if least or most is not None:
        bounds.append(f"/(?s:.{{{least},{'' if most is None else most}}})/")
    pattern = schema.get("pattern")
    if pattern is not None:
        before = "" if pattern.startswith("^") else "(?s:.*)"
        after = "" if pattern.endswith("$") else "(?s:.*)"
        body = pattern.removeprefix("^").removesuffix("$").replace("/", r"\/")
        bounds.append(f"/{before}({body}){after}/")
    if not bounds:
        return None
    text = f'{rule.upper()}_TEXT: ({" & ".join(bounds)}) "\\n\\n[[ ## "'
    return _if_valid(f"{rule}[lazy]: {rule.upper()}_TEXT\n{text}")


def _if_valid(written: str) -> str | None:
    name = written.split(":")[0].split("[")[0]
    return written if is_grammar(name, written) else None
