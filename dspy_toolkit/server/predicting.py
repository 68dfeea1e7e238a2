"""One call of a program: from the cache, or from its model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dspy_toolkit.events import PredictionServed, emit
from dspy_toolkit.programs.served import ProgramAnswer
from dspy_toolkit.programs.shelf import ServedProgram
from dspy_toolkit.server.service import Service, Watch


@dataclass(frozen=True)
class Found:
    """What the cache knows of a call.

    Attributes:
        key: where its answer is kept.
        answer: what it was answered before, or None.
    """

    key: str = ""
    answer: ProgramAnswer | None = None


def look_up(
    service: Service, program: ServedProgram, values: Mapping[str, Any], weigh: bool = False
) -> Found:
    """Look for an answer from an earlier call; waits for nobody."""
    cache = service.cache
    if cache is None:
        return Found()
    watch = Watch(program.name, program.version)
    # An answer that was weighed brings more, so it is another one.
    version = f"{program.version}+probabilities" if weigh else program.version
    key = cache.key(program.name, version, values)
    answer = cache.get(key)
    emit(PredictionServed(program.name, program.version, answer is not None))
    if answer is not None:
        watch.done()
    return Found(key, answer)


async def ask(
    service: Service,
    program: ServedProgram,
    values: Mapping[str, Any],
    weigh: bool = False,
    key: str = "",
) -> ProgramAnswer:
    """Have the model answer, and keep its answer where `look_up` said.

    An answer of an engine that stood in for the first one is not kept.

    Raises:
        ApiError: the inputs do not fit, or no usable answer came.
    """
    with Watch(program.name, program.version).during():
        await service.turns.mine()
        answer = await program.call(values, weigh)
        if service.cache is not None and answer.answered_by == (program.primary,):
            service.cache.put(key, answer)
        return answer


async def predict(
    service: Service, program: ServedProgram, values: Mapping[str, Any], weigh: bool = False
) -> tuple[ProgramAnswer, bool]:
    """Answer from either, and say whether the answer was kept from an earlier call.

    Raises:
        ApiError: as `ask`.
    """
    found = look_up(service, program, values, weigh)
    if found.answer is not None:
        return found.answer, True
    return await ask(service, program, values, weigh, found.key), False
