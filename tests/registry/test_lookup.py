from __future__ import annotations

from pathlib import Path

import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput, NotFound
from dspy_toolkit.registry import (
    InvalidSignature,
    SignatureConflict,
    SignatureNotFound,
    chain,
    find,
    list_records,
    resolve,
)
from tests.registry.making import TRIAGE, write


def _version(version: str, instructions: str = "Route the ticket.") -> str:
    return TRIAGE.replace("1.0.0", version).replace("Route the ticket.", instructions)


def test_a_name_alone_means_its_highest_version(tmp_path: Path) -> None:
    for version in ("1.9.0", "1.10.0", "1.2.0"):
        write(tmp_path, _version(version), f"triage/{version}.toml")

    assert find("triage", [tmp_path]).version == "1.10.0"
    assert find("triage@1.2.0", [tmp_path]).version == "1.2.0"


def test_the_users_own_folder_is_searched(home: Path) -> None:
    path = write(home / "signatures")

    assert find("triage").source == path


def test_a_callers_settings_say_where_the_users_own_folder_is(tmp_path: Path) -> None:
    elsewhere = Settings(home=tmp_path / "elsewhere")
    for version, source in (("1.0.0", None), ("2.0.0", "1.0.0"), ("3.0.0", "2.0.0")):
        migration = f'[migration]\nfrom = "{source}"\n' if source else ""
        write(elsewhere.signatures, _version(version) + migration, f"triage/{version}.toml")

    found = find("triage", settings=elsewhere)

    assert found.source == elsewhere.signatures / "triage" / "3.0.0.toml"
    assert resolve("triage", settings=elsewhere) == found
    assert found in list_records(settings=elsewhere)
    assert len(chain(find("triage@1.0.0", settings=elsewhere), found, settings=elsewhere)) == 3
    with pytest.raises(SignatureNotFound):
        find("triage")


def test_a_given_folder_comes_before_the_users_own(tmp_path: Path, home: Path) -> None:
    write(home / "signatures")
    mine = write(tmp_path / "mine")

    assert find("triage", [tmp_path / "mine"]).source == mine


def test_the_highest_version_counts_wherever_it_lies(tmp_path: Path, home: Path) -> None:
    write(tmp_path / "mine")
    write(home / "signatures", _version("1.1.0"), "triage/1.1.0.toml")

    assert find("triage", [tmp_path / "mine"]).version == "1.1.0"


def test_the_same_version_with_other_content_is_an_error_that_names_both(
    tmp_path: Path, home: Path
) -> None:
    mine = write(tmp_path / "mine", _version("1.0.0", "Do something else."))
    theirs = write(home / "signatures")

    with pytest.raises(SignatureConflict) as caught:
        find("triage", [tmp_path / "mine"])
    with pytest.raises(SignatureConflict):
        list_records([tmp_path / "mine"])

    assert str(mine) in str(caught.value)
    assert str(theirs) in str(caught.value)


def test_the_same_content_in_two_places_is_no_conflict(tmp_path: Path, home: Path) -> None:
    write(tmp_path / "mine", "# spaced otherwise\n\n" + TRIAGE.replace(" = ", "="))
    write(home / "signatures")

    records = [each for each in list_records([tmp_path / "mine"]) if each.name == "triage"]

    assert [each.source for each in records] == [tmp_path / "mine" / "triage" / "1.0.0.toml"]


def test_a_broken_file_does_not_hide_the_others(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, "name =", "broken/1.0.0.toml")

    assert find("triage", [tmp_path]).name == "triage"
    with pytest.raises(InvalidSignature, match="broken"):
        list_records([tmp_path])


def test_a_task_folder_may_hold_other_files(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, "anything = 1", "data/settings.toml")
    write(tmp_path, "anything = 1", "task.toml")

    assert "triage" in [each.name for each in list_records([tmp_path])]


@pytest.mark.parametrize(
    ("reference", "error", "message"),
    [
        ("clasify", SignatureNotFound, "did you mean 'classify'?"),
        ("triage@1.0.1", SignatureNotFound, "did you mean '1.0.0'?"),
        ("triage@latest", InvalidInput, "write name, name@1.0.0 or module:Class"),
        ("Triage", InvalidInput, "no signature reference"),
        ("../triage", InvalidInput, "no signature reference"),
        ("", InvalidInput, "no signature reference"),
    ],
)
def test_a_wrong_reference_says_how_to_write_it(
    tmp_path: Path, reference: str, error: type[Exception], message: str
) -> None:
    write(tmp_path)

    with pytest.raises(error, match=message.replace("?", r"\?")):
        find(reference, [tmp_path])


def test_a_folder_that_does_not_exist_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"signature folder .* does not exist"):
        find("classify", [tmp_path / "absent"])
