"""Proposals of the prompt model: one that cannot be read is asked for again, then left out.

DSPy's optimizers end at the first proposal that cannot be parsed. Here the prompt model is told
from the task's model by its `proposes`, and answers through an adapter that skips.
"""

from __future__ import annotations

from typing import Any, get_origin

import dspy

from dspy_toolkit.events import ProposalSkipped, emit
from dspy_toolkit.programs.calls import current_tally
from dspy_toolkit.programs.lm import LocalLM

_AGAIN = 1
_KEPT = ("basic_instruction", "previous_instruction")


def proposing(lm: LocalLM) -> LocalLM:
    """The same model as a prompt model, whose proposals are skipped where they cannot be read."""
    marked: LocalLM = lm.copy(proposes=True)
    return marked


def skipped(error: Exception) -> None:
    """Tell that a proposal was left out."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    emit(ProposalSkipped(current_tally().run, reason[:300]))


class Routed:
    """An adapter that takes proposals to `Proposals`, and everything else to the task's own.

    Attributes:
        task: the task's own.
    """

    def __init__(self, task: dspy.Adapter) -> None:
        self.task = task
        self._proposals = Proposals()

    def __call__(self, lm: Any, *rest: Any, **given: Any) -> Any:
        return self._for(lm)(lm, *rest, **given)

    async def acall(self, lm: Any, *rest: Any, **given: Any) -> Any:
        """The same for coroutines."""
        return await self._for(lm).acall(lm, *rest, **given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def _for(self, lm: Any) -> Any:
        return self._proposals if getattr(lm, "proposes", False) else self.task


class Proposals(dspy.ChatAdapter):  # type: ignore[misc]  # DSPy ships no types
    """DSPy's chat format, keeping those of several proposals that can be read.

    Where none can, they are asked for once more with another seed; then what there was before
    stands in: the instruction as it is, no rule, no advice.
    """

    def __init__(self) -> None:
        super().__init__(use_json_adapter_fallback=False)

    def __call__(
        self,
        lm: Any,
        lm_kwargs: dict[str, Any],
        signature: Any,
        demos: list[dict[str, Any]],
        inputs: dict[str, Any],
    ) -> list[dict[str, Any]]:
        asked = lm
        for attempt in range(1 + _AGAIN):
            try:
                found: list[dict[str, Any]] = super().__call__(
                    asked, dict(lm_kwargs), signature, demos, inputs
                )
                return found
            except dspy.DSPyError as error:
                skipped(error)
            asked = lm.copy(rollout_id=f"again-{attempt}", temperature=1.0)
        return [{name: _stand_in(name, info, inputs) for name, info in _outputs(signature)}]

    def _call_postprocess(
        self, processed: Any, original: Any, outputs: list[Any], lm: Any, lm_kwargs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        kept: list[dict[str, Any]] = []
        failure: dspy.AdapterParseError | None = None
        for output in outputs:
            try:
                kept += super()._call_postprocess(processed, original, [output], lm, lm_kwargs)
            except dspy.AdapterParseError as error:
                if failure is not None:
                    skipped(failure)
                failure = error
        if failure is not None:
            if not kept:
                raise failure
            skipped(failure)
        return kept


def _outputs(signature: Any) -> Any:
    return signature.output_fields.items()


def _stand_in(name: str, info: Any, inputs: dict[str, Any]) -> Any:
    kind = get_origin(info.annotation) or info.annotation
    if kind is not str:
        return kind() if kind in (dict, list) else None
    if name in ("proposed_instruction", "new_instruction"):
        known = next((inputs[key] for key in _KEPT if inputs.get(key)), None)
        return known or _best_attempt(inputs.get("attempted_instructions"))
    return ""


def _best_attempt(attempts: Any) -> str:
    """The last instruction of COPRO's list, which goes from the worst to the best."""
    told = [each for each in attempts or () if each.startswith("Instruction #")]
    return told[-1].partition(": ")[2] if told else ""
