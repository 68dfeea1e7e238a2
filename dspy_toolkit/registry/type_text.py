"""Reading a type text such as `list[Literal['a', 'b']] | None`, strictly.

It looks like Python and is parsed with `ast`; nothing in it is ever evaluated.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from difflib import get_close_matches
from functools import lru_cache
from typing import NoReturn

from dspy_toolkit.errors import nearest
from dspy_toolkit.registry.field_types import (
    NAMED,
    NONE,
    SCALARS,
    DictOf,
    ListOf,
    LiteralOf,
    Named,
    ObjectRef,
    Option,
    Scalar,
    Type,
    render_type,
    union,
)

MAX_LENGTH = 20_000

_OPEN = ("Literal", "list", "dict", "Choice", "Noul", "Score", "Code")
_KNOWN = (*SCALARS, "Literal", "list", "dict", "None", *NAMED)
_ADVICE = {
    "Optional": "write `X | None`",
    "Union": "write `X | Y`",
    "List": "write `list[...]`",
    "Dict": "write `dict[str, ...]`",
    "Any": "declare an object, or use `str` or `dict[str, str]`",
    "object": "declare an object, or use `dict[str, str]`",
    "string": "write `str`",
    "text": "write `str`",
    "integer": "write `int`",
    "number": "write `float`",
    "boolean": "write `bool`",
    "array": "write `list[...]`",
    "Enum": "write `Literal['a', 'b']`",
}


class TypeTextError(ValueError):
    """A type text is not acceptable.

    Attributes:
        what: what is wrong. fix: what to write instead. position: 1-based character in the text.
    """

    def __init__(self, what: str, fix: str, position: int = 1) -> None:
        super().__init__(f"{what}; {fix}")
        self.what = what
        self.fix = fix
        self.position = position


@lru_cache(maxsize=4096)
def parse_type(text: str) -> Type:
    """Read a type text.

    Raises:
        TypeTextError: it is not one, with the position of the first thing wrong.
    """
    if not text.strip():
        raise TypeTextError("the type is empty", "write for example `str`")
    if len(text) > MAX_LENGTH:
        raise TypeTextError(f"the type is longer than {MAX_LENGTH} characters", "shorten it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tree = ast.parse(text.strip(), mode="eval")
        return _Reader(text).read(tree.body)
    except SyntaxError as error:
        raise TypeTextError(
            f"the type cannot be read ({error.msg})", "check brackets and quotes", error.offset or 1
        ) from None
    except (RecursionError, MemoryError, ValueError) as error:
        if isinstance(error, TypeTextError):
            raise
        raise TypeTextError("the type cannot be read", "make it simpler") from None


class _Reader:
    """Turns one parsed expression into a `Type`."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._indent = len(text) - len(text.lstrip())

    def fail(self, node: ast.expr, what: str, fix: str) -> NoReturn:
        lines = self._text.strip().splitlines() or [""]
        line = lines[min(node.lineno, len(lines)) - 1]
        before = sum(len(earlier) + 1 for earlier in lines[: node.lineno - 1])
        column = len(line.encode()[: node.col_offset].decode(errors="ignore"))
        raise TypeTextError(what, fix, self._indent + before + column + 1)

    def read(self, node: ast.expr) -> Type:
        match node:
            case ast.Name(id=name):
                return self._plain(node, name)
            case ast.BinOp(op=ast.BitOr()):
                return self._union(node)
            case ast.Subscript(value=ast.Name(id=name), slice=inside):
                arguments = inside.elts if isinstance(inside, ast.Tuple) else [inside]
                # A lone pair in Choice[...] parses like two arguments.
                if name in ("Choice", "Noul") and self._is_pair(inside):
                    arguments = [inside]
                return self._generic(node, name, arguments)
            case ast.Constant(value=None):
                self.fail(node, "None alone is no type", "write `X | None`")
            case ast.Constant(value=str(text)):
                self.fail(node, f"{text!r} is a value, not a type", f"write `Literal[{text!r}]`")
        self.fail(node, f"{ast.unparse(node)!r} is no type", f"known: {', '.join(_KNOWN)}")

    def _is_pair(self, node: ast.expr) -> bool:
        """Whether it is one pair in parentheses of its own, and not two options without."""
        return (
            isinstance(node, ast.Tuple)
            and bool(node.elts)
            and ((node.lineno, node.col_offset) < (node.elts[0].lineno, node.elts[0].col_offset))
        )

    def _plain(self, node: ast.expr, name: str) -> Type:
        if name in SCALARS:
            return Scalar(name)
        if name in ("Choice", "Score"):
            example = "Choice[('a', 'when to choose a'), ('b', '...')]"
            example = example if name == "Choice" else "Score['poor', 'fair', 'good']"
            self.fail(node, f"{name} has no options", f"write for example `{example}`")
        if name in NAMED:
            return Named(name)
        if name == "Literal":
            self.fail(node, "Literal has no options", "write for example `Literal['low', 'high']`")
        if name in ("list", "dict"):
            inside = "str" if name == "list" else "str, str"
            self.fail(
                node, f"{name} does not say what it holds", f"write for example `{name}[{inside}]`"
            )
        if name in _ADVICE:
            self.fail(node, f"unknown type {name!r}", _ADVICE[name])
        if name[0].isupper() and name.isascii() and name.isalnum():
            return ObjectRef(name)
        self.fail(node, f"unknown type {name!r}", nearest(name, _KNOWN))

    def _generic(self, node: ast.expr, name: str, arguments: list[ast.expr]) -> Type:
        match name, arguments:
            case "Literal", _:
                return LiteralOf(self._options(node, arguments))
            case "list", [item]:
                return ListOf(self.read(item))
            case "dict", [key, value]:
                return DictOf(self._key(key), self.read(value))
            case "list", _:
                self.fail(node, "list takes one type", "write for example `list[str]`")
            case "dict", _:
                self.fail(node, "dict takes two types", "write for example `dict[str, int]`")
            case "Choice" | "Noul", _:
                return Named(name, self._pairs(node, name, arguments))
            case "Score", _:
                return Named(name, self._levels(node, arguments))
            case "Code", [ast.Constant(value=str(language))]:
                return Named(name, (language,))
        fix = _ADVICE.get(name)
        if fix is None and name not in _KNOWN and (close := get_close_matches(name, _OPEN, n=1)):
            self.fail(node, f"unknown type {name!r}", f"did you mean {close[0]!r}?")
        fix = fix or f"write `{name}` or one of list, dict, Literal"
        self.fail(node, f"{name} takes nothing in brackets", fix)

    def _union(self, node: ast.BinOp) -> Type:
        members: list[Type] = []
        for side in _sides(node):
            none = isinstance(side, ast.Constant) and side.value is None
            member = NONE if none else self.read(side)
            if render_type(member) in map(render_type, members):
                self.fail(side, f"{render_type(member)} stands twice", "name it once")
            members.append(member)
        rest = [member for member in members if member != NONE]
        if len(rest) > 1 and not all(isinstance(member, Scalar | LiteralOf) for member in rest):
            self.fail(
                node,
                "only str, int, float, bool and Literal can be joined with `|`",
                "use two optional fields instead",
            )
        return union(tuple(members))

    def _key(self, node: ast.expr) -> Scalar | LiteralOf:
        key = self.read(node)
        if key == Scalar("str"):
            return Scalar("str")
        if isinstance(key, LiteralOf) and all(isinstance(option, str) for option in key.options):
            return key
        self.fail(
            node, f"a dict cannot have {render_type(key)} keys", "use str or a Literal of texts"
        )

    def _options(self, node: ast.expr, arguments: list[ast.expr]) -> tuple[Option, ...]:
        if not arguments:
            self.fail(node, "Literal has no options", "write for example `Literal['low', 'high']`")
        options: list[Option] = []
        for argument in arguments:
            option = self._option(argument)
            if (type(option), option) in [(type(known), known) for known in options]:
                self.fail(argument, f"option {option!r} stands twice", "name it once")
            options.append(option)
        return tuple(options)

    def _option(self, node: ast.expr) -> Option:
        match node:
            case ast.Constant(value=str(text)):
                return self._encodable(node, text)
            case ast.Constant(value=bool(value)) | ast.Constant(value=int(value)):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(number))):
                if not isinstance(number, bool):
                    return -number
            case ast.Constant(value=None):
                self.fail(node, "None cannot be an option", "write `Literal[...] | None`")
            case ast.Name(id=name):
                self.fail(node, f"option {name} lacks quotes", f"write {name!r}")
        self.fail(
            node,
            f"{ast.unparse(node)} cannot be an option",
            "options are quoted texts, whole numbers, True or False",
        )

    def _encodable(self, node: ast.expr, text: str) -> str:
        if any("\ud800" <= character <= "\udfff" for character in text):
            self.fail(node, f"{text!r} holds half a character", "write the whole character")
        return text

    def _pairs(
        self, node: ast.expr, name: str, arguments: list[ast.expr]
    ) -> tuple[tuple[Option, str], ...]:
        pairs: list[tuple[Option, str]] = []
        for argument in arguments:
            match argument:
                case ast.Tuple(elts=[value, ast.Constant(value=str(description)) as described]):
                    option = self._option(value)
                    pairs.append((option, self._encodable(described, description)))
                case _:
                    self.fail(
                        argument, f"{name} takes pairs", "write `('option', 'what it means')`"
                    )
        labels = [str(option) for option, _ in pairs]
        if len(set(labels)) != len(labels) or not pairs:
            self.fail(node, f"the options of {name} are not distinct", "name each once")
        if name == "Noul" and not all(isinstance(option, bool) for option, _ in pairs):
            self.fail(
                node,
                "Noul decides between True and False",
                "write `Noul[(True, '...'), (False, '...')]`",
            )
        return tuple(pairs)

    def _levels(self, node: ast.expr, arguments: list[ast.expr]) -> tuple[str, ...]:
        levels = [
            self._encodable(argument, argument.value)
            for argument in arguments
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
        ]
        if len(levels) < 2 or len(levels) != len(arguments):
            self.fail(
                node,
                "Score needs two or more level descriptions",
                "write for example `Score['poor', 'fair', 'good']`, the worst first",
            )
        return tuple(levels)


def _sides(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        yield from _sides(node.left)
        yield from _sides(node.right)
    else:
        yield node
