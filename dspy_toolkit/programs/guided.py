"""Adapters that hold answers to the fields' types while they are generated.

Prompts are those of DSPy's adapters. What the form and the types leave no choice about is then not
generated either, and the options of a field can be weighed. A model that cannot be held answers as
it does without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import dspy

from dspy_toolkit.contract import GRAMMAR_KEY
from dspy_toolkit.engine.bridge import OPTIONS_KEY
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.programs.chat_grammar import chat_grammar, chat_options, cut_field
from dspy_toolkit.programs.checked import CheckedChat, CheckedJSON
from dspy_toolkit.programs.evidence import as_evidence, without_evidence
from dspy_toolkit.programs.json_grammar import cut_key, json_grammar, json_options
from dspy_toolkit.programs.value_grammar import Weighed
from dspy_toolkit.programs.weighed import PROBABILITIES


@dataclass(frozen=True)
class Form:
    """How the answers of one adapter look.

    Attributes:
        grammar: of a signature's answers.
        options: the fields whose options can be weighed.
        cut: the field at which an answer ends before its time, or None.
    """

    grammar: Callable[[type[dspy.Signature]], str]
    options: Callable[[type[dspy.Signature]], list[Weighed]]
    cut: Callable[[type[dspy.Signature], str], str | None]


CHAT = Form(chat_grammar, chat_options, cut_field)
JSON = Form(json_grammar, json_options, cut_key)

_Formats = dict[tuple[str, bool], dict[str, Any]]
_made: WeakKeyDictionary[type[Any], _Formats] = WeakKeyDictionary()


def answer_format(
    signature: type[dspy.Signature], form: Form = CHAT, *, weigh: bool = False
) -> dict[str, Any]:
    """The `response_format` that holds an answer to a signature's output fields.

    Args:
        signature: as it is shown in the prompt.
        form: of the answer.
        weigh: whether to ask for the probabilities of options too.
    """
    formats = _made.setdefault(signature, {})
    key = (form.grammar.__name__, weigh)
    if key not in formats:
        schema: dict[str, Any] = {GRAMMAR_KEY: form.grammar(signature)}
        options = form.options(signature) if weigh else []
        if options:
            schema[OPTIONS_KEY] = [
                {
                    "name": each.name,
                    "after": each.after,
                    "options": list(each.options),
                    "end": each.end,
                }
                for each in options
            ]
        formats[key] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return formats[key]


class _Guided:
    """Goes before an adapter class.

    Args:
        probabilities: whether predictions get the `probabilities` of their fields' options; a
            predictor's own setting of this name goes before.
    """

    _form: Form

    def __init__(self, *args: Any, probabilities: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.probabilities = probabilities

    # A held answer that cannot be read was cut; asking again in JSON would cut that one too.
    def __call__(self, lm: Any, *args: Any, **kwargs: Any) -> Any:
        if _holds(lm):
            return dspy.Adapter.__call__(self, lm, *args, **kwargs)
        return super().__call__(lm, *args, **kwargs)  # type: ignore[misc]

    async def acall(self, lm: Any, *args: Any, **kwargs: Any) -> Any:
        """The same for coroutines."""
        if _holds(lm):
            return await dspy.Adapter.acall(self, lm, *args, **kwargs)
        return await super().acall(lm, *args, **kwargs)  # type: ignore[misc]

    def _call_preprocess(
        self,
        lm: dspy.BaseLM,
        lm_kwargs: dict[str, Any],
        signature: type[dspy.Signature],
        inputs: dict[str, Any],
    ) -> type[dspy.Signature]:
        weigh = lm_kwargs.pop(PROBABILITIES, self.probabilities)
        can_weigh = getattr(lm, "weighs_options", False)
        shown = without_evidence(signature) if can_weigh else signature
        rendered: type[dspy.Signature] = super()._call_preprocess(  # type: ignore[misc]
            lm, lm_kwargs, shown, inputs
        )
        if _holds(lm) and "tools" not in lm_kwargs:
            if weigh and PROBABILITIES in signature.output_fields:
                raise InvalidInput(
                    f"an output field is called {PROBABILITIES!r}, where the options' "
                    "probabilities would stand; call it otherwise"
                )
            weigh = can_weigh and (weigh or shown is not signature)
            lm_kwargs["response_format"] = answer_format(rendered, self._form, weigh=weigh)
        return rendered

    def _call_postprocess(
        self,
        processed_signature: type[dspy.Signature],
        original_signature: type[dspy.Signature],
        outputs: list[Any],
        lm: dspy.BaseLM,
        lm_kwargs: dict[str, Any],
    ) -> list[dict[str, Any]]:
        held = lm_kwargs.pop("response_format", None) is not None and _holds(lm)
        if held:
            for output in outputs:
                self._refuse_cut(processed_signature, _text(output), lm, lm_kwargs)
        values: list[dict[str, Any]] = super()._call_postprocess(  # type: ignore[misc]
            processed_signature, original_signature, outputs, lm, lm_kwargs
        )
        for value, output in zip(values, outputs, strict=True):
            if held and isinstance(output, dict) and PROBABILITIES in output:
                found = _named(output[PROBABILITIES], self._form.options(processed_signature))
                value[PROBABILITIES] = found
                value.update(self._evidence(original_signature, found, output))
        return values

    def _evidence(
        self, signature: type[dspy.Signature], found: dict[str, dict[Any, float]], output: Any
    ) -> dict[str, Any]:
        try:
            return as_evidence(signature, found)
        except KeyError as error:
            raise dspy.AdapterParseError(
                adapter_name=type(self).__name__,
                signature=signature,
                lm_response=_text(output),
                message=f"Field {error} was not weighed: another engine answered in its place.",
            ) from None

    def _refuse_cut(
        self, signature: type[dspy.Signature], text: str, lm: Any, lm_kwargs: dict[str, Any]
    ) -> None:
        field = self._form.cut(signature, text)
        if field is None:
            return
        stops = lm_kwargs.get("stop") or lm.kwargs.get("stop")
        cause = f"a stop string ({stops!r}) or max_tokens" if stops else "max_tokens"
        way_out = "allow it more" if not stops else "take the stop string away or allow more"
        raise dspy.AdapterParseError(
            adapter_name=type(self).__name__,
            signature=signature,
            lm_response=text,
            message=f"The answer was cut at field {field} by {cause}; {way_out} max_tokens.",
        )


class GuidedChat(_Guided, CheckedChat):
    """Answers under `[[ ## field ## ]]` markers, held to the fields' types on the way."""

    _form = CHAT


class GuidedJSON(_Guided, CheckedJSON):
    """Answers as one JSON object, held to the fields' types on the way."""

    _form = JSON


def _holds(lm: Any) -> bool:
    # The name says that the engine is one of ours: others take schemas, but no grammars.
    return bool(lm.model.startswith("mlx/") and lm.supports_response_schema)


def _text(output: Any) -> str:
    return (output.get("text") if isinstance(output, dict) else output) or ""


def _named(
    found: dict[str, dict[str, float]], fields: Sequence[Weighed]
) -> dict[str, dict[Any, float]]:
    """Probabilities by the fields' values instead of by how these are written."""
    return {
        each.name: {value: found[each.name][text] for text, value in each.options.items()}
        for each in fields
        if each.name in found
    }
