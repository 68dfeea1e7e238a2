"""Moving versions into production and back: what the gate lets through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dspy_toolkit.compiler.gate import ALPHA, BETTER, WORSE, judge
from dspy_toolkit.compiler.outcomes import read_outcomes
from dspy_toolkit.deployment.bundle import Bundle
from dspy_toolkit.deployment.store import ALIASES, PRODUCTION, Deployment, previous_production
from dspy_toolkit.errors import InvalidInput, NotFound, ToolkitError, nearest


class NotPromoted(ToolkitError):
    """The gate does not let a version into production."""


@dataclass(frozen=True)
class Passage:
    """What the gate says of a version.

    Attributes:
        verdict: "better", "not shown better", "worse", or "not comparable".
        passes: whether it may go into production.
        reason: one line.
    """

    verdict: str
    passes: bool
    reason: str


def examine(candidate: Bundle, present: Bundle | None, alpha: float = ALPHA) -> Passage:
    """Hold a version against the one in production, on the test examples both were scored on.

    Without one in production, or without common examples, the verdict of the version's own
    compile run against its program before is taken.
    """
    if present is not None:
        scores = _paired(present, candidate)
        if scores is not None:
            judged = judge(*scores, alpha)
            told = f"{judged.verdict} than {present.version} on {judged.n} test examples"
            return Passage(judged.verdict, judged.verdict == BETTER, told)
    gate = candidate.manifest["program"]["gate"]
    if not gate:
        return Passage("not comparable", False, "it was never scored beside another program")
    verdict = str(gate["verdict"])
    told = f"{verdict} than the program before it was compiled, on {gate['n']} test examples"
    if present is None:
        return Passage(verdict, verdict != WORSE, told)
    told += f"; it shares no test examples with {present.version}"
    return Passage("not comparable", False, told)


def promote(
    deployment: Deployment, wanted: str, alias: str = PRODUCTION, anyway: str | None = None
) -> dict[str, Any]:
    """Point an alias to a version; into production only through the gate.

    Args:
        wanted: a version, its number, digest or alias.
        anyway: a reason to pass a gate that says no; it is kept with the move.

    Raises:
        NotPromoted: the gate says no and there is no reason to pass it.
        NotFound, IntegrityError: the version is missing or damaged.
    """
    if alias not in ALIASES:
        raise InvalidInput(f"alias {alias!r} does not exist; {nearest(alias, ALIASES)}")
    if anyway is not None and not anyway.strip():
        raise InvalidInput("--anyway needs a reason, which is kept with the move")
    with deployment.changing():
        bundle, aliases = deployment.bundle(wanted), deployment.aliases()
        before = aliases.versions.get(alias)
        reason, verdict = "asked for", None
        if before == bundle.version:
            return _moved(deployment, alias, before, before, "it is there already", None)
        if alias == PRODUCTION:
            present = deployment.bundle(before) if before else None
            passage = examine(bundle, present)
            if not passage.passes and not anyway:
                raise NotPromoted(
                    f"{deployment.name} {bundle.version} is not promoted: {passage.reason}; "
                    "compile a better one, or give a reason with --anyway"
                )
            verdict = passage.verdict
            reason = passage.reason if passage.passes else f"{passage.reason}; anyway: {anyway}"
        deployment.write_aliases(aliases.moved(alias, bundle.version, "promote", reason))
    return _moved(deployment, alias, before, bundle.version, reason, verdict)


def rollback(deployment: Deployment, reason: str = "asked for") -> dict[str, Any]:
    """Point production to the version before; done again, to the one before that.

    Raises:
        NotFound: there was none, or it was removed.
    """
    with deployment.changing():
        aliases = deployment.aliases()
        before, previous = aliases.versions.get(PRODUCTION), previous_production(aliases)
        if previous is None:
            raise NotFound(f"{deployment.name} has no version before the one in production")
        deployment.bundle(previous)
        deployment.write_aliases(aliases.moved(PRODUCTION, previous, "rollback", reason))
    return _moved(deployment, PRODUCTION, before, previous, reason, None)


def _moved(
    deployment: Deployment,
    alias: str,
    before: str | None,
    after: str,
    reason: str,
    verdict: str | None,
) -> dict[str, Any]:
    return {
        "name": deployment.name,
        "alias": alias,
        "before": before,
        "after": after,
        "reason": reason,
        "verdict": verdict,
    }


def _paired(first: Bundle, second: Bundle) -> tuple[list[float], list[float]] | None:
    tests = [each.manifest["program"]["test"] for each in (first, second)]
    if not all(tests) or tests[0]["digest"] != tests[1]["digest"]:
        return None
    one, other = (read_outcomes(each.folder).get("compiled", []) for each in (first, second))
    if not one or [each.example for each in one] != [each.example for each in other]:
        return None
    return [each.score for each in one], [each.score for each in other]
