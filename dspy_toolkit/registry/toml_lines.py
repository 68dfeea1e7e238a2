"""Line numbers in a TOML text, which the standard reader does not give."""

from __future__ import annotations

import re
import tomllib

from dspy_toolkit.registry.record import KeyPath

_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_ATOM = re.compile(r"[^,\]}#\n]+")
_STRING = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}'
    r"|'''(?:[^']|'(?!''))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)


class Lines:
    """The line of each key, table and array item of a valid TOML text."""

    def __init__(self, text: str) -> None:
        self._text = text.replace("\r\n", "\n")
        self._at = 0
        self._found: dict[KeyPath, int] = {}
        self._lengths: dict[KeyPath, int] = {}
        self._document()

    def of(self, path: KeyPath) -> int:
        """The 1-based line of a path of keys and indexes, or of the nearest one above it."""
        while path not in self._found and path:
            path = path[:-1]
        return self._found.get(path, 1)

    def _line(self) -> int:
        return self._text.count("\n", 0, self._at) + 1

    def _note(self, path: KeyPath) -> None:
        for end in range(1, len(path) + 1):
            self._found.setdefault(path[:end], self._line())

    def _match(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            return ""
        self._at = found.end()
        return found[0]

    def _take(self, mark: str) -> bool:
        if self._text.startswith(mark, self._at):
            self._at += len(mark)
            return True
        return False

    def _document(self) -> None:
        table: KeyPath = ()
        while self._blank() < len(self._text):
            if self._take("[["):
                table = self._items(self._key(()))
                self._note(table)
                self._take("]]")
            elif self._take("["):
                table = self._key(())
                self._note(table)
                self._take("]")
            else:
                self._pair(table)

    def _items(self, path: KeyPath) -> KeyPath:
        count = self._lengths.get(path, 0)
        self._lengths[path] = count + 1
        return (*path, count)

    def _blank(self) -> int:
        self._match(_BLANK)
        return self._at

    def _pair(self, table: KeyPath) -> None:
        path = self._key(table)
        self._note(path)
        self._take("=")
        self._match(_SPACE)
        self._value(path)

    def _key(self, table: KeyPath) -> KeyPath:
        """A dotted key; a table that is an item of an array of tables means its last item."""
        path = table
        while True:
            self._match(_SPACE)
            quoted = self._match(_STRING)
            name = tomllib.loads(f"k = {quoted}")["k"] if quoted else self._match(_BARE)
            path = (*path, name)
            self._match(_SPACE)
            if not self._take("."):
                return path
            if path in self._lengths:
                path = (*path, self._lengths[path] - 1)

    def _value(self, path: KeyPath) -> None:
        if self._take("["):
            self._array(path)
        elif self._take("{"):
            self._inline(path)
        elif not self._match(_STRING):
            self._match(_ATOM)

    def _array(self, path: KeyPath) -> None:
        index = 0
        self._blank()
        while not self._take("]"):
            self._note((*path, index))
            self._value((*path, index))
            index += 1
            self._blank()
            self._take(",")
            self._blank()

    def _inline(self, path: KeyPath) -> None:
        self._blank()
        while not self._take("}"):
            self._pair(path)
            self._blank()
            self._take(",")
            self._blank()
