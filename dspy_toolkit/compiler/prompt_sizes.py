"""How long a program's prompts are, by rendering them; no model answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import dspy

from dspy_toolkit.contract import ContextLengthError, Request, Response
from dspy_toolkit.programs.calls import CallTally, counted
from dspy_toolkit.programs.lm import LocalLM

_EXAMPLES = 12
_CHARACTERS = 4


@dataclass(frozen=True)
class Rendered:
    """Lengths in tokens, over some of the task's examples.

    Attributes:
        bare: mean without demonstrations.
        shown: mean with them.
        longest: of all.
        estimated: whether the tokens were guessed from the characters.
    """

    bare: float
    shown: float
    longest: int
    estimated: bool


def rendered(
    program: dspy.Module, examples: Sequence[dspy.Example], demos: int, lm: LocalLM
) -> Rendered:
    """Measure a program's first prompt.

    Args:
        program: bare; not changed.
        examples: some become demonstrations, some are asked.
        demos: how many are shown.
        lm: whose tokenizer counts.
    """
    count, estimated = _counter(lm)
    asked = examples[demos : demos + _EXAMPLES] or examples[:_EXAMPLES]
    shown = program.deepcopy()
    for predictor in shown.predictors():
        predictor.demos = list(examples[:demos])
    bare = [count(_prompt(program, example)) for example in asked]
    full = [count(_prompt(shown, example)) for example in asked] if demos else bare
    return Rendered(fmean(bare), fmean(full), max(full), estimated)


def fits(program: dspy.Module, example: dspy.Example, lm: LocalLM) -> bool:
    """Whether a program's first prompt fits into its model, where that can be told."""
    count = getattr(lm.engine, "prompt_tokens", None)
    if count is None:
        return True
    try:
        count(_prompt(program, example))
    except ContextLengthError:
        return False
    return True


class _Heard(BaseException):
    """Leaves a program at its first call; its loops catch every `Exception`."""


class _Listener:
    """An engine that takes note of a request and answers none."""

    supports_function_calling = False
    supports_reasoning = False
    supports_response_schema = False
    supported_params = frozenset({"temperature", "max_tokens", "n", "stop", "seed"})

    def __init__(self) -> None:
        self.request: Request | None = None

    def complete(self, request: Request) -> Response:
        self.request = request
        raise _Heard

    def stream(self, request: Request) -> Any:
        return self.complete(request)

    def close(self) -> None:
        """Nothing is open."""


def _prompt(program: dspy.Module, example: dspy.Example) -> Request:
    listener = _Listener()
    lm = LocalLM("listener/none", engine=listener, cache=False)
    try:
        with dspy.context(lm=lm), counted(CallTally()):
            program(**example.inputs())
    except _Heard:
        pass
    assert listener.request is not None
    return listener.request


def _counter(lm: LocalLM) -> tuple[Callable[[Request], int], bool]:
    exact = getattr(lm.engine, "prompt_tokens", None)
    if exact is not None:
        return exact, False
    return lambda request: _characters(request) // _CHARACTERS, True


def _characters(request: Request) -> int:
    texts = [part.text for turn in request.messages for part in turn.parts if hasattr(part, "text")]
    return sum(map(len, texts)) + len(str(request.system or ""))
