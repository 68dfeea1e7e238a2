"""Comparing two versions: what each change means for callers and for compiled programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal, TypeAlias

from dspy_toolkit.registry.comparing_types import compare_constraints, compare_types
from dspy_toolkit.registry.field_types import ObjectRef, parts
from dspy_toolkit.registry.record import FieldRecord, Side, SignatureRecord

Verdict: TypeAlias = Literal["compatible", "recompile", "breaks"]
_SEVERITY: tuple[Verdict, ...] = ("compatible", "recompile", "breaks")
_ALIKE = 0.6


@dataclass(frozen=True, slots=True)
class Change:
    """One difference.

    Attributes:
        where: the field or part, for example `outputs.team` or `outputs.lines.quantity`.
        what: what is different.
        verdict: what it means; see `Difference.verdict`.
        hint: what may help, or nothing.
    """

    where: str
    what: str
    verdict: Verdict
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """All changes from one record to another."""

    old: str
    new: str
    changes: tuple[Change, ...]

    @property
    def verdict(self) -> Verdict:
        """The gravest verdict of all changes.

        - "compatible": callers and compiled programs go on as they are.
        - "recompile": callers go on; a compiled program shows the model an outdated prompt.
        - "breaks": a call that was valid is refused, or a result is not what callers expect.
        """
        return max(
            (each.verdict for each in self.changes), key=_SEVERITY.index, default="compatible"
        )


def diff(old: SignatureRecord, new: SignatureRecord) -> Difference:
    """Compare two records. Name, version and source are not compared; `diff(x, x)` is empty."""
    comparison = _Comparison(old, new)
    return Difference(old.reference, new.reference, tuple(comparison.changes()))


class _Comparison:
    def __init__(self, old: SignatureRecord, new: SignatureRecord) -> None:
        self._old = old
        self._new = new
        self._objects = (
            {each.name: each.fields for each in old.objects},
            {each.name: each.fields for each in new.objects},
        )
        migration = new.migration
        declared = migration is not None and migration.source == old.version
        self._renames = dict(migration.renames) if migration and declared else {}

    def changes(self) -> Iterator[Change]:
        if self._old.instructions != self._new.instructions:
            yield Change("instructions", "changed", "recompile")
        sides: tuple[Side, Side] = ("inputs", "outputs")
        for side in sides:
            yield from self._fields(side, side, self._old.fields(side), self._new.fields(side))
        for where in ("examples", "migration"):
            if getattr(self._old, where) != getattr(self._new, where):
                yield Change(where, "changed", "compatible")

    def _fields(
        self, side: Side, where: str, old: Sequence[FieldRecord], new: Sequence[FieldRecord]
    ) -> Iterator[Change]:
        before = {each.name: each for each in old}
        after = {each.name: each for each in new}
        renames = self._renames if where == side else {}
        removed = [each for each in old if each.name not in after]
        added = [each for each in new if each.name not in before]
        for field in removed:
            yield self._removed(where, field, added, renames)
        for field in added:
            if field.name not in renames.values():
                yield self._added(side, where, field)
        for name, field in before.items():
            if name in after:
                yield from self._field(side, f"{where}.{name}", field, after[name])
        kept = [name for name in before if name in after]
        if kept != [name for name in after if name in before]:
            yield Change(where, "fields stand in another order", "recompile")

    def _removed(
        self, where: str, field: FieldRecord, added: Sequence[FieldRecord], renames: dict[str, str]
    ) -> Change:
        at = f"{where}.{field.name}"
        if renames.get(field.name) in [each.name for each in added]:
            return Change(at, f"renamed to {renames[field.name]}", "breaks")
        alike = [each for each in added if _alike(field, each)]
        hint = ""
        if len(alike) == 1:
            hint = f"renamed to {alike[0].name}? then declare it in [migration.renames]"
        return Change(at, "removed", "breaks", hint)

    def _added(self, side: Side, where: str, field: FieldRecord) -> Change:
        at = f"{where}.{field.name}"
        if side == "inputs" and not field.optional:
            hint = f"make it `{field.type} | None` and callers go on"
            return Change(at, "added and required", "breaks", hint)
        return Change(at, "added", "recompile")

    def _field(
        self, side: Side, where: str, old: FieldRecord, new: FieldRecord
    ) -> Iterator[Change]:
        if old.description != new.description:
            yield Change(where, "description changed", "recompile")
        for what, widened, narrowed in (
            *compare_types(old.parsed, new.parsed),
            *compare_constraints(old, new),
        ):
            breaks = narrowed if side == "inputs" else widened
            yield Change(where, what, "breaks" if breaks else "recompile")
        shared = [
            part.name
            for part in parts(new.parsed)
            if isinstance(part, ObjectRef) and part in set(parts(old.parsed))
        ]
        for name in shared:
            yield from self._fields(side, where, self._objects[0][name], self._objects[1][name])


def _alike(old: FieldRecord, new: FieldRecord) -> bool:
    same_text = bool(old.description) and old.description == new.description
    close = SequenceMatcher(None, old.name, new.name).ratio() >= _ALIKE
    return old.type == new.type and (same_text or close)
