"""Policies as TOML and as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from dspy_toolkit.errors import InvalidInput, UnknownKey, reject_unknown_keys
from dspy_toolkit.resilience.policy import (
    BreakerPolicy,
    BulkheadPolicy,
    EnginePolicy,
    Policy,
    RetryPolicy,
    SheddingPolicy,
    TimeoutPolicy,
)
from dspy_toolkit.store.files import parse_toml, read_text

T = TypeVar("T")

_PARTS: dict[str, type] = {
    "bulkhead": BulkheadPolicy,
    "timeouts": TimeoutPolicy,
    "breaker": BreakerPolicy,
    "retry": RetryPolicy,
    "shedding": SheddingPolicy,
}
_MAY_BE_OFF = ("breaker", "shedding")
# An engine that says one of them does not mean the other one of the defaults.
_WINDOWS = {"window_calls", "window_s"}
_ENGINE_KEYS = [field.name for field in dataclasses.fields(EnginePolicy)]
_POLICY_KEYS = [*(field.name for field in dataclasses.fields(Policy)), "defaults"]


def load_policy(path: Path) -> Policy:
    """Read a policy from a TOML file.

    Raises:
        NotFound: no such file. UnknownKey: it has a key that does not exist.
        InvalidInput: it is not TOML, or contradicts itself.
    """
    where = f"policy {path}"
    values = parse_toml(read_text(path, "policy"), where)
    return read_policy(values, where)


def read_policy(values: Mapping[str, Any], where: str = "policy") -> Policy:
    """Build a policy from plain data, as TOML has it.

    The table `defaults` is what every engine has unless its own table says otherwise, part by
    part and key by key. `breaker = false` and `shedding = false` leave a guard out.

    Args:
        values: the data.
        where: what to call it in messages.

    Raises:
        UnknownKey: a key that does not exist. InvalidInput: a wrong value, or a contradiction.
    """
    reject_unknown_keys(values, _POLICY_KEYS, where)
    defaults = _table(values.get("defaults", {}), f"{where}, [defaults]")
    reject_unknown_keys(defaults, _PARTS, f"{where}, [defaults]")
    engines = _table(values.get("engines", {}), f"{where}, [engines]")
    if "primary" not in values:
        raise InvalidInput(f"{where} has no primary; name the engine to ask first")
    built = {
        name: _engine(_table(given, f"{where}, [engines.{name}]"), defaults, where, name)
        for name, given in engines.items()
    }
    plain = {key: values[key] for key in ("primary", "deadline_s", "attempts") if key in values}
    return _built(Policy, {**plain, "engines": built}, where)


def policy_data(policy: Policy) -> dict[str, Any]:
    """The policy as plain data that `read_policy` reads again."""
    engines = {}
    for name, engine in policy.engines.items():
        given = _without_none(vars(engine))
        given |= {
            part: _without_none(vars(given[part])) if part in given else False for part in _PARTS
        }
        engines[name] = given
    return {**_without_none(vars(policy)), "engines": engines}


def _engine(
    given: Mapping[str, Any], defaults: Mapping[str, Any], where: str, name: str
) -> EnginePolicy:
    place = f"{where}, [engines.{name}]"
    reject_unknown_keys(given, _ENGINE_KEYS, place)
    values: dict[str, Any] = {key: given[key] for key in given if key not in _PARTS}
    for part, kind in _PARTS.items():
        layers = [layer[part] for layer in (defaults, given) if part in layer]
        if layers:
            values[part] = _part(part, kind, layers, place)
    return _built(EnginePolicy, values, place)


def _part(part: str, kind: type, layers: list[Any], place: str) -> Any:
    where = f"{place}, {part}"
    values: dict[str, Any] | None = {}
    for layer in layers:
        if layer is False and part in _MAY_BE_OFF:
            values = None
            continue
        table = _table(layer, where)
        reject_unknown_keys(table, [field.name for field in dataclasses.fields(kind)], where)
        dropped = _WINDOWS if _WINDOWS & table.keys() else set()
        values = {key: value for key, value in (values or {}).items() if key not in dropped}
        values |= table
    if values is None:
        return None
    return _built(kind, values, where)


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{where} must be a table, got {value!r}")
    return value


def _built(kind: type[T], values: dict[str, Any], where: str) -> T:
    try:
        return kind(**values)
    except UnknownKey:
        raise
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error}") from None


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
