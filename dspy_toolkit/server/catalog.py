"""What is served: models and programs, by the names callers use."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from dspy_toolkit.contract import AsyncEngine, Engine
from dspy_toolkit.programs.shelf import ServedProgram, Shelf
from dspy_toolkit.server.errors import not_opened, still_loading, unknown_model

Embed = Callable[[str], Coroutine[Any, Any, tuple[list[float], int]]]


@dataclass(frozen=True)
class ServedModel:
    """A language model that is served as it is.

    Attributes:
        name: what callers know it by.
        version: names what is in it: its model string.
        engine: answers.
        source: the same for threads.
        thinks: whether its thinking can be turned on and off.
        embed: a text as a vector and its tokens, where the engine offers it.
    """

    name: str
    version: str
    engine: AsyncEngine
    source: Engine
    thinks: bool = False
    embed: Embed | None = None

    @classmethod
    def over(cls, name: str, engine: Any) -> ServedModel:
        """A model over an engine that has an `async_twin`."""
        twin = engine.async_twin
        return cls(
            name=name,
            version=str(engine.model_string),
            engine=twin,
            source=engine,
            thinks=bool(engine.supports_reasoning),
            embed=getattr(twin, "embed", None),
        )


@dataclass
class Catalog:
    """All that is served. A name belongs to one model or one program.

    Attributes:
        models: by name.
        shelf: the programs.
        loading: names that will be served once they are loaded.
        failed: why a name is not served, by name.
    """

    models: dict[str, ServedModel] = field(default_factory=dict)
    shelf: Shelf = field(default_factory=Shelf)
    loading: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    since: int = field(default_factory=lambda: int(time.time()))

    @property
    def names(self) -> tuple[str, ...]:
        """Every name a caller may use as a model."""
        return tuple(sorted({*self.models, *self.shelf.names}))

    @property
    def ready(self) -> bool:
        """Whether all that was to be served is."""
        return bool(self.names) and not self.loading and not self.failed

    @property
    def engines(self) -> dict[str, Engine]:
        """Every engine behind what is served, by the name that health tells of it."""
        found = {each.version: each.source for each in self.models.values()}
        for program in self.shelf.programs:
            found.update(program.engines)
        return found

    def close(self) -> None:
        """Give every model back."""
        self.shelf.close()
        for model in self.models.values():
            model.source.close()
        self.models.clear()

    def model(self, name: str) -> ServedModel | None:
        """A model, or None where a program has this name.

        Raises:
            ApiError: nothing has this name, it is still being loaded, or it could not be.
        """
        if name in self.models:
            return self.models[name]
        self._check_program(name)
        return None

    @contextmanager
    def program(self, name: str) -> Iterator[ServedProgram]:
        """A program, kept for the block.

        Raises:
            ApiError: none has this name, it is still being loaded, or it could not be.
        """
        self._check_program(name)
        with self.shelf.using(name) as program:
            yield program

    def _check_program(self, name: str) -> None:
        if self.shelf.version(name) is not None:
            return
        if name in self.loading:
            raise still_loading(name)
        if name in self.failed:
            raise not_opened(name)
        raise unknown_model(name, (*self.names, *self.loading))
