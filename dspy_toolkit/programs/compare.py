"""How answers are compared with what is right. Plain values in, numbers in [0, 1] out."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from dspy.adapters.types.decision import Choice, Noul, Score
from pydantic import BaseModel

ListRule: TypeAlias = Literal["ordered", "unordered", "overlap"]
LIST_RULES: tuple[ListRule, ...] = ("ordered", "unordered", "overlap")

_PUNCTUATION = re.compile(r"[^\w\s]|_")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+")


@dataclass(frozen=True)
class Rules:
    """How strictly values are compared.

    Attributes:
        tolerance: two numbers agree when they differ by at most this share of the right one, or
            by this much where the right one is smaller than 1.
        lists: "ordered": the same items in the same order; "unordered": the same items;
            "overlap": the F1 of the items, in any order.
    """

    tolerance: float = 1e-9
    lists: ListRule = "unordered"


def agreement(right: Any, given: Any, rules: Rules) -> float:
    """How well a value agrees with the right one.

    Texts agree when equal after Unicode NFKC, without regard to case and runs of white space.
    Where the right value is a number or a truth value, a text that reads as one counts as it.
    Objects agree when all fields do; a field that is None equals one that is missing. A decision
    agrees when its value does.

    Returns:
        1.0 or 0.0; between them only for lists under the rule "overlap".
    """
    right, given = plain(right), plain(given)
    if isinstance(right, Mapping) and isinstance(given, Mapping):
        keys = right.keys() | given.keys()
        strict = Rules(rules.tolerance, "unordered" if rules.lists == "overlap" else rules.lists)
        return float(all(agreement(right.get(k), given.get(k), strict) == 1.0 for k in keys))
    if isinstance(right, list) and isinstance(given, list):
        return _lists(right, given, rules)
    if isinstance(right, bool) or right is None:
        return float(_truth(given) is right if right is not None else given is None)
    if isinstance(right, int | float):
        wanted, number = as_number(right), as_number(given)
        if wanted is None:
            return float(right == given)
        return float(number is not None and close(wanted, number, rules.tolerance))
    if isinstance(right, str) and isinstance(given, str | int | float):
        return float(normal(right) == normal(str(given)))
    return 0.0


def plain(value: Any) -> Any:
    """A value as JSON would hold it: models as objects, tuples as lists, decisions as values."""
    if isinstance(value, Choice | Noul | Score):
        return value.value
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, tuple):
        return list(value)
    return value


def normal(text: str) -> str:
    """Text for comparing: NFKC, case folded, white space collapsed and trimmed."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    # Folding may undo the normal form: a Greek iota below becomes a letter of its own.
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def tokens(text: str) -> list[str]:
    """Words for token F1: `normal`, without punctuation and English articles."""
    bare = _ARTICLES.sub(" ", _PUNCTUATION.sub(" ", normal(text)))
    return bare.split()


def token_f1(right: str, given: str) -> float:
    """F1 of the words two texts share, as SQuAD scores answers. Two empty texts agree.

    Source:
        Rajpurkar et al., "SQuAD", arXiv:1606.05250, section 6.1.
    """
    return _f1(Counter(tokens(right)), Counter(tokens(given)))


def as_number(value: Any) -> float | None:
    """A number, or the only number a text holds (`"$1,204.50"`, `"12 %"`); otherwise None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return _finite(value)
    found = _NUMBER.findall(value) if isinstance(value, str) else []
    return _finite(found[0].replace(",", "")) if len(found) == 1 else None


def close(right: float, given: float, tolerance: float) -> bool:
    """Whether two numbers differ by at most `tolerance` of the right one, or of 1 below that."""
    return abs(right - given) <= tolerance * max(1.0, abs(right))


def _finite(value: float | str) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _truth(value: Any) -> bool | None:
    if isinstance(value, str):
        return {"true": True, "yes": True, "false": False, "no": False}.get(normal(value))
    return value if isinstance(value, bool) else None


def _lists(right: list[Any], given: list[Any], rules: Rules) -> float:
    if rules.lists == "ordered":
        same = len(right) == len(given)
        return float(same and all(_same(a, b, rules) for a, b in zip(right, given, strict=True)))
    shared = _shared(right, given, rules)
    if rules.lists == "unordered":
        return float(shared == len(right) == len(given))
    total = len(right) + len(given)
    return 2 * shared / total if total else 1.0


def _shared(right: Sequence[Any], given: Sequence[Any], rules: Rules) -> int:
    left = list(given)
    shared = 0
    for item in right:
        match = next((i for i, other in enumerate(left) if _same(item, other, rules)), None)
        if match is not None:
            left.pop(match)
            shared += 1
    return shared


def _same(right: Any, given: Any, rules: Rules) -> bool:
    return agreement(right, given, rules) == 1.0


def _f1(right: Counter[str], given: Counter[str]) -> float:
    if not right and not given:
        return 1.0
    shared = (right & given).total()
    return 2 * shared / (right.total() + given.total())
