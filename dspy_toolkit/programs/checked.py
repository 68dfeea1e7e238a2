"""DSPy's adapters, which also hold answers against constraints.

DSPy parses an answer by its bare type; bounds, lengths and patterns of a field are only shown to
the model. Here an answer that breaks one is refused like one that cannot be parsed.
"""

from __future__ import annotations

from typing import Annotated, Any

import dspy
from dspy.adapters.utils import annotation_allows_none
from pydantic import TypeAdapter, ValidationError

from dspy_toolkit.programs.formatted import Formatted


class _Checked:
    """Refuses answers that break a field's constraints; goes before an adapter class."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # DSPy's stream listeners know an adapter by the name of its class alone.
        cls.__name__ = next(
            each.__name__ for each in cls.__mro__ if each.__module__.startswith("dspy.")
        )

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        fields: dict[str, Any] = super().parse(signature, completion)  # type: ignore[misc]
        for name, info in signature.output_fields.items():
            # Prompts show a missing text as None, and DSPy reads that back as the word.
            if fields[name] in ("None", "null") and annotation_allows_none(info.annotation):
                fields[name] = None
            value, problem = fields[name], _broken(fields[name], info.metadata)
            if problem:
                raise dspy.AdapterParseError(
                    adapter_name=type(self).__name__,
                    signature=signature,
                    lm_response=completion,
                    message=f"Field {name} is {value!r}: {problem}",
                    parsed_result=fields,
                )
        return fields


# DSPy ships no types, so its classes are Any to mypy.
class CheckedJSON(_Checked, Formatted, dspy.JSONAdapter):  # type: ignore[misc]
    """Answers as one JSON object."""

    # DSPy has not written it for JSON; what it does for chat fits.
    format_finetune_data = dspy.ChatAdapter.format_finetune_data


class CheckedXML(_Checked, Formatted, dspy.XMLAdapter):  # type: ignore[misc]
    """Answers between XML tags."""


class CheckedChat(_Checked, Formatted, dspy.ChatAdapter):  # type: ignore[misc]
    """Answers under `[[ ## field ## ]]` markers."""

    def _make_json_adapter_fallback(self) -> dspy.JSONAdapter:
        return CheckedJSON(use_native_function_calling=self.use_native_function_calling)


def _broken(value: Any, constraints: list[Any]) -> str | None:
    if value is None or not constraints:
        return None
    try:
        kind: Any = Annotated[(type(value), *constraints)]
        TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        return str(error.errors()[0]["msg"])
    return None
