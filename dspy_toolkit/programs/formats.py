"""Prompt formats: DSPy's adapters by name, which also hold answers against constraints.

DSPy parses an answer by its bare type; bounds, lengths and patterns of a field are only shown to
the model. Here an answer that breaks one is refused like one that cannot be parsed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import dspy
from dspy.adapters.utils import annotation_allows_none
from pydantic import TypeAdapter, ValidationError

from dspy_toolkit.errors import InvalidInput, nearest
from dspy_toolkit.programs.grammar import answer_format, cut_field


def prompt_format(name: str) -> dspy.Adapter:
    """Make the adapter of a prompt format.

    Args:
        name: `chat` (DSPy's default, which asks again in JSON when an answer cannot be parsed),
            `chat_only` (the same without the second question), `guided` (the same, held to the
            fields' types while it is generated), `json` or `xml`.

    Raises:
        InvalidInput: no format has this name.
    """
    if name not in FORMATS:
        raise InvalidInput(f"prompt format {name!r} does not exist; {nearest(name, FORMATS)}")
    return FORMATS[name]()


class _Checked:
    """Refuses answers that break a field's constraints; goes before an adapter class."""

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


class CheckedXML(_Checked, dspy.XMLAdapter):  # type: ignore[misc]
    """Answers between XML tags."""


class CheckedChat(_Checked, dspy.ChatAdapter):  # type: ignore[misc]
    """Answers under `[[ ## field ## ]]` markers."""

    def _make_json_adapter_fallback(self) -> dspy.JSONAdapter:
        return CheckedJSON(use_native_function_calling=self.use_native_function_calling)


class GuidedChat(CheckedChat):
    """Answers under the same markers, to the same prompts, held to the fields' types on the way.

    What the markers and types leave no choice about is then not generated either. A model that
    cannot be held answers as it does for `chat`.
    """

    def _call_preprocess(
        self,
        lm: dspy.BaseLM,
        lm_kwargs: dict[str, Any],
        signature: type[dspy.Signature],
        inputs: dict[str, Any],
    ) -> type[dspy.Signature]:
        rendered: type[dspy.Signature] = super()._call_preprocess(lm, lm_kwargs, signature, inputs)
        # The name says that the engine is one of ours: others take schemas, but no grammars.
        if lm.model.startswith("mlx/") and lm.supports_response_schema and "tools" not in lm_kwargs:
            lm_kwargs["response_format"] = answer_format(rendered)
        return rendered

    def _call_postprocess(
        self,
        processed_signature: type[dspy.Signature],
        original_signature: type[dspy.Signature],
        outputs: list[Any],
        lm: dspy.BaseLM,
        lm_kwargs: dict[str, Any],
    ) -> list[dict[str, Any]]:
        if lm_kwargs.pop("response_format", None) is not None:
            for output in outputs:
                _refuse_cut(processed_signature, output)
        values: list[dict[str, Any]] = super()._call_postprocess(
            processed_signature, original_signature, outputs, lm, lm_kwargs
        )
        return values


def _refuse_cut(signature: type[dspy.Signature], output: Any) -> None:
    text = (output.get("text") if isinstance(output, dict) else output) or ""
    field = cut_field(signature, text)
    if field is not None:
        raise dspy.AdapterParseError(
            adapter_name="GuidedChat",
            signature=signature,
            lm_response=text,
            message=f"The answer was cut at field {field}; allow it more max_tokens.",
        )


FORMATS: dict[str, Callable[[], dspy.Adapter]] = {
    "chat": CheckedChat,
    "chat_only": lambda: CheckedChat(use_json_adapter_fallback=False),
    "guided": GuidedChat,
    "json": CheckedJSON,
    "xml": CheckedXML,
}


def _broken(value: Any, constraints: list[Any]) -> str | None:
    if value is None or not constraints:
        return None
    try:
        kind: Any = Annotated[(type(value), *constraints)]
        TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        return str(error.errors()[0]["msg"])
    return None
