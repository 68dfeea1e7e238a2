"""The engines DSPy talks to: one over a worker thread, and its twin for coroutines."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

from dspy_toolkit.config import Settings
from dspy_toolkit.contract import GRAMMAR_KEY, gives_up_at, next_in_time
from dspy_toolkit.engine import bridge
from dspy_toolkit.engine.chat import Chat, PromptRefused
from dspy_toolkit.engine.embedding import NoHiddenStates
from dspy_toolkit.engine.grammar import Grammar, GrammarBroken
from dspy_toolkit.engine.leasing import lease_model
from dspy_toolkit.engine.options import SAMPLING_RULES, EngineOptions
from dspy_toolkit.engine.output import OutputReader
from dspy_toolkit.engine.pool import Lease
from dspy_toolkit.engine.refusals import EngineStopped
from dspy_toolkit.engine.running import RunningCall
from dspy_toolkit.engine.sampling import Sampling
from dspy_toolkit.engine.sequence import Message, Sequence
from dspy_toolkit.engine.source import one_line
from dspy_toolkit.engine.start import Facts
from dspy_toolkit.engine.stats import Counts
from dspy_toolkit.engine.worker import Worker
from dspy_toolkit.errors import IntegrityError
from dspy_toolkit.events import EngineSampled


class MlxEngine:
    """Answers DSPy's requests with a local model; calls made at once decode together.

    Close it to free the memory; engines over the same model share it, and the last one frees it.

    Attributes:
        model_string: for `dspy.LM`; changes whenever an answer may.
        supports_function_calling: whether the model's template takes tools.
        supports_reasoning: whether the model marks off its thinking.
        supports_response_schema: whether output can be held to a schema.
        supports_probabilities: whether the options in such output can be weighed.
        punctual: it leaves a call when its caller gives up, see `contract.gives_up_at`.
        supported_params: the parameters of a call that have an effect.
    """

    punctual = True

    def __init__(
        self, lease: Lease, reference: str, model_string: str, options: EngineOptions
    ) -> None:
        self._worker: Worker[Facts] = lease.worker
        self._lease = lease
        self._forgotten = weakref.finalize(self, lease.worker.post, lease.release)
        # At exit `pool.close_all` ends every thread and waits for it; this would only ask.
        self._forgotten.atexit = False
        self._reference = reference
        self._options = options
        self._chat = Chat(self._worker.facts.tokenizer, options.template)
        self.model_string = model_string
        self.supports_function_calling = self._chat.takes_tools
        self.supports_reasoning = self._chat.thinks
        self.supports_response_schema = self._worker.facts.unshared is None
        self.supports_probabilities = self.supports_response_schema
        self.supported_params = frozenset(
            (
                *bridge.SUPPORTED_PARAMS,
                *(bridge.TOOL_PARAMS if self._chat.takes_tools else ()),
                *(bridge.SCHEMA_PARAMS if self.supports_response_schema else ()),
                *(bridge.REASONING_PARAMS if self._chat.thinks else ()),
            )
        )

    @classmethod
    def open(
        cls, reference: str, options: EngineOptions, settings: Settings | None = None
    ) -> MlxEngine:
        """See `open_engine`, which works where MLX has not been imported yet."""
        opened, model_string = lease_model(reference, options, settings)
        return cls(opened, reference, model_string, options)

    @property
    def facts(self) -> Facts:
        """What was loaded, and where it runs."""
        return self._worker.facts

    @property
    def alive(self) -> bool:
        """Whether a call made now would be taken."""
        return not self._lease.released and self._worker.alive

    @property
    def running(self) -> int:
        """Calls of this model that wait or decode, those of other engines over it among them."""
        return self._worker.running

    def stats(self) -> Counts:
        """What this model has done in this process so far."""
        return replace(self._worker.counts, joined=self.facts.flights.joined)

    def samples(self) -> list[EngineSampled]:
        """How the model stands now, as events for metrics and watchdogs."""
        from dspy_toolkit.engine.device import memory_held

        held, most = memory_held(self.facts.device)
        counts = self.stats()
        return [
            EngineSampled(
                model=self.model_string,
                running=self.running,
                read=counts.read,
                reused=counts.reused,
                decoded=counts.decoded,
                forced=counts.forced,
                runs=counts.runs,
                rows_run=counts.rows_run,
                memory_bytes=held,
                memory_limit_bytes=most,
            )
        ]

    @property
    def async_twin(self) -> AsyncMlxEngine:
        """The engine for coroutines, over the same model."""
        return AsyncMlxEngine(self)

    def complete(self, request: bridge.Request) -> bridge.Response:
        """Answer a request, waiting for the whole answer.

        Raises:
            lm15 errors: a request that cannot be answered, or an engine that failed.
        """
        inbox: SimpleQueue[Message] = SimpleQueue()
        call = self.prepare(request, inbox.put, streaming=False)
        try:
            call.start()
            return call.response(next_in_time(inbox))
        finally:
            call.leave()

    def stream(self, request: bridge.Request) -> Generator[Any, None, None]:
        """Answer a request with events as they come. Closing the iterator frees the row."""
        inbox: SimpleQueue[Message] = SimpleQueue()
        call = self.prepare(request, inbox.put, streaming=True)
        try:
            call.start()
            yield call.translator.start()
            while not call.done:
                yield from call.events(next_in_time(inbox))
        finally:
            call.leave()

    def embed(self, text: str) -> tuple[list[float], int]:
        """A text as a vector of length 1, and its tokens; see `mean_hidden`. May take a while.

        Raises:
            lm15 errors: the text is empty or too long, or the engine failed.
        """
        tokens = self._chat.encode(text, raw=True)
        if not tokens:
            raise bridge.invalid("the text to embed is empty; give some text")
        limits = [n for n in (self.facts.context, self._options.context) if n is not None]
        if limits and len(tokens) > min(limits):
            raise bridge.too_long(len(tokens), min(limits))
        if self._lease.released:
            raise bridge.closed()
        try:
            return self._worker.ask(lambda batch: batch.embed(tokens)).result(), len(tokens)
        except NoHiddenStates as error:
            raise bridge.unsupported("embeddings", f"embeddings with this model: {error}") from None
        except EngineStopped as error:
            raise bridge.server_error(str(error)) from None

    def prompt_tokens(self, request: bridge.Request) -> int:
        """How many tokens a request is, without answering it.

        Raises:
            lm15 errors: a request that could not be answered.
        """
        ask = bridge.read_request(request, tools=self._chat.takes_tools, thinking=self._chat.thinks)
        return len(self._sequence(ask, lambda message: None, streaming=False).prompt)

    def close(self) -> None:
        """Give the model back. Later calls fail; so do those in flight if nobody shares it."""
        self._forgotten.detach()
        self._lease.release()

    def dump_state(self) -> dict[str, Any]:
        """What `load_state` needs to open the same model, as JSON."""
        return {
            "reference": self._reference,
            "model": self.model_string,
            "options": self._options.dump(),
        }

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> MlxEngine:
        """Open the model that `dump_state` described.

        Raises:
            IntegrityError: what the reference leads to now is another model.
        """
        engine = cls.open(state["reference"], EngineOptions.load(state["options"]))
        if engine.model_string != state["model"]:
            engine.close()
            raise IntegrityError(
                f"model {state['reference']!r} is {engine.model_string} here, and "
                f"{state['model']} was saved: its files or number type differ; restore them, or "
                "set a model anew and save again"
            )
        return engine

    def __deepcopy__(self, memo: dict[int, Any]) -> MlxEngine:
        # Optimizers deep-copy programs; a copy of the weights for each would fill the memory.
        return self

    def __copy__(self) -> MlxEngine:
        return self

    def prepare(
        self, request: bridge.Request, sink: Callable[[Message], None], streaming: bool
    ) -> RunningCall:
        """Read a request into a call that can be started; `sink` hears what becomes of it."""
        if self._lease.released:
            raise bridge.closed()
        ask = bridge.read_request(request, tools=self._chat.takes_tools, thinking=self._chat.thinks)
        sequence = self._sequence(ask, sink, streaming)
        translator = bridge.Translator(
            request.model, ask.logprobs is not None, self._chat.token_text
        )
        return RunningCall(self._worker, self._chat, self.model_string, ask, sequence, translator)

    def _sequence(
        self, ask: bridge.Ask, sink: Callable[[Message], None], streaming: bool
    ) -> Sequence:
        variables = ask.extensions.get("template") or {}
        if not isinstance(variables, Mapping):
            raise bridge.invalid(f"extension template must be a mapping, got {variables!r}")
        if ask.thinking is not None:
            variables = {"enable_thinking": ask.thinking, **variables}
        raw = bool(ask.extensions.get("raw"))
        try:
            text = (
                "".join(turn["content"] for turn in ask.turns)
                if raw
                else self._chat.render(ask.turns, ask.tools, variables)
            )
        except PromptRefused as error:
            raise bridge.invalid(one_line(error)) from None
        prompt = self._chat.encode(text, raw)
        limits = [n for n in (self.facts.context, self._options.context) if n is not None]
        context = min(limits, default=None)
        if not prompt:
            raise bridge.invalid("the prompt is empty; give at least one message with text")
        if context is not None and len(prompt) >= context:
            raise bridge.too_long(len(prompt), context)
        room = ask.max_tokens or self._options.max_tokens
        return Sequence(
            prompt=prompt,
            sampling=self._sampling(ask),
            max_tokens=room if context is None else min(room, context - len(prompt)),
            eos=self.facts.eos,
            reader=OutputReader(
                self._chat.detokenizer(raw),
                self._chat.markers(ask.stops, tools=bool(ask.tools)),
                self._chat.begins(text),
            ),
            sink=sink,
            streaming=streaming,
            logprobs=ask.logprobs,
            gives_up_at=gives_up_at.get(),
            grammar=None if ask.schema is None else self._grammar(ask.schema, text),
            choices=ask.choices,
        )

    def _grammar(self, schema: Mapping[str, Any], prompt: str) -> Grammar:
        if self.facts.unshared is not None:
            raise bridge.unsupported(
                "config.response_format",
                f"constrained output with this model: {self.facts.unshared}",
            )
        if self._chat.begins(prompt) == "thinking":
            raise bridge.unsupported(
                "config.response_format", "constrained output while the model thinks"
            )
        grammars = self.facts.grammars
        try:
            if GRAMMAR_KEY in schema:
                return grammars.lark(str(schema[GRAMMAR_KEY]))
            return grammars.json_schema(schema)
        except GrammarBroken as error:
            raise bridge.invalid(f"response_format cannot be kept: {one_line(error)}") from None

    def _sampling(self, ask: bridge.Ask) -> Sampling:
        options = self._options
        own = {}
        for name, rule in SAMPLING_RULES.items():
            own[name] = ask.extensions.get(name, getattr(options, name))
            if not rule.holds(own[name]):
                raise bridge.invalid(f"extension {name} must be {rule.text}, got {own[name]!r}")
        return Sampling(
            temperature=options.temperature if ask.temperature is None else ask.temperature,
            top_p=options.top_p if ask.top_p is None else ask.top_p,
            top_k=options.top_k if ask.top_k is None else ask.top_k,
            presence_penalty=ask.presence_penalty,
            frequency_penalty=ask.frequency_penalty,
            seed=ask.seed,
            **own,
        )


class AsyncMlxEngine:
    """The twin for coroutines: the same engine, awaited instead of waited for."""

    def __init__(self, engine: MlxEngine) -> None:
        self._engine = engine

    async def complete(self, request: bridge.Request) -> bridge.Response:
        """Answer a request. Cancelling the task frees the row."""
        inbox, sink = mailbox()
        call = await asyncio.to_thread(self._engine.prepare, request, sink, False)
        try:
            call.start()
            return call.response(await inbox.get())
        finally:
            call.leave()

    async def stream(self, request: bridge.Request) -> AsyncGenerator[Any, None]:
        """Answer a request with events as they come. Closing the iterator frees the row."""
        inbox, sink = mailbox()
        call = await asyncio.to_thread(self._engine.prepare, request, sink, True)
        try:
            call.start()
            yield call.translator.start()
            while not call.done:
                for event in call.events(await inbox.get()):
                    yield event
        finally:
            call.leave()

    async def embed(self, text: str) -> tuple[list[float], int]:
        """See `MlxEngine.embed`."""
        return await asyncio.to_thread(self._engine.embed, text)

    async def aclose(self) -> None:
        """Close the engine; see `MlxEngine.close`."""
        await asyncio.to_thread(self._engine.close)

    def dump_state(self) -> dict[str, Any]:
        """See `MlxEngine.dump_state`."""
        return self._engine.dump_state()

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> AsyncMlxEngine:
        """See `MlxEngine.load_state`."""
        return cls(MlxEngine.load_state(state))

    def __deepcopy__(self, memo: dict[int, Any]) -> AsyncMlxEngine:
        return self


def mailbox() -> tuple[asyncio.Queue[Message], Callable[[Message], None]]:
    """A queue of the running loop, and a function that any thread may put messages in by."""
    loop = asyncio.get_running_loop()
    inbox: asyncio.Queue[Message] = asyncio.Queue()

    def sink(message: Message) -> None:
        # A loop that has ended takes no more; whoever waited on it is gone.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(inbox.put_nowait, message)

    return inbox, sink
