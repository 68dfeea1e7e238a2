from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.errors import IntegrityError, InvalidInput, NotFound, StorageError
from dspy_toolkit.store.files import (
    copy_files,
    copy_tree,
    new_folder,
    parse_json,
    read_json,
    read_text,
    refuse_existing,
    sha256_bytes,
    sha256_file,
    sha256_json,
    write_bytes,
    write_json,
    write_text,
)


def test_a_written_file_reads_back_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "report.json"

    write_json(target, {"score": 0.5, "name": "Zoë"})

    assert json.loads(target.read_text()) == {"score": 0.5, "name": "Zoë"}
    assert list(target.parent.iterdir()) == [target]


def test_a_failed_write_keeps_the_old_content_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "state"
    write_text(target, "old")

    def disk_full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(StorageError, match="no disk space left"):
        write_bytes(target, b"new")

    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_place_that_cannot_hold_files_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError, match="cannot be written"):
        write_text(tmp_path / "file" / "below", "text")


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "artifact"

    with pytest.raises(ZeroDivisionError), new_folder(target) as folder:
        (folder / "half").write_text(str(1 / 0))

    assert list(tmp_path.iterdir()) == []

    with new_folder(target) as folder:
        (folder / "whole").write_text("x")

    assert (target / "whole").read_text() == "x"


def test_a_folder_that_exists_is_never_replaced(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="already exists"), new_folder(tmp_path):
        pass


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        (None, NotFound, "task file .* does not exist"),
        (b"\xff\xfe", InvalidInput, "not UTF-8 text"),
    ],
)
def test_reading_what_is_not_there_or_not_text_is_one_line(
    tmp_path: Path, content: bytes | None, error: type[Exception], says: str
) -> None:
    file = tmp_path / "task.toml"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(error, match=says):
        read_text(file, "task file")


def test_damaged_json_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{\n"a": }')

    with pytest.raises(IntegrityError, match=r"report\.json is not JSON \(line 2.*damaged"):
        read_json(tmp_path / "report.json", "report")


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.booleans())))
def test_a_json_digest_does_not_depend_on_key_order(value: dict[str, object]) -> None:
    backwards = dict(reversed(value.items()))

    assert sha256_json(backwards) == sha256_json(value)


def test_a_file_digest_is_the_digest_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")

    assert sha256_file(tmp_path / "x") == sha256_bytes(b"abc")
    assert sha256_bytes(b"abc").startswith("ba7816bf8f01cfea")


def test_private_stays_private_and_a_rewritten_file_keeps_its_mode(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_text(tmp_path / "private", "x")
        with new_folder(tmp_path / "folder") as folder:
            (folder / "x").write_text("x")
    finally:
        os.umask(before)
    shared = tmp_path / "shared"
    write_text(shared, "old")
    shared.chmod(0o640)

    write_text(shared, "new")

    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o700
    assert shared.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("text", ["{", "[" * 100_000, ""])
def test_json_from_outside_that_cannot_be_read_is_one_line(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"data\.jsonl:3 is "):
        parse_json(text, "data.jsonl:3")


def test_a_number_too_long_for_python_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="holds a number of too many digits"):
        parse_json("9" * 5000, "data.jsonl:3")


def test_files_are_copied_to_the_same_places_and_refusals_name_the_file(tmp_path: Path) -> None:
    write_text(tmp_path / "from" / "lib" / "words.py", "WORD = 1\n")
    write_text(tmp_path / "full", "no folder")

    copy_files(["lib/words.py"], tmp_path / "from", tmp_path / "to")

    assert (tmp_path / "to" / "lib" / "words.py").read_text() == "WORD = 1\n"
    with pytest.raises(StorageError, match=r"full.lib.words\.py cannot be written"):
        copy_files(["lib/words.py"], tmp_path / "from", tmp_path / "full")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_a_folder_that_a_full_disk_does_not_take_is_one_line(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_text(tmp_path / "from" / name, "text")
    (tmp_path / "to").mkdir()
    for name in ("a", "b"):
        (tmp_path / "to" / name).symlink_to("/dev/full")

    with pytest.raises(StorageError, match=r"^no disk space left to write \S+/to/[ab]; free some"):
        copy_tree(tmp_path / "from", tmp_path / "to")


def test_even_a_link_to_nowhere_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "absent")

    refuse_existing(tmp_path / "absent")
    with pytest.raises(InvalidInput, match="already exists"):
        refuse_existing(tmp_path / "link")
