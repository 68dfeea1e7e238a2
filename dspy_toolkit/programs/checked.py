"""DSPy's adapters, which also hold answers against constraints.

DSPy parses an answer by its bare type; bounds, lengths and patterns of a field are only shown to
the model. Here an answer that breaks one is refused like one that cannot be parsed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from weakref import WeakKeyDictionary

import dspy
from dspy.adapters.utils import annotation_allows_none
from pydantic import TypeAdapter, ValidationError

_PLAIN = frozenset({str, int, float, bool, type(None)})

_Demos = tuple[tuple[tuple[str, type[Any], Any], ...], ...]
_shown: WeakKeyDictionary[type[Any], dict[type[Any], tuple[_Demos, list[dict[str, Any]]]]] = (
    WeakKeyDictionary()
)


class _Checked:
    """Refuses answers that break a field's constraints; goes before an adapter class."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # DSPy's stream listeners know an adapter by the name of its class alone.
        cls.__name__ = next(
            each.__name__ for each in cls.__mro__ if each.__module__.startswith("dspy.")
        )

    def format_demos(
        self, signature: type[dspy.Signature], demos: Sequence[Any]
    ) -> list[dict[str, Any]]:
        """The demonstrations as turns; written once for calls that show the same ones."""
        told = _told(demos)
        kept = _shown.setdefault(signature, {})
        known, turns = kept.get(type(self), (None, []))
        if told is None or told != known:
            turns = super().format_demos(signature, demos)  # type: ignore[misc]
            if told is not None:
                kept[type(self)] = (told, turns)
        return [dict(turn) for turn in turns]

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
class CheckedJSON(_Checked, dspy.JSONAdapter):  # type: ignore[misc]
    """Answers as one JSON object."""

    # DSPy has not written it for JSON; what it does for chat fits.
    format_finetune_data = dspy.ChatAdapter.format_finetune_data


class CheckedXML(_Checked, dspy.XMLAdapter):  # type: ignore[misc]
    """Answers between XML tags."""


class CheckedChat(_Checked, dspy.ChatAdapter):  # type: ignore[misc]
    """Answers under `[[ ## field ## ]]` markers."""

    def _make_json_adapter_fallback(self) -> dspy.JSONAdapter:
        return CheckedJSON(use_native_function_calling=self.use_native_function_calling)


def _told(demos: Sequence[Any]) -> _Demos | None:
    """All that demonstrations say, or None where they hold what may change unseen."""
    told = tuple(
        tuple((name, type(value), value) for name, value in demo.items())
        for demo in demos
        if isinstance(demo, Mapping | dspy.Example)
    )
    plain = all(kind in _PLAIN for demo in told for _, kind, _ in demo)
    return told if plain and len(told) == len(demos) else None


def _broken(value: Any, constraints: list[Any]) -> str | None:
    if value is None or not constraints:
        return None
    try:
        kind: Any = Annotated[(type(value), *constraints)]
        TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        return str(error.errors()[0]["msg"])
    return None
