"""A head model behind DSPy's engine contract: what stands in when no language model answers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dspy_toolkit.contract import InvalidRequestError, Request, TextPart
from dspy_toolkit.resilience.answers import FixedAnswer

if TYPE_CHECKING:
    from dspy_toolkit.training.head_model import HeadModel

_FIELD = re.compile(r"(?:^|\n)\[\[ ## (\w+) ## \]\]\n")
# What ChatAdapter and JSONAdapter say after the inputs of the last turn.
_REQUEST = re.compile(r"\n\nRespond with (a JSON object)?")


def head_engine(heads: HeadModel) -> FixedAnswer:
    """An engine that answers a signature's prompts by heads, to end a chain of fallbacks with.

    It reads the prompts of DSPy's ChatAdapter and JSONAdapter. It knows the outputs of the
    signature only: a module that asks for more, such as the reasoning of a chain of thought,
    cannot read its answers.
    """

    def answer(request: Request) -> str:
        inputs, as_json = _read(request, heads.facts.inputs)
        outputs = heads.predict(inputs).outputs
        return json.dumps(outputs, ensure_ascii=False) if as_json else _written(outputs)

    return FixedAnswer(answer, model=f"heads/{heads.facts.signature}")


def _read(request: Request, names: tuple[str, ...]) -> tuple[dict[str, str], bool]:
    """The values of the last turn's input fields, and whether JSON is wanted."""
    parts = request.messages[-1].parts if request.messages else ()
    text = "".join(part.text for part in parts if isinstance(part, TextPart))
    asked = list(_REQUEST.finditer(text))
    if asked:
        text = text[: asked[-1].start()]
    marks = [mark for mark in _FIELD.finditer(text) if mark[1] in names]
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    found: dict[str, str] = {}
    for mark, end in zip(marks, ends, strict=True):
        found.setdefault(mark[1], text[mark.end() : end].strip("\n"))
    for name in names:
        if name not in found:
            raise InvalidRequestError(f"the prompt has no field [[ ## {name} ## ]] for the heads")
    return found, bool(asked and asked[-1][1])


def _written(outputs: Mapping[str, Any]) -> str:
    fields = [f"[[ ## {name} ## ]]\n{_text(value)}" for name, value in outputs.items()]
    return "\n\n".join([*fields, "[[ ## completed ## ]]\n"])


def _text(value: Any) -> str:
    if value is None or isinstance(value, str | bool):
        return str(value)
    return json.dumps(value, ensure_ascii=False)
