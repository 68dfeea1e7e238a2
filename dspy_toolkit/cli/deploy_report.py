"""What `dspy-tk deploy` shows people of versions; `--json` gives machines all of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LONGEST = 200
# Copies of what the artifact's own manifest says.
_SAID_TWICE = "bundle.program."
_HEADS = {"artifact.compiled.": "test ", "artifact.": "", "bundle.": "", "program.": ""}


def version_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A version as names and texts.

    Args:
        facts: of `Bundle.facts`, with the `moves` that led to it.
    """
    moves: list[Mapping[str, Any]] = facts["moves"]
    model, made_with = facts["model"], dict(facts["environment"])
    kept = "files in the bundle" if model["weights"] else "named, not copied"
    adapter = ", with an adapter" if model["adapter"] else ""
    python, platform = made_with.pop("python"), made_with.pop("platform")
    packages = ", ".join(f"{name} {version}" for name, version in made_with.items())
    return [
        ("deployment", facts["name"]),
        ("version", facts["version"]),
        ("created", facts["created"]),
        ("signature", facts["signature"] or "the program's own"),
        ("optimizer", facts["optimizer"] or "none"),
        ("score", _score(facts["score"])),
        ("model", f"{model['reference']}{adapter} ({kept})"),
        ("model's files", model["files"]),
        ("policy", "yes" if facts["policy"] else "none"),
        ("made with", f"{packages}, Python {python} on {platform}"),
        ("digest", facts["digest"]),
        ("note", facts["note"] or "none"),
        *((each["at"], f"{each['alias']} ({each['how']}): {each['reason']}") for each in moves),
    ]


def difference_rows(found: Mapping[str, tuple[Any, Any]]) -> list[tuple[str, str, str]]:
    """What `differences` found: what it is, before, after."""
    return [
        (_called(path), _text(path, before), _text(path, after))
        for path, (before, after) in found.items()
        if not path.startswith(_SAID_TWICE)
    ]


def percent(score: Any) -> str:
    """A score of a compile run, or a dash."""
    return f"{100 * score['score']:.1f} %" if isinstance(score, dict) else "-"


def _score(score: Any) -> str:
    if not isinstance(score, dict):
        return "none"
    low, high = (100 * each for each in score["interval"])
    return f"{percent(score)} of {score['n']} test examples ({low:.1f} to {high:.1f} %)"


def _called(path: str) -> str:
    head = next((each for each in _HEADS if path.startswith(each)), "")
    return _HEADS.get(head, "") + path.removeprefix(head).replace("_", " ")


def _text(path: str, value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float() if ".compiled." in path:
            return f"{100 * value:.1f} %"
        case list():
            return ", ".join(_text(path, each) for each in value) or "none"
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
