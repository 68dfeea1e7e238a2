"""An OpenAI-compatible endpoint as an engine: DSPy's own client, pointed at one server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import aclosing, closing, contextmanager
from dataclasses import replace
from typing import Any, Self
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from dspy_toolkit.contract import (
    GRAMMAR_KEY,
    AccessPolicy,
    AsyncLM15Engine,
    EndpointSupport,
    LM15Engine,
    NotConfiguredError,
    OpenAIChatCompat,
    ProviderDefinition,
    Request,
    Response,
    RouterConfig,
    ServerError,
    StreamEvent,
    Timeouts,
)
from dspy_toolkit.errors import EngineError, InvalidInput
from dspy_toolkit.resilience.transport import PunctualTransport

_PROVIDER = "dspy-toolkit-remote"


class MalformedReply(ServerError, EngineError):  # type: ignore[misc]  # DSPy ships no types
    """An endpoint said it answered, and sent what is no answer."""

    retryable = True

    def __init__(self, url: str, error: Exception) -> None:
        super().__init__(f"the endpoint {url} sent a reply that is no answer: {error}")


class RemoteEngine:
    """A model behind an endpoint that speaks OpenAI's Chat Completions.

    One attempt per call; errors are those of DSPy's engine contract. The key is never part of
    its text form, its saved state or an error.

    Args:
        url: up to and with the version, for example "http://localhost:8000/v1".
        model: what the endpoint calls the model.
        key: the endpoint's key, or what gets it at each call; None for an endpoint without.
        read_s: how long to wait for the next byte.
        connect_s: how long to wait for a connection.
        max_connections: open at once.
        dialect: whose spelling of the format the endpoint follows: "vllm" suits most, and
            "openai", "ollama", "lmstudio", "sglang", "openrouter" and others exist.

    Raises:
        InvalidInput: the URL is not one of http or https, or the dialect is unknown.
    """

    supports_function_calling = True
    supports_reasoning = False
    supports_response_schema = True
    supported_params = frozenset(
        {
            "temperature",
            "max_tokens",
            "top_p",
            "stop",
            "seed",
            "logprobs",
            "top_logprobs",
            "presence_penalty",
            "frequency_penalty",
            "response_format",
            "tools",
            "tool_choice",
        }
    )

    def __init__(
        self,
        url: str,
        model: str,
        key: str | Callable[[], str] | None = None,
        *,
        read_s: float = 120.0,
        connect_s: float = 10.0,
        max_connections: int = 100,
        dialect: str = "vllm",
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidInput(f"an endpoint's URL begins with http:// or https://, got {url!r}")
        if parts.username or parts.password:
            raise InvalidInput(
                "the endpoint's URL holds a name or password; give it as key instead"
            )
        self._state: dict[str, Any] = {
            "url": url,
            "model": model,
            "read_s": read_s,
            "connect_s": connect_s,
            "max_connections": max_connections,
            "dialect": dialect,
        }
        self._key = key
        self._key_missing = False
        self._config = _config(self._state, key)
        self._transport = PunctualTransport(connect_s, read_s, max_connections)
        self._engine = LM15Engine(replace(self._config, transport=self._transport))

    @property
    def model_string(self) -> str:
        """Names endpoint and model, for DSPy's cache."""
        return f"remote/{self._state['model']}@{self._state['url']}"

    @property
    def async_twin(self) -> AsyncRemoteEngine:
        """The same endpoint for coroutines, with connections of its own."""
        return AsyncRemoteEngine(self)

    def complete(self, request: Request) -> Response:
        """Answer a request.

        Raises:
            MalformedReply: the endpoint's reply makes no sense. Otherwise as the contract has it.
        """
        addressed = self.addressed(request)
        with self.reading(addressed):
            return self._engine.complete(addressed)

    def stream(self, request: Request) -> Generator[StreamEvent, None, None]:
        """Answer a request piece by piece; errors as of `complete`."""
        addressed = self.addressed(request)
        with self.reading(addressed), closing(self._engine.stream(addressed)) as events:
            yield from events

    def close(self) -> None:
        """Close the connections. A call on its way may fail."""
        self._engine.close()
        self._transport.close()

    def addressed(self, request: Request) -> Request:
        """The request as the endpoint's client takes it.

        Raises:
            NotConfiguredError: the engine was loaded from a saved state and has no key yet.
        """
        if self._key_missing:
            raise NotConfiguredError(
                f"the key of the endpoint {self._state['url']} is not saved; "
                "build the RemoteEngine anew with it"
            )
        config = request.config
        if GRAMMAR_KEY in (config.response_format or {}).get("schema", {}):
            # The prompt asks for the same form; a local engine would have been held to it.
            config = replace(config, response_format=None, probabilities=None)
        return replace(request, model=f"{_PROVIDER}/{self._state['model']}", config=config)

    @contextmanager
    def reading(self, addressed: Request) -> Iterator[None]:
        """Tell a reply that makes no sense from a request that cannot be sent."""
        try:
            yield
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            # The client raises the same kinds for both; this asks it about the request alone.
            self._engine.plan(addressed)
            raise MalformedReply(self._state["url"], error) from error

    def dump_state(self) -> dict[str, Any]:
        """Everything but the key."""
        return {**self._state, "has_key": self._key is not None}

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> Self:
        """Build it again; where there was a key it refuses calls for want of it."""
        given = {name: value for name, value in state.items() if name != "has_key"}
        engine = cls(given.pop("url"), given.pop("model"), **given)
        engine._key_missing = bool(state["has_key"])
        return engine

    def __repr__(self) -> str:
        return f"RemoteEngine({self._state['url']!r}, {self._state['model']!r})"


class AsyncRemoteEngine:
    """`RemoteEngine` for coroutines, with connections for each event loop; its `async_twin`."""

    def __init__(self, sync_twin: RemoteEngine) -> None:
        self._sync = sync_twin
        state = sync_twin._state
        self._config = replace(
            sync_twin._config,
            timeouts=Timeouts(connect=state["connect_s"], read=state["read_s"]),
            max_connections=state["max_connections"],
        )
        self._engines: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncLM15Engine] = (
            WeakKeyDictionary()
        )

    async def complete(self, request: Request) -> Response:
        """Answer a request; see `RemoteEngine.complete`."""
        addressed = self._sync.addressed(request)
        with self._sync.reading(addressed):
            return await self._here().complete(addressed)

    async def stream(self, request: Request) -> AsyncGenerator[StreamEvent, None]:
        """Answer a request piece by piece; see `RemoteEngine.stream`."""
        addressed = self._sync.addressed(request)
        with self._sync.reading(addressed):
            async with aclosing(self._here().stream(addressed)) as events:
                async for event in events:
                    yield event

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        engine = self._engines.pop(asyncio.get_running_loop(), None)
        if engine is not None:
            await engine.aclose()

    def dump_state(self) -> dict[str, Any]:
        """The state of its twin for threads."""
        return self._sync.dump_state()

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> AsyncRemoteEngine:
        """Build it again."""
        return RemoteEngine.load_state(state).async_twin

    def _here(self) -> AsyncLM15Engine:
        loop = asyncio.get_running_loop()
        if loop not in self._engines:
            self._engines[loop] = AsyncLM15Engine(self._config)
        return self._engines[loop]


def _config(state: dict[str, Any], key: str | Callable[[], str] | None) -> RouterConfig:
    try:
        compat = OpenAIChatCompat.preset(state["dialect"])
    except (KeyError, ValueError) as error:
        raise InvalidInput(f"dialect {state['dialect']!r} is unknown: {error}") from None
    provider = ProviderDefinition.chat(
        AccessPolicy(
            provider=_PROVIDER,
            supports=EndpointSupport(complete=True, stream=True),
            auth_modes=("bearer",),
            base_url=state["url"].rstrip("/"),
        ),
        compat=compat,
        placeholder_key=None if key is not None else "none",
    )
    return RouterConfig(
        # Nothing is taken from the environment: no key of another service, no other URL.
        env={},
        api_keys={} if key is None else {_PROVIDER: key},
        providers=(provider,),
    )
