"""What comes in from elsewhere is unpacked with suspicion."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.deployment import Bundle, Deployments, export_bundle, import_bundle
from dspy_toolkit.deployment.archive import MOST_FILES
from dspy_toolkit.errors import IntegrityError, InvalidInput, NotFound


@pytest.fixture
def exported(bundle: Bundle, tmp_path: Path) -> Path:
    return export_bundle(bundle, tmp_path)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Deployments:
    return Deployments(Settings(home=tmp_path / "elsewhere"))


def entry(name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE) -> tuple[object, ...]:
    made = tarfile.TarInfo(name)
    made.type = kind
    made.size = len(content) if kind == tarfile.REGTYPE else 0
    made.linkname = "/etc/passwd"
    return made, io.BytesIO(content) if made.size else None


def archive(file: Path, *entries: tuple[object, ...]) -> Path:
    with tarfile.open(file, "w:gz") as made:
        for info, content in entries:
            assert isinstance(info, tarfile.TarInfo)
            assert content is None or isinstance(content, io.BytesIO)
            made.addfile(info, content)
    return file


def everything(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.name != ".lock"}


def test_a_version_arrives_whole_and_is_the_candidate(
    exported: Path, deployments: Deployments, elsewhere: Deployments
) -> None:
    arrived = import_bundle(exported, elsewhere)
    sent = deployments.find("triage").bundle("candidate")

    assert arrived.manifest == sent.manifest
    assert elsewhere.find("triage").resolve("candidate") == arrived.version
    assert {p.name for p in elsewhere.folder.iterdir()} == {"triage"}


def test_it_may_go_to_another_name_and_comes_only_once(
    exported: Path, elsewhere: Deployments
) -> None:
    assert import_bundle(exported, elsewhere, "other").name == "other"
    with pytest.raises(InvalidInput, match="already"):
        import_bundle(exported, elsewhere, "other")


@pytest.mark.parametrize(
    "bad",
    [
        entry("../outside"),
        entry("a/../../outside"),
        entry("/tmp/outside"),
        entry("a\\..\\outside"),
        entry("C:/outside"),
        entry(".hidden"),
        entry("a/.git/config"),
        entry("x" * 600),
        entry("link", kind=tarfile.SYMTYPE),
        entry("hard", kind=tarfile.LNKTYPE),
        entry("fifo", kind=tarfile.FIFOTYPE),
        entry("device", kind=tarfile.CHRTYPE),
    ],
    ids=range(12),
)
def test_what_leads_elsewhere_is_refused_and_nothing_stays(
    bad: tuple[object, ...], elsewhere: Deployments, tmp_path: Path
) -> None:
    file = archive(tmp_path / "bad.tar.gz", entry("manifest.json", b"{}"), bad)
    before = everything(tmp_path)
    with pytest.raises(InvalidInput, match="no bundle"):
        import_bundle(file, elsewhere)

    assert everything(tmp_path) - before <= {tmp_path / "elsewhere", elsewhere.folder}


def test_a_bomb_is_stopped_while_it_unpacks(elsewhere: Deployments, tmp_path: Path) -> None:
    file = archive(tmp_path / "bomb.tar.gz", entry("zeros", b"\0" * 50_000_000))

    assert file.stat().st_size < 100_000
    with pytest.raises(InvalidInput, match="--most-gib"):
        import_bundle(file, elsewhere, most_bytes=1_000_000)


def test_too_many_files_are_refused(elsewhere: Deployments, tmp_path: Path) -> None:
    entries = (entry(f"f{n}", b"") for n in range(MOST_FILES + 1))
    file = archive(tmp_path / "many.tar.gz", *(entry("x", b"x"), *entries))

    with pytest.raises(InvalidInput, match="over"):
        import_bundle(file, elsewhere)


@pytest.mark.parametrize("keep", [0, 1, 20, 500])
def test_a_file_that_was_cut_is_no_bundle(
    exported: Path, elsewhere: Deployments, tmp_path: Path, keep: int
) -> None:
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(exported.read_bytes()[:keep])

    with pytest.raises((InvalidInput, NotFound, IntegrityError)):
        import_bundle(cut, elsewhere)
    assert elsewhere.names == ()


def test_a_changed_file_inside_is_found(
    exported: Path, elsewhere: Deployments, tmp_path: Path
) -> None:
    changed = gzip.decompress(exported.read_bytes()).replace(b"message 1", b"massage 1")
    file = tmp_path / "changed.tar.gz"
    file.write_bytes(gzip.compress(changed))

    with pytest.raises(IntegrityError):
        import_bundle(file, elsewhere)
    assert elsewhere.names == ()


@pytest.mark.parametrize(
    ("to", "lies"),
    [("new/deep", "new/deep/{}"), ("one.tar.gz", "one.tar.gz"), ("new/one.tgz", "new/one.tgz")],
)
def test_an_export_goes_into_a_folder_or_to_the_name_of_an_archive(
    bundle: Bundle, tmp_path: Path, to: str, lies: str
) -> None:
    file = export_bundle(bundle, tmp_path / to)

    assert file == tmp_path / lies.format(f"{bundle.name}-{bundle.version}.tar.gz")
    assert file.read_bytes()[:2] == b"\x1f\x8b"


def test_an_export_to_a_file_that_is_no_archive_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")

    with pytest.raises(InvalidInput, match="is a file; give a folder"):
        export_bundle(bundle, tmp_path / "notes")


def test_an_export_never_overwrites(exported: Path, bundle: Bundle) -> None:
    with pytest.raises(InvalidInput, match="exists"):
        export_bundle(bundle, exported)
