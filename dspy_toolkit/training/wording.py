"""Synonyms and paraphrases from a TOML file, for augmentation."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dspy_toolkit.errors import InvalidInput, reject_unknown_keys
from dspy_toolkit.store.files import parse_toml, read_text

_SENTENCE = re.compile(r"[^.!?\n]+")
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Wording:
    """Groups of interchangeable words, and of sentence forms with `{slots}` in common."""

    synonyms: tuple[tuple[str, ...], ...] = ()
    paraphrases: tuple[tuple[str, ...], ...] = ()

    def replace_synonyms(
        self, text: str, rng: np.random.Generator, rate: float, keep: Collection[str]
    ) -> str:
        """Put another word of the same group in the place of a share of those that have one."""
        groups = {word.lower(): group for group in self.synonyms for word in group}
        if not groups or not rate:
            return text
        longest_first = sorted(groups, key=len, reverse=True)
        pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b", re.IGNORECASE)

        def other(match: re.Match[str]) -> str:
            found = match[0]
            if rng.random() >= rate or _touches(found, keep):
                return found
            choices = [word for word in groups[found.lower()] if word.lower() != found.lower()]
            return _cased_like(choices[int(rng.integers(len(choices)))], found)

        return pattern.sub(other, text)

    def paraphrase(
        self, text: str, rng: np.random.Generator, rate: float, keep: Collection[str]
    ) -> str:
        """Give a share of the sentences that have one of the forms another form of its group."""
        if not self.paraphrases or not rate:
            return text
        groups = [[(form, _pattern(form)) for form in group] for group in self.paraphrases]

        def other(match: re.Match[str]) -> str:
            sentence = match[0]
            body = sentence.strip()
            if not body or rng.random() >= rate:
                return sentence
            for group in groups:
                for form, pattern in group:
                    slots = pattern.fullmatch(body)
                    if slots is not None and not _touches(_SLOT.sub("", form), keep):
                        others = [each for each, _ in group if each != form]
                        chosen = others[int(rng.integers(len(others)))]
                        filled = chosen.format_map(slots.groupdict())
                        return sentence.replace(body, _cased_like(filled, body))
            return sentence

        return _SENTENCE.sub(other, text)


def read_wording(path: Path) -> Wording:
    """Read `[[synonyms]] words = [...]` and `[[paraphrases]] forms = [...]`.

    Raises:
        NotFound: there is no such file. InvalidInput: it is not TOML, a group has fewer than two
            members, or the forms of a group do not have the same slots.
    """
    content = parse_toml(read_text(path, "wording file"), f"wording file {path}")
    reject_unknown_keys(content, ("synonyms", "paraphrases"), f"wording file {path}")
    paraphrases = _groups(content, "paraphrases", "forms", path)
    for group in paraphrases:
        if len({frozenset(_SLOT.findall(form)) for form in group}) > 1:
            raise InvalidInput(
                f"wording file {path}: the forms {list(group)} must have the same {{slots}}"
            )
    return Wording(_groups(content, "synonyms", "words", path), paraphrases)


def _groups(content: Mapping[str, Any], name: str, key: str, path: Path) -> Any:
    groups = []
    for entry in content.get(name, []):
        members = entry.get(key) if isinstance(entry, Mapping) else None
        if not isinstance(members, list) or len(set(members)) < 2 or not all(members):
            raise InvalidInput(
                f"wording file {path}: each [[{name}]] needs {key}, a list of two texts or more, "
                f"got {entry!r}"
            )
        groups.append(tuple(members))
    return tuple(groups)


def _pattern(form: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", form)
    text = "".join(
        re.escape(part) if i % 2 == 0 else f"(?P<{part}>.+?)" for i, part in enumerate(parts)
    )
    return re.compile(text, re.IGNORECASE)


def _touches(text: str, keep: Collection[str]) -> bool:
    words = set(re.findall(r"\w+", text))
    return any(words & set(re.findall(r"\w+", each)) for each in keep)


def _cased_like(text: str, model: str) -> str:
    return text[:1].upper() + text[1:] if model[:1].isupper() else text
