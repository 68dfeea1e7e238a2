"""The `judge` metric: a language model says how good an answer is."""

from __future__ import annotations

import json
import threading
from typing import Any

import dspy
from dspy.adapters.utils import serialize_for_json

from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.programs.cache import current_settings
from dspy_toolkit.programs.formats import prompt_format
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.opening import local_lm
from dspy_toolkit.programs.signature import dspy_signature
from dspy_toolkit.registry import find

CRITERIA = "The answer says the same as the reference, in whatever words."
_WORST, _BEST = 1, 5
_MAX_TOKENS = 256


class Judge:
    """Scores answers with the registry's `judge` signature, from 0 (wrong) to 1 (fully right).

    The model is the program's own unless another is named; that one is opened at the first
    answer. Signature and model are those of the settings around that answer
    (`programs.cache.under`). A verdict that cannot be read counts as a failed example, like an
    answer that cannot.
    """

    def __init__(self, fields: tuple[str, ...], model: str | None, criteria: str) -> None:
        self._fields = fields
        self._model = model
        self._criteria = criteria
        self._lock = threading.Lock()
        self._lm: LocalLM | None = None
        self._predict: dspy.Predict | None = None

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any) -> float:
        # The judge's own steps must not be taken for steps of the program.
        lm, predict = self._opened()
        with dspy.context(lm=lm, adapter=prompt_format("chat"), trace=None):
            verdict = predict(
                task=_fields(example.inputs().toDict()),
                answer=_fields({name: getattr(prediction, name, None) for name in self._fields}),
                criteria=self._criteria,
                reference=_fields({name: example.get(name) for name in self._fields}),
            )
        return (float(verdict.score) - _WORST) / (_BEST - _WORST)

    def _opened(self) -> tuple[Any, Any]:
        with self._lock:
            settings = current_settings()
            if self._predict is None:
                self._predict = dspy.Predict(dspy_signature(find("judge", settings=settings)))
            if self._model is None:
                return dspy.settings.lm, self._predict
            if self._lm is None:
                self._lm = local_lm(self._model, max_tokens=_MAX_TOKENS, settings=settings)
            return self._lm, self._predict

    def close(self) -> None:
        """Give back what was opened, if anything was; the next answer opens it again."""
        with self._lock:
            opened, self._lm = self._lm, None
            self._predict = None
        if opened is not None:
            opened.release()


def judge_rule(fields: tuple[str, ...], model: Any = None, criteria: Any = CRITERIA) -> Judge:
    """Make the rule of the metric.

    Args:
        fields: the output fields to judge, together.
        model: reference of the judging model; None takes the program's own.
        criteria: what a good answer does.

    Raises:
        InvalidInput: an option is no text.
    """
    for name, value in (("model", model), ("criteria", criteria)):
        if not isinstance(value, str) and not (name == "model" and value is None):
            raise InvalidInput(f"metric option {name} must be a text, got {value!r}")
    return Judge(fields, model, criteria)


def _fields(values: dict[str, Any]) -> str:
    if len(values) == 1:
        (value,) = values.values()
        return _text(value)
    return "\n".join(f"{name}: {_text(value)}" for name, value in values.items())


def _text(value: Any) -> str:
    plain = serialize_for_json(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
