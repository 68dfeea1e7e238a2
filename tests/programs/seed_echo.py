"""A model that answers with the seed it was asked to sample with."""

from __future__ import annotations

from typing import Any

from dspy import lm15

from dspy_toolkit.events import CallFinished, Event
from dspy_toolkit.programs.lm import LocalLM


class SeedEcho:
    """An engine that answers with the seed it was asked to sample with."""

    supported_params = frozenset({"temperature", "seed", "max_tokens"})

    def complete(self, request: lm15.Request) -> lm15.Response:
        return lm15.Response(
            id="1",
            model=request.model,
            message=lm15.Message.assistant(str(request.config.seed)),
            finish_reason="stop",
            usage=lm15.Usage(input_tokens=3, output_tokens=2, total_tokens=5),
        )


def echo_lm(**settings: Any) -> LocalLM:
    return LocalLM("mlx/echo#1", engine=SeedEcho(), cache=False, **settings)


def calls_of(events: list[Event]) -> list[CallFinished]:
    return [event for event in events if isinstance(event, CallFinished)]
