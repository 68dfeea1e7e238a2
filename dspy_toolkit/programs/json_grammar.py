"""What an answer in JSONAdapter's form may look like, as a grammar for the engine.

Objects and lists are laid out as demonstrations show them: every key in its order, one item a
line, two blanks a level. Keys and layout are then forced, and only values are left to the model.
"""

from __future__ import annotations

import json
import re

import dspy

from dspy_toolkit.programs.json_layout import dumped, json_value
from dspy_toolkit.programs.value_grammar import Weighed, is_optional, options_of, quoted


def json_grammar(signature: type[dspy.Signature]) -> str:
    """The grammar of a signature's answers, in llguidance's dialect of Lark.

    A constraint that no grammar can hold, such as a pattern that looks ahead, is left out.
    """
    start: list[str] = []
    for name, info in signature.output_fields.items():
        start += [
            quoted(f"{',' if start else '{'}\n  {json.dumps(name)}: "),
            f"({json_value(info.annotation, info.metadata, depth=1)})",
        ]
    return f"start: {' '.join(start)} {quoted(chr(10) + '}')}\n"


def json_options(signature: type[dspy.Signature]) -> list[Weighed]:
    """The fields of a signature's answers that are one of a few options."""
    found = []
    last = [*signature.output_fields][-1]
    for name, info in signature.output_fields.items():
        kind, empty = is_optional(info.annotation)
        options = options_of(kind)
        if options is not None:
            written = {dumped(getattr(each, "value", each)): each for each in options}
            found.append(
                Weighed(
                    name,
                    f"\n  {json.dumps(name)}: ",
                    "\n}" if name == last else ",\n",
                    written | ({"null": None} if empty else {}),
                )
            )
    return found


def cut_key(signature: type[dspy.Signature], completion: str) -> str | None:
    """The output field at which an answer ends before its time, or None for a whole answer."""
    if completion.rstrip().endswith("\n}"):
        return None
    names = list(signature.output_fields)
    # A line with two blanks is no part of a value: texts have no bare line breaks.
    reached = re.findall(r'^  "(\w+)": ', completion, re.MULTILINE)
    return str(reached[-1]) if reached else names[0]
