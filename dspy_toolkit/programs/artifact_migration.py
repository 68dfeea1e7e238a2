"""Carrying artifacts to a newer version of their signature, into new ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.programs.artifact import PROGRAM, SIGNATURE, Artifact, load_artifact
from dspy_toolkit.registry import MigrationReport, SignatureRecord, to_toml
from dspy_toolkit.registry.migration import program_report
from dspy_toolkit.registry.program_state import carry_program
from dspy_toolkit.store.files import (
    copy_files,
    new_folder,
    read_json,
    refuse_existing,
    write_json,
    write_text,
)
from dspy_toolkit.store.manifest import write_manifest

# What was measured with the old version says nothing of the new one.
_MEASURED = ("baseline", "compiled", "difference", "gate")


def migrate_artifact(
    folder: Path, versions: Sequence[SignatureRecord], output: Path
) -> MigrationReport:
    """Carry an artifact; the original stays as it is, and the new one has no scores.

    Args:
        folder: the artifact.
        versions: from `registry.chain`, the artifact's own first.
        output: a new folder.

    Raises:
        NotFound: there is no artifact. IntegrityError: it is damaged or was changed.
        InvalidInput: it is for another signature, holds nothing that can be carried, or `output`
            exists. StorageError: it cannot be written.
    """
    refuse_existing(output)
    artifact = load_artifact(folder)
    held = artifact.signature
    if held is None or held.digest != versions[0].digest:
        raise InvalidInput(
            f"artifact {folder} is for {held.reference if held else 'no signature'}, which is not "
            f"the {versions[0].reference} named; name the signature it was compiled with"
            + (f", {folder / SIGNATURE}" if held else "")
        )
    state = read_json(artifact.folder / PROGRAM, "program")
    carried = carry_program(state, versions, str(folder))
    with new_folder(output) as place:
        kept = sorted(set(artifact.manifest["files"]) - {PROGRAM, SIGNATURE})
        copy_files(kept, artifact.folder, place)
        write_json(place / PROGRAM, carried.state)
        write_text(place / SIGNATURE, to_toml(versions[-1]))
        write_manifest(place, _facts(artifact, versions))
    report = program_report(carried)
    return replace(report, notes=(*report.notes, "its scores no longer hold; evaluate it again"))


def _facts(artifact: Artifact, versions: Sequence[SignatureRecord]) -> Mapping[str, Any]:
    old, new = versions[0], versions[-1]
    kept = {key: value for key, value in artifact.manifest.items() if key not in _MEASURED}
    return {
        **kept,
        "signature": {"reference": new.reference, "digest": new.digest},
        "inputs": [each.name for each in new.inputs],
        "migrated_from": {"reference": old.reference, "digest": old.digest},
    }
