from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest

from dspy_toolkit.errors import IntegrityError, InvalidInput, NotFound
from dspy_toolkit.programs.artifact import Artifact, load_artifact, save_artifact
from dspy_toolkit.programs.artifact_migration import migrate_artifact
from dspy_toolkit.programs.modules import ModulePlan, build_module
from dspy_toolkit.programs.signature import dspy_signature
from dspy_toolkit.registry import FieldRecord, Migration, SignatureRecord
from dspy_toolkit.store.manifest import read_manifest, write_manifest
from tests.programs.tasks import chat, scripted_lm

OLD = SignatureRecord(
    "triage",
    "1.0.0",
    "Route it.",
    (FieldRecord("body", "str"), FieldRecord("topic", "str | None")),
    (FieldRecord("team", "Literal['red', 'blue']"),),
)
NEW = replace(
    OLD,
    version="2.0.0",
    inputs=(FieldRecord("ticket", "str"), FieldRecord("channel", "str")),
    outputs=(FieldRecord("team", "Literal['north', 'south']"),),
    migration=Migration(
        "1.0.0", {"body": "ticket"}, {"channel": "mail"}, {"team": {"red": "north"}}
    ),
)
MEASURED = {name: {"score": 0.9} for name in ("baseline", "compiled", "difference", "gate")}
FACTS: dict[str, Any] = {"run": "r1", "seed": 0, "prompt_format": "chat", "inputs": ["body"]}


def saved(folder: Path, record: SignatureRecord = OLD) -> Artifact:
    program = build_module("predict", dspy_signature(record))
    program.predictors()[0].demos = [
        dspy.Example(body="Help", team="red"),
        dspy.Example(body="Hey", team="blue"),
    ]
    lm = scripted_lm(lambda request: "")
    plan = ModulePlan("predict", record)
    return save_artifact(folder, program, plan, lm, {**FACTS, **MEASURED})


def test_a_carried_artifact_answers_with_its_demonstrations(tmp_path: Path) -> None:
    saved(tmp_path / "old")

    report = migrate_artifact(tmp_path / "old", (OLD, NEW), tmp_path / "new")

    lm = scripted_lm(lambda request: chat(team="south"))
    artifact = load_artifact(tmp_path / "new")
    program = artifact.program(lm)
    assert artifact.run(program, {"ticket": "Hello", "channel": "web"}) == {"team": "south"}
    assert "Help" in lm.engine.requests[0]
    assert artifact.signature == NEW
    assert (report.carried, len(report.refused)) == (1, 1)


def test_a_carried_artifact_says_where_it_is_from_and_keeps_no_score(tmp_path: Path) -> None:
    saved(tmp_path / "old")
    before = {each.name: each.read_bytes() for each in (tmp_path / "old").iterdir()}

    report = migrate_artifact(tmp_path / "old", (OLD, NEW), tmp_path / "new")

    manifest = read_manifest(tmp_path / "new", "artifact")
    assert manifest["signature"] == {"reference": "triage@2.0.0", "digest": NEW.digest}
    assert manifest["migrated_from"] == {"reference": "triage@1.0.0", "digest": OLD.digest}
    assert manifest["inputs"] == ["ticket", "channel"]
    assert manifest["run"] == "r1"
    assert not MEASURED.keys() & manifest.keys()
    assert "evaluate it again" in report.notes[-1]
    assert {each.name: each.read_bytes() for each in (tmp_path / "old").iterdir()} == before


def edit_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seed": 7}))


def edit_program(folder: Path) -> None:
    path = folder / "program.json"
    path.write_text(path.read_text().replace("Help", "Hi"))


@pytest.mark.parametrize("damage", [edit_manifest, edit_program])
def test_what_was_changed_is_not_carried_to_where_it_looks_whole(
    tmp_path: Path, damage: Any
) -> None:
    damage(saved(tmp_path / "old").folder)

    with pytest.raises(IntegrityError, match="was changed"):
        migrate_artifact(tmp_path / "old", (OLD, NEW), tmp_path / "new")

    assert not (tmp_path / "new").exists()


def test_an_artifact_of_a_newer_format_is_not_carried(tmp_path: Path) -> None:
    manifest = saved(tmp_path / "old").manifest
    write_manifest(tmp_path / "old", {**manifest, "format": 2})

    with pytest.raises(InvalidInput, match="newer toolkit"):
        migrate_artifact(tmp_path / "old", (OLD, NEW), tmp_path / "new")


def test_what_is_no_artifact_of_the_old_version_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "old", replace(OLD, instructions="Else."))

    with pytest.raises(InvalidInput, match=r"is not the triage@1\.0\.0 named"):
        migrate_artifact(tmp_path / "old", (OLD, NEW), tmp_path / "new")
    with pytest.raises(NotFound, match="does not exist"):
        migrate_artifact(tmp_path / "absent", (OLD, NEW), tmp_path / "new")
    with pytest.raises(InvalidInput, match="already exists"):
        migrate_artifact(tmp_path / "old", (OLD, NEW), tmp_path / "old")
