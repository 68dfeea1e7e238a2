"""What the prompts of a predictor begin with, written once: its instructions and demonstrations.

DSPy writes both anew in every call, though they change only when someone optimizes. What is kept
here is found by its content, so a demonstration that was changed is written again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import dspy

# Lists of demonstrations of one signature that are remembered: an optimizer asks many at once.
_KEPT = 64

_Written = OrderedDict[Hashable, Any]
_written: WeakKeyDictionary[type[Any], _Written] = WeakKeyDictionary()
_lock = Lock()


class Formatted:
    """Goes before an adapter class whose messages depend on signature and values alone."""

    def format_system_message(self, signature: type[dspy.Signature]) -> str:
        """The message that says what to do and in which form."""
        key = (type(self), signature.instructions, _fields(signature))
        found = _find(signature, key)
        if found is None:
            found = super().format_system_message(signature)  # type: ignore[misc]
            _keep(signature, key, found)
        return str(found)

    def format_demos(
        self, signature: type[dspy.Signature], demos: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """The demonstrations as turns."""
        try:
            values = tuple(_frozen(_values(signature, demo)) for demo in demos)
        except TypeError:
            return list(super().format_demos(signature, demos))  # type: ignore[misc]
        key = (type(self), _fields(signature), values)
        found = _find(signature, key)
        if found is None:
            found = super().format_demos(signature, demos)  # type: ignore[misc]
            _keep(signature, key, found)
        return [dict(message) for message in found]


_MISSING = object()


def _find(signature: type[dspy.Signature], key: Hashable) -> Any:
    with _lock:
        written = _written.get(signature)
        if written is None or key not in written:
            return None
        written.move_to_end(key)
        return written[key]


def _keep(signature: type[dspy.Signature], key: Hashable, text: Any) -> None:
    with _lock:
        written = _written.setdefault(signature, OrderedDict())
        written[key] = text
        if len(written) > _KEPT:
            written.popitem(last=False)


def _fields(signature: type[dspy.Signature]) -> tuple[Hashable, ...]:
    """What is said of the fields; the rest of a field does not change."""
    return tuple(
        (name, id(info), (info.json_schema_extra or {}).get("desc"))
        for name, info in signature.fields.items()
    )


def _values(signature: type[dspy.Signature], demo: Any) -> list[Any]:
    return [demo[name] if name in demo else _MISSING for name in signature.fields]


def _frozen(value: Any) -> Hashable:
    """A value by its content, told from equal ones that are written otherwise.

    Raises:
        TypeError: it may change without being told apart.
    """
    kind = type(value)
    if kind is str or value is None or value is _MISSING:
        return value  # type: ignore[no-any-return]
    if kind in (bool, int, float):
        return kind, repr(value)
    if kind in (list, tuple):
        return kind, tuple(_frozen(each) for each in value)
    if kind is dict:
        return kind, tuple((_frozen(key), _frozen(each)) for key, each in value.items())
    raise TypeError(f"a {kind.__name__} may change")
