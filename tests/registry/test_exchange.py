from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given

from dspy_toolkit.errors import InvalidInput, NotFound
from dspy_toolkit.registry import (
    InvalidSignature,
    SignatureConflict,
    SignatureRecord,
    check,
    class_source,
    export_json,
    find,
    load_file,
    read_foreign,
    reference_page,
    resolve,
    save,
    start,
    summary,
)
from dspy_toolkit.registry.build import build
from dspy_toolkit.registry.class_source import class_name
from tests.registry.making import TRIAGE, record, write
from tests.registry.strategies import few, records


@few
@given(records)
def test_json_says_all_that_the_record_says(made: SignatureRecord) -> None:
    exported = json.loads(json.dumps(export_json(made)))

    again, problems = build(exported["signature"])

    assert problems == []
    assert again == made
    assert again is not None
    assert again.digest == exported["digest"] == made.digest
    for schema in exported["json_schema"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_an_exported_record_is_imported_again(tmp_path: Path) -> None:
    made = find("classify")
    path = tmp_path / "classify.json"
    path.write_text(json.dumps(export_json(made)))
    (tmp_path / "alone.json").write_text(json.dumps(made.to_dict()))

    assert read_foreign(str(path)) == made
    assert read_foreign(str(tmp_path / "alone.json")) == made


def test_name_and_version_can_be_given_anew(tmp_path: Path) -> None:
    path = tmp_path / "classify.json"
    path.write_text(json.dumps(export_json(find("classify"))))

    assert read_foreign(str(path), "sort_mail", "3.0.0").reference == "sort_mail@3.0.0"


@pytest.mark.parametrize("name", ["triage", "a_b", "sort_2_mails"])
def test_an_exported_class_is_imported_with_its_name_and_version(tmp_path: Path, name: str) -> None:
    made = replace(record({"text": "str"}, {"team": "str"}, "2.3.0"), name=name)
    module = f"exported_{name}"
    (tmp_path / f"{module}.py").write_text(class_source(made))

    again = read_foreign(f"{module}:{class_name(made)}", folders=[tmp_path])

    assert again == made


def test_a_class_is_imported_as_version_one(tmp_path: Path) -> None:
    (tmp_path / "exchange_module.py").write_text(
        "import dspy\n\n\nclass SortMail(dspy.Signature):\n"
        '    """Sort it."""\n\n'
        "    mail: str = dspy.InputField()\n    folder: str = dspy.OutputField()\n"
    )

    made = read_foreign("exchange_module:SortMail", folders=[tmp_path])
    saved = save(made, tmp_path / "out")

    assert saved.reference == "sort_mail@1.0.0"
    assert saved.source == tmp_path / "out" / "sort_mail" / "1.0.0.toml"
    assert load_file(saved.source) == made


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "holds no signature"),
        ("{}", "name is missing"),
        ('{"name": "a\\ud800"}', "half a character"),
    ],
)
def test_json_that_is_no_signature_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)

    with pytest.raises(InvalidInput, match=message):
        read_foreign(str(path))


def test_a_missing_json_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        read_foreign(str(tmp_path / "x.json"))


def test_saving_never_overwrites_other_content(tmp_path: Path) -> None:
    one = record({"a": "str"}, {"b": "str"})
    path = save(one, tmp_path).source
    assert path is not None
    path.write_text("# mine\n" + path.read_text())

    save(one, tmp_path)
    with pytest.raises(SignatureConflict, match="what is to be written"):
        save(record({"a": "str"}, {"b": "int"}), tmp_path)

    assert path.read_text().startswith("# mine\n")


def test_a_new_file_passes_the_check_and_is_never_overwritten(tmp_path: Path) -> None:
    path = start("my_task", tmp_path)

    assert path == tmp_path / "my_task" / "1.0.0.toml"
    assert check(path) == []
    assert load_file(path).reference == "my_task@1.0.0"
    with pytest.raises(InvalidInput, match="already exists"):
        start("my_task", tmp_path)


@pytest.mark.parametrize(("name", "version"), [("My-Task", "1.0.0"), ("my_task", "1")])
def test_a_new_file_needs_a_usable_name_and_version(
    tmp_path: Path, name: str, version: str
) -> None:
    with pytest.raises(InvalidInput, match="not usable"):
        start(name, tmp_path, version)

    assert list(tmp_path.iterdir()) == []


def test_a_path_is_resolved_like_a_reference(tmp_path: Path) -> None:
    path = write(tmp_path, TRIAGE, "signature.toml")

    assert resolve(str(path)).source == path
    assert resolve("classify").name == "classify"
    with pytest.raises(InvalidSignature):
        resolve(str(write(tmp_path, "x = 1", "broken.toml")))


def test_the_reference_page_describes_every_part() -> None:
    made = record(
        {"text": {"type": "str", "description": "One | two.", "min_length": 1}},
        {"lines": "list[Line]"},
        "2.0.0",
        instructions="Read it. Then\nwrite.",
        objects={"Line": {"sku": {"type": "str", "pattern": "^[A-Z]"}}},
        examples=[{"inputs": {"text": "x"}, "outputs": {"lines": [{"sku": "A"}]}}],
        migration={"from": "1.0.0"},
    )

    page = reference_page([made])

    assert "- [triage@2.0.0](#triage200): Read it." in page
    assert "> Read it. Then\n> write." in page
    assert "| `text` | `str` | One \\| two. (length at least 1) |" in page
    assert "| Field of Line | Type | Meaning |" in page
    assert "matches `^[A-Z]`" in page
    assert "Values of 1.0.0 can be migrated" in page
    assert '"sku": "A"' in page
    assert made.digest in page


def test_a_summary_is_the_first_sentence() -> None:
    assert summary(record({"a": "str"}, {"b": "str"}, instructions="Do\nit. Well.")) == "Do it."
    assert summary(record({"a": "str"}, {"b": "str"}, instructions="Do it")) == "Do it"
