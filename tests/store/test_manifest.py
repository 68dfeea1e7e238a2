from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dspy_toolkit.errors import IntegrityError, NotFound
from dspy_toolkit.store.files import sha256_file
from dspy_toolkit.store.manifest import read_manifest, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "artifact"
    (place / "inner").mkdir(parents=True)
    (place / "program.json").write_text("{}")
    (place / "inner" / "manifest.json").write_text("inner")
    write_manifest(place, {"signature": "triage@1.0.0"})
    return place


def test_an_untouched_folder_gives_its_facts_back(folder: Path) -> None:
    manifest = read_manifest(folder, "artifact")

    assert manifest["signature"] == "triage@1.0.0"
    assert set(manifest["files"]) == {"program.json", "inner/manifest.json"}


def change(folder: Path) -> None:
    (folder / "program.json").write_text("{ }")


def change_inner_manifest(folder: Path) -> None:
    (folder / "inner" / "manifest.json").write_text("other")


def remove(folder: Path) -> None:
    (folder / "program.json").unlink()


def add(folder: Path) -> None:
    (folder / "extra.py").write_text("")


def break_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def edit_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace("triage@1.0.0", "triage@2.0.0"))


def edit_file_and_its_digest(folder: Path) -> None:
    change(folder)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["program.json"] = sha256_file(folder / "program.json")
    path.write_text(json.dumps(manifest))


def unseal(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["seal"]
    path.write_text(json.dumps(manifest))


def empty_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("[]")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (change, "program.json was changed"),
        (change_inner_manifest, r"inner/manifest.json was changed"),
        (remove, "lacks its file program.json"),
        (add, "does not name; remove it"),
        (edit_manifest, r"manifest\.json was changed"),
        (edit_file_and_its_digest, r"manifest\.json was changed"),
        (unseal, r"manifest\.json was changed"),
        (break_manifest, "is damaged"),
        (empty_manifest, "damaged manifest.json"),
    ],
)
def test_every_kind_of_tampering_is_seen(
    folder: Path, damage: Callable[[Path], None], says: str
) -> None:
    damage(folder)

    with pytest.raises(IntegrityError, match=says):
        read_manifest(folder, "artifact")


def test_a_folder_without_manifest_is_not_an_artifact(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="is no artifact"):
        read_manifest(tmp_path, "artifact")
    with pytest.raises(NotFound, match="does not exist"):
        read_manifest(tmp_path / "missing", "artifact")
