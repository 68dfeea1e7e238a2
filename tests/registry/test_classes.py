from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import dspy
import pytest
from hypothesis import given

from dspy_toolkit.errors import InvalidInput, NotFound
from dspy_toolkit.registry import SignatureRecord, class_source, diff, find
from dspy_toolkit.registry.class_source import class_name
from dspy_toolkit.registry.classes import from_class
from tests.registry.making import record
from tests.registry.strategies import few, records

MODULE = '''\
from typing import Annotated, Literal, Optional

import dspy
from dspy.adapters.types.decision import Choice, Noul, Score
from pydantic import BaseModel, Field


class Line(BaseModel):
    sku: str
    quantity: int = Field(ge=1, description="How many.")
    note: str | None = None


class OrderMail(dspy.Signature):
    """Read the order.

    Copy names exactly.
    """

    text: str = dspy.InputField(desc="The mail.", min_length=3)
    picture: dspy.Image = dspy.InputField()
    lines: list[Line] = dspy.OutputField()
    total: Optional[Annotated[float, Field(ge=0)]] = dspy.OutputField(desc="The sum.")
    team: Literal["a", "b", None] = dspy.OutputField()
    urgent: Noul = dspy.OutputField()
    kind: Choice[("a", "x"), ("b", "y")] = dspy.OutputField()
    fit: Score["poor", "good"] = dspy.OutputField()
    query: dspy.Code["sql"] = dspy.OutputField()


class Short(dspy.Signature):
    question = dspy.InputField()
    answer = dspy.OutputField()


class SetType(dspy.Signature):
    text: str = dspy.InputField()
    tags: set[str] = dspy.OutputField()


class Defaulted(dspy.Signature):
    text: str = dspy.InputField(default="x")
    answer: str = dspy.OutputField()


class Between(dspy.Signature):
    text: str = dspy.InputField()
    share: float = dspy.OutputField(gt=0)


class Deep(BaseModel):
    inner: dict[int, str]


class Nested(dspy.Signature):
    text: str = dspy.InputField()
    deep: list[Deep] = dspy.OutputField()


class ReservedName(dspy.Signature):
    items: str = dspy.InputField()
    answer: str = dspy.OutputField()


class Plain:
    pass
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mail_signatures.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "failing_module.py").write_text("raise KeyError('no\\nsecret')\n")
    (tmp_path / "needy_module.py").write_text("import absent_package_x\n")
    return tmp_path


def test_a_class_becomes_a_record(folder: Path) -> None:
    made = find("mail_signatures:OrderMail", [folder])

    assert made.reference == "order_mail@0.0.0"
    assert made.instructions == "Read the order.\n\nCopy names exactly."
    assert made.to_dict()["inputs"] == {
        "text": {"type": "str", "description": "The mail.", "min_length": 3},
        "picture": {"type": "Image"},
    }
    assert made.to_dict()["outputs"] == {
        "lines": {"type": "list[Line]"},
        "total": {"type": "float | None", "description": "The sum.", "minimum": 0},
        "team": {"type": "Literal['a', 'b'] | None"},
        "urgent": {"type": "Noul"},
        "kind": {"type": "Choice[('a', 'x'), ('b', 'y')]"},
        "fit": {"type": "Score['poor', 'good']"},
        "query": {"type": "Code['sql']"},
    }
    assert made.to_dict()["objects"] == {
        "Line": {
            "sku": {"type": "str"},
            "quantity": {"type": "int", "description": "How many.", "minimum": 1},
            "note": {"type": "str | None"},
        }
    }


def test_a_class_without_types_and_instructions_has_those_of_dspy(folder: Path) -> None:
    made = find("mail_signatures:Short", [folder])

    assert made.inputs[0].type == "str"
    assert made.instructions == "Given the fields `question`, produce the fields `answer`."


def test_importing_leaves_the_modules_and_their_path_as_they_were(folder: Path) -> None:
    before = list(sys.path)

    find("mail_signatures:Short", [folder])

    assert sys.path == before
    assert "mail_signatures" not in sys.modules
    assert not list(folder.rglob("__pycache__"))


SORT = """\
import dspy
from {package}.words import TYPE
class Sort(dspy.Signature):
    mail: str = dspy.InputField()
    box: TYPE = dspy.OutputField()
"""


def _sorting(folder: Path, kind: str) -> Path:
    package = folder / "sorting"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "words.py").write_text(f"TYPE = {kind}\n")
    (package / "signatures.py").write_text(SORT.format(package="sorting"))
    return folder


def test_classes_of_one_name_in_two_folders_do_not_meet(tmp_path: Path) -> None:
    folders = [_sorting(tmp_path / kind, kind) for kind in ("int", "bool")]

    found = [find("sorting.signatures:Sort", [folder]) for folder in folders]

    assert [each.outputs[0].type for each in found] == ["int", "bool"]


def test_a_class_is_read_anew_when_a_module_that_it_imports_has_changed(tmp_path: Path) -> None:
    folder = _sorting(tmp_path, "int")
    find("sorting.signatures:Sort", [folder])
    (folder / "sorting" / "words.py").write_text("TYPE = float\n")

    assert find("sorting.signatures:Sort", [folder]).outputs[0].type == "float"


def test_the_working_folder_is_looked_in_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(_sorting(tmp_path / "here", "int"))
    given = _sorting(tmp_path / "given", "bool")

    assert find("sorting.signatures:Sort").outputs[0].type == "int"
    assert find("sorting.signatures:Sort", [given]).outputs[0].type == "bool"


def test_a_given_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"signature folder .*absent does not exist"):
        find("mail_signatures:Short", [tmp_path / "absent"])


@pytest.mark.parametrize(
    ("reference", "error", "message"),
    [
        ("mail_signatures:SetType", InvalidInput, "field 'tags': type set[str] cannot"),
        ("mail_signatures:Defaulted", InvalidInput, "field 'text': it has a default"),
        ("mail_signatures:Between", InvalidInput, "field 'share': constraint gt=0 cannot"),
        ("mail_signatures:Nested", InvalidInput, "field 'Deep.inner': type dict[int, str]"),
        ("mail_signatures:ReservedName", InvalidInput, "inputs.items: field name 'items'"),
        ("mail_signatures:Plain", InvalidInput, "is no DSPy signature"),
        ("mail_signatures:OrderMial", NotFound, "did you mean 'OrderMail'?"),
        ("absent_module_x:Order", NotFound, "module 'absent_module_x' of signature"),
        ("failing_module:Order", InvalidInput, "KeyError: "),
        ("needy_module:Order", InvalidInput, "No module named 'absent_package_x'"),
    ],
)
def test_what_cannot_be_a_record_says_which_field_and_why(
    folder: Path, reference: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        find(reference, [folder])

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def _run(source: str, name: str) -> type[dspy.Signature]:
    scope: dict[str, type[dspy.Signature]] = {}
    exec(compile(source, "exported.py", "exec", dont_inherit=True), scope)
    return scope[name]


@few
@given(records)
def test_the_exported_class_is_the_same_signature(made: SignatureRecord) -> None:
    cls = _run(class_source(made), class_name(made))

    again = from_class(cls, "exported:Class")

    # Python keeps neither the order of a union nor, inside one, that of a Literal.
    changes = diff(replace(made, examples=()), again).changes
    assert [each for each in changes if "written differently" not in each.what] == []


def test_the_exported_class_reads_well() -> None:
    made = record(
        {"text": {"type": "str", "description": "The mail.", "min_length": 1}},
        {"lines": "list[Line] | None", "urgent": "Noul"},
        instructions="Read the mail.\nCopy names.",
        objects={
            "Line": {"part": {"type": "Part"}, "note": {"type": "str | None"}},
            "Part": {"kind": {"type": "Literal['a', 'b']"}},
        },
    )

    assert (
        class_source(made)
        == '''\
"""triage@1.0.0, exported from a signature file."""

from typing import Literal

import dspy
import pydantic
from dspy.adapters.types.decision import Noul


class Part(pydantic.BaseModel):
    kind: Literal['a', 'b'] = pydantic.Field()


class Line(pydantic.BaseModel):
    part: Part = pydantic.Field()
    note: str | None = pydantic.Field(default=None)


class Triage(dspy.Signature):
    """Read the mail.
    Copy names.
    """

    text: str = dspy.InputField(desc='The mail.', min_length=1)
    lines: list[Line] | None = dspy.OutputField()
    urgent: Noul = dspy.OutputField()
'''
    )
