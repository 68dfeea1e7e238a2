"""One call of a program: from the cache, or from its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dspy_toolkit.events import PredictionServed, emit
from dspy_toolkit.programs.served import ProgramAnswer
from dspy_toolkit.programs.shelf import ServedProgram
from dspy_toolkit.server.service import Service, Watch


async def predict(
    service: Service, program: ServedProgram, values: Mapping[str, Any], weigh: bool = False
) -> tuple[ProgramAnswer, bool]:
    """Answer, and say whether the answer was kept from an earlier call.

    An answer of an engine that stood in for the first one is not kept.

    Raises:
        ApiError: the inputs do not fit, or no usable answer came.
    """
    watch = Watch(program.name, program.version)
    with watch.during():
        cache = service.cache
        # An answer that was weighed brings more, so it is another one.
        version = f"{program.version}+probabilities" if weigh else program.version
        key = "" if cache is None else cache.key(program.name, version, values)
        kept = cache.get(key) if cache is not None else None
        if cache is not None:
            emit(PredictionServed(program.name, program.version, kept is not None))
        if kept is not None:
            return kept, True
        answer = await program.call(values, weigh)
        if cache is not None and answer.answered_by == (program.primary,):
            cache.put(key, answer)
        return answer, False
