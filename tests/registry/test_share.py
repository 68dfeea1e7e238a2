from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.errors import IntegrityError, InvalidInput, NotFound, StorageError
from dspy_toolkit.registry import SignatureConflict, find, install, list_records, load_file, pack
from dspy_toolkit.registry.share import MANIFEST, MAX_FILE_BYTES
from dspy_toolkit.store.files import sha256_bytes
from tests.registry.making import TRIAGE, write

OTHER = TRIAGE.replace('"triage"', '"route"').replace("1.0.0", "2.1.0")
NAME = "triage/1.0.0.toml"


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    one = load_file(write(tmp_path / "source", "# a comment\n" + TRIAGE))
    two = load_file(write(tmp_path / "source", OTHER, "route/2.1.0.toml"))
    pack([one, two], tmp_path / "team.zip")
    return tmp_path / "team.zip"


def test_a_pack_is_installed_and_found(packed: Path, home: Path) -> None:
    installed = install(packed, home / "signatures")

    assert [(each.record.reference, each.new) for each in installed] == [
        ("triage@1.0.0", True),
        ("route@2.1.0", True),
    ]
    assert find("triage").digest == installed[0].record.digest
    assert (home / "signatures" / NAME).read_text().startswith("# a comment")


def test_installing_twice_changes_nothing(packed: Path, home: Path) -> None:
    install(packed, home / "signatures")
    before = (home / "signatures" / NAME).stat().st_mtime_ns

    again = install(packed, home / "signatures")

    assert [each.new for each in again] == [False, False]
    assert (home / "signatures" / NAME).stat().st_mtime_ns == before


def test_what_home_holds_is_installed_into_another_folder_too(
    packed: Path, tmp_path: Path, home: Path
) -> None:
    install(packed, home / "signatures")

    installed = install(packed, tmp_path / "elsewhere")

    assert [each.new for each in installed] == [True, True]
    assert (tmp_path / "elsewhere" / NAME).read_bytes() == (home / "signatures" / NAME).read_bytes()


def test_a_pack_is_installed_into_the_home_of_the_callers_settings(
    packed: Path, tmp_path: Path, home: Path
) -> None:
    write(home / "signatures", TRIAGE.replace("Route the ticket.", "Something else."))
    elsewhere = Settings(home=tmp_path / "elsewhere")

    installed = install(packed, elsewhere.signatures, settings=elsewhere)

    assert all(each.new for each in installed)


def test_the_same_records_make_the_same_bytes(packed: Path, tmp_path: Path) -> None:
    records = [load_file(tmp_path / "source" / name) for name in (NAME, "route/2.1.0.toml")]

    pack(records, tmp_path / "again.zip")

    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()


def test_other_content_of_the_same_version_refuses_the_whole_pack(packed: Path, home: Path) -> None:
    changed = OTHER.replace("Route the ticket.", "Something else.")
    mine = write(home / "signatures", changed, "route/2.1.0.toml")

    with pytest.raises(SignatureConflict, match="twice with different content"):
        install(packed, home / "signatures")

    assert mine.read_text() == changed
    assert not (home / "signatures" / "triage").exists()


def test_a_shipped_signature_cannot_be_replaced(tmp_path: Path, home: Path) -> None:
    text = TRIAGE.replace('"triage"', '"classify"')
    pack([load_file(write(tmp_path, text, "classify/1.0.0.toml"))], tmp_path / "x.zip")

    with pytest.raises(SignatureConflict):
        install(tmp_path / "x.zip", home / "signatures")

    assert not (home / "signatures").exists()


def test_all_shipped_signatures_pack_and_install_as_known(tmp_path: Path, home: Path) -> None:
    pack(list_records(), tmp_path / "all.zip")

    installed = install(tmp_path / "all.zip", home / "signatures")

    assert not any(each.new for each in installed)


def test_a_write_that_fails_leaves_nothing_behind(packed: Path, home: Path) -> None:
    (home / "signatures").mkdir(parents=True)
    (home / "signatures" / "route").write_text("in the way")

    with pytest.raises(StorageError):
        install(packed, home / "signatures")

    assert not (home / "signatures" / "triage").exists()


Files = dict[str, bytes]


def _again(source: Path, target: Path, change: Callable[[Files], None]) -> Path:
    """The same pack with other files in it, the manifest as it was."""
    with zipfile.ZipFile(source) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return target


def _listed(files: Files, name: str, content: bytes) -> None:
    """Put in a file that the manifest names with its right digest."""
    files[name] = content
    manifest = json.loads(files[MANIFEST])
    manifest["signatures"].append({"file": name, "sha256": sha256_bytes(content)})
    files[MANIFEST] = json.dumps(manifest).encode()


def _many(files: Files, count: int, content: bytes) -> None:
    files.update({f"b/{number}.0.0.toml": content for number in range(count)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files.update({NAME: files[NAME] + b"#"}), "was changed"),
        (lambda files: files.pop(NAME), f"lacks {NAME}"),
        (lambda files: files.pop(MANIFEST), "no valid manifest"),
        (lambda files: files.update({MANIFEST: b"{}"}), "no valid manifest"),
        (lambda files: files.update({"extra/1.0.0.toml": b"x"}), "unnamed in its manifest"),
        (lambda files: _listed(files, "../evil/1.0.0.toml", b"x"), "no signature file"),
        (lambda files: _listed(files, "/etc/1.0.0.toml", b"x"), "no signature file"),
        (lambda files: _listed(files, "a/b/1.0.0.toml", b"x"), "no signature file"),
        (lambda files: _listed(files, "a/../1.0.0.toml", b"x"), "no signature file"),
        (lambda files: _listed(files, "a\\1.0.0.toml", b"x"), "no signature file"),
        (lambda files: _listed(files, "C:/1.0.0.toml", b"x"), "no signature file"),
        (lambda files: _listed(files, "triage/run.py", b"x"), "no signature file"),
        (lambda files: _listed(files, "triage/", b""), "no signature file"),
        (lambda files: _listed(files, "bad/1.0.0.toml", b"name ="), "invalid signature"),
        (lambda files: _listed(files, "bad/1.0.0.toml", TRIAGE.encode()), "invalid signature"),
        (lambda files: _listed(files, "bad/1.0.0.toml", b"\xff"), "not UTF-8"),
        (lambda files: _listed(files, "big/1.0.0.toml", b" " * (MAX_FILE_BYTES + 1)), "too large"),
        (lambda files: _many(files, 21, b" " * MAX_FILE_BYTES), "too large"),
        (lambda files: _many(files, 1001, b""), "more than 1000"),
    ],
)  # fmt: skip
def test_a_pack_that_was_tampered_with_installs_nothing(
    packed: Path, home: Path, tmp_path: Path, change: Callable[[Files], None], message: str
) -> None:
    bad = _again(packed, tmp_path / "bad.zip", change)

    with pytest.raises(IntegrityError) as caught:
        install(bad, home / "signatures")

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (home / "signatures").exists()


def test_links_and_doubled_names_are_refused(packed: Path, home: Path, tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link/1.0.0.toml")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with zipfile.ZipFile(tmp_path / "double.zip", "w") as archive:
        archive.writestr(NAME, TRIAGE)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(NAME, OTHER)

    for name in ("link.zip", "double.zip"):
        with pytest.raises(IntegrityError, match="no signature file"):
            install(tmp_path / name, home / "signatures")


@pytest.mark.parametrize("cut", [0, 1, 30, 400, -30])
def test_a_torn_pack_is_said_to_be_damaged(packed: Path, home: Path, cut: int) -> None:
    packed.write_bytes(packed.read_bytes()[:cut])

    with pytest.raises(IntegrityError, match="damaged"):
        install(packed, home / "signatures")


def test_a_newer_format_and_a_missing_file_are_said(packed: Path, home: Path) -> None:
    def newer(files: Files) -> None:
        manifest = json.loads(files[MANIFEST])
        files[MANIFEST] = json.dumps({**manifest, "format": 2}).encode()

    future = _again(packed, packed.with_name("future.zip"), newer)

    with pytest.raises(InvalidInput, match="format 2; update"):
        install(future, home / "signatures")
    with pytest.raises(NotFound, match="does not exist"):
        install(packed.with_name("absent.zip"), home / "signatures")


def test_packing_refuses_nothing_doubles_and_existing_files(tmp_path: Path, packed: Path) -> None:
    one = find("classify")

    with pytest.raises(InvalidInput, match="nothing to pack"):
        pack([], tmp_path / "x.zip")
    with pytest.raises(InvalidInput, match="named twice"):
        pack([one, one], tmp_path / "x.zip")
    with pytest.raises(InvalidInput, match="already exists"):
        pack([one], packed)
