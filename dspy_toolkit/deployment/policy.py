"""The policy of a bundle: how calls of its model are guarded, and what stands in for it.

It is a policy file (see `docs/resilience.md`) whose primary engine is the program's own model, and
a table `[sources.NAME]` for every other engine it names: `model` (a local model), `url` and
`model` (an endpoint; `key_file` where it needs a key) or `text` (a fixed answer).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dspy_toolkit.config import Settings
from dspy_toolkit.contract import Engine
from dspy_toolkit.engine import EngineOptions
from dspy_toolkit.errors import InvalidInput, reject_unknown_keys
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.served import WitnessedEngine
from dspy_toolkit.programs.supervised import model_engine
from dspy_toolkit.resilience import (
    FixedAnswer,
    Policy,
    RemoteEngine,
    ResilientEngine,
    read_policy,
    stored_in,
)
from dspy_toolkit.store.files import parse_toml, read_text

_KEYS = ("model", "url", "key_file", "text")


@dataclass(frozen=True)
class Source:
    """Where an engine of a policy comes from."""

    name: str
    values: Mapping[str, str]

    def open(self, settings: Settings) -> Engine:
        """Make the engine."""
        if "text" in self.values:
            return FixedAnswer(self.values["text"])
        if "url" in self.values:
            file = self.values.get("key_file")
            key = None if file is None else _key_from(Path(file).expanduser())
            return RemoteEngine(self.values["url"], self.values["model"], key)
        return model_engine(self.values["model"], EngineOptions(), settings)


def read_sources(path: Path) -> tuple[Policy, tuple[Source, ...]]:
    """Read a bundle's policy.

    Raises:
        NotFound: no such file. InvalidInput: it is not TOML, contradicts itself, or does not say
            where an engine comes from.
    """
    where = f"policy {path.name}"
    values = parse_toml(read_text(path, "policy"), where)
    tables = values.pop("sources", {})
    policy = read_policy(values, where)
    others = [name for name in policy.chain if name != policy.primary]
    if not isinstance(tables, dict):
        raise InvalidInput(f"{where}: sources must be tables, one for each engine")
    reject_unknown_keys(tables, others, f"{where}, [sources]")
    for name in others:
        if name not in tables:
            raise InvalidInput(
                f"{where} does not say what the engine {name!r} is; add [sources.{name}] with "
                "model, url and model, or text"
            )
    return policy, tuple(_source(name, tables[name], where) for name in others)


def guarded(lm: LocalLM, path: Path, version: str, settings: Settings) -> LocalLM:
    """The same language model behind a bundle's policy; releasing it releases all its engines.

    The state of its circuits lies in `<home>/breakers`, under the version, and survives a restart.
    """
    policy, sources = read_sources(path)
    engines: dict[str, Engine] = {policy.primary: lm.engine}
    kept = stored_in(settings.home / "breakers")
    try:
        for source in sources:
            engines[source.name] = source.open(settings)
        engine = ResilientEngine(policy, engines, storage=lambda name: kept(f"{version}.{name}"))
        return LocalLM(
            lm.model,
            engine=engine,
            async_engine=WitnessedEngine(engine.async_twin),
            seed=lm.seed,
            source=lm.source,
            cache=False,
            temperature=lm.kwargs.get("temperature"),
            max_tokens=lm.kwargs.get("max_tokens"),
        )
    except BaseException:
        for name, opened in engines.items():
            if name != policy.primary:
                opened.close()
        raise


def _source(name: str, table: Any, where: str) -> Source:
    place = f"{where}, [sources.{name}]"
    if not isinstance(table, dict):
        raise InvalidInput(f"{place} must be a table")
    reject_unknown_keys(table, _KEYS, place)
    for key, value in table.items():
        if not isinstance(value, str) or not value:
            raise InvalidInput(f"{place}: {key} must be a text, got {value!r}")
    kinds = {"text"}, {"model"}, {"url", "model"}, {"url", "model", "key_file"}
    if set(table) not in kinds:
        raise InvalidInput(f"{place} needs model, url and model (and key_file), or text")
    return Source(name, table)


def _key_from(file: Path) -> str:
    return read_text(file, "key file").strip()
