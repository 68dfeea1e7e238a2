"""A call on its way through the engine, from the caller's side."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from dspy_toolkit.engine import bridge
from dspy_toolkit.engine.chat import Chat
from dspy_toolkit.engine.flights import Flight
from dspy_toolkit.engine.refusals import EngineStopped, QueueFull
from dspy_toolkit.engine.sequence import Failed, Finished, Message, Sequence
from dspy_toolkit.engine.start import Facts
from dspy_toolkit.engine.tools import read_calls
from dspy_toolkit.engine.worker import Worker
from dspy_toolkit.events import GenerationFinished, current_run, emit


class RunningCall:
    """A call that was read and can be started, listened to and left."""

    def __init__(
        self,
        worker: Worker[Facts],
        chat: Chat,
        model: str,
        ask: bridge.Ask,
        sequence: Sequence,
        translator: bridge.Translator,
    ) -> None:
        self._worker = worker
        self._chat = chat
        self._model = model
        self._ask = ask
        self._sequence = sequence
        self._sink = sequence.sink
        self._flight: Flight | None = None
        self.translator = translator
        self.done = False

    def start(self) -> None:
        """Hand the call to the engine thread, or hear an equal one that is there already."""
        try:
            self._flight = self._worker.facts.flights.board(self._sequence, self._worker)
        except (EngineStopped, QueueFull) as error:
            self.done = True
            raise bridge.failure(error) from None

    def response(self, message: Message) -> bridge.Response:
        """The whole answer, from the one message of a call that does not stream."""
        return self.translator.response(self._answer(self._finished(message)))

    def events(self, message: Message) -> Generator[Any, None, None]:
        """The events of a message."""
        if not isinstance(message, Finished | Failed):
            event = self.translator.delta(message)
            if event is not None:
                yield event
            return
        answer = self._answer(self._finished(message))
        yield from self.translator.late(answer)
        yield self.translator.end(answer)

    def leave(self) -> None:
        """Free the row if the answer is no longer wanted, by nobody else either."""
        if not self.done and self._flight is not None:
            self._worker.facts.flights.leave(self._flight, self._sink, self._worker)

    def _finished(self, message: Message) -> Finished:
        self.done = True
        if isinstance(message, Failed):
            raise bridge.failure(message.error) from message.error
        if not isinstance(message, Finished):
            raise AssertionError(f"a call that does not stream was sent {message!r}")
        if self._flight is not None and self._worker.facts.flights.first(self._flight):
            self._report(message)
        return message

    def _report(self, finished: Finished) -> None:
        emit(
            GenerationFinished(
                model=self._model,
                input_tokens=finished.prompt_tokens,
                output_tokens=finished.output_tokens,
                seconds_to_first=finished.seconds_to_first,
                seconds=finished.seconds,
                finish_reason=finished.reason,
                run=current_run.get(),
            )
        )

    def _answer(self, finished: Finished) -> bridge.Answer:
        spoken = read_calls(finished.pieces, self._ask.tools, self._chat)
        turn = len(self._ask.turns)
        called = spoken.calls and finished.reason == "stop"
        return bridge.Answer(
            pieces=spoken.pieces,
            reason="tool_call" if called else finished.reason,
            input_tokens=finished.prompt_tokens,
            cached_tokens=finished.reused_tokens,
            output_tokens=finished.output_tokens,
            calls=[
                bridge.Call(f"call_{turn}_{number}", name, arguments)
                for number, (name, arguments) in enumerate(spoken.calls)
            ],
            late=spoken.broken,
            weights=finished.weights,
        )
