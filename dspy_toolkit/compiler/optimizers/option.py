"""One option of an optimizer: its kind, its default and what it may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dspy_toolkit.errors import InvalidInput, nearest

_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_OFF = ("none", "off")


@dataclass(frozen=True)
class Option:
    """One option of an optimizer.

    Attributes:
        kind: `int`, `float`, `bool` or `str`.
        default: used when it is not given; None for "off".
        least, most: bounds of a number, both allowed.
        choices: what a text may be; empty for any text.
    """

    name: str
    kind: type
    default: Any
    description: str
    least: float = 0
    most: float = float("inf")
    choices: tuple[str, ...] = ()

    def read(self, value: Any) -> Any:
        """A value from a file, the command line or Python.

        Raises:
            InvalidInput: it is not of the option's kind or outside its bounds.
        """
        if value is None and self.default is None:
            return None
        if isinstance(value, str) and self.default is None and value in _OFF:
            return None
        if self.kind is str:
            return self._text(value)
        if self.kind is bool:
            return self._truth(value)
        return self._number(value)

    def facts(self) -> dict[str, Any]:
        """The option as JSON values, for lists."""
        return {
            "name": self.name,
            "type": self.kind.__name__,
            "default": self.default,
            "description": self.description,
            "least": self.least if self.kind in (int, float) else None,
            "most": self.most if self.most != float("inf") else None,
            "choices": list(self.choices) or None,
        }

    def _number(self, value: Any) -> Any:
        try:
            number = self.kind(value) if isinstance(value, str) else value
        except ValueError:
            number = None
        fits = isinstance(number, (int, self.kind)) and not isinstance(number, bool)
        if not fits or not self.least <= number <= self.most:
            kind = "whole number" if self.kind is int else "number"
            bounds = f"from {self.least:g}" + (
                "" if self.most == float("inf") else f" to {self.most:g}"
            )
            raise self._wrong(f"a {kind} {bounds}", value)
        return self.kind(number)

    def _truth(self, value: Any) -> bool:
        found = _TRUTHS.get(value.lower()) if isinstance(value, str) else value
        if not isinstance(found, bool):
            raise self._wrong("true or false", value)
        return found

    def _text(self, value: Any) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self._wrong("a text", value)
        if self.choices and value not in self.choices:
            raise InvalidInput(
                f"optimizer option {self.name} {value!r} unknown; {nearest(value, self.choices)}"
            )
        return value

    def _wrong(self, expected: str, value: Any) -> InvalidInput:
        return InvalidInput(f"optimizer option {self.name} must be {expected}, got {value!r}")
