from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.errors import InvalidInput, NotFound, ToolkitError
from dspy_toolkit.registry import InvalidSignature, check, load_file
from dspy_toolkit.registry.reading import read_record
from tests.registry.making import TRIAGE, write
from tests.registry.strategies import many

HEAD = 'name = "a"\nversion = "1.0.0"\ninstructions = "x"\n'
NUMBER = '[inputs.text]\ntype = "str"\n[outputs.n]\ntype = "float"\n'
FIELDS = '[inputs.text]\ntype = "str"\n[outputs.made]\ntype = "str"\n'


def test_a_sound_file_has_no_defects_and_loads(tmp_path: Path) -> None:
    path = write(tmp_path)

    record = load_file(path)

    assert check(path) == []
    assert record.reference == "triage@1.0.0"
    assert record.source == path
    assert [field.name for field in record.outputs] == ["team", "lines"]
    assert record.objects[0].name == "Line"


def _replaced(old: str, new: str) -> str:
    assert TRIAGE.count(old) >= 1
    return TRIAGE.replace(old, new, 1)


@pytest.mark.parametrize(
    ("text", "line", "what", "fix"),
    [
        (_replaced("instructions =", "instuctions ="), 3, "unknown key 'instuctions'",
         "did you mean 'instructions'?"),
        (_replaced('version = "1.0.0"', 'version = "1.0"'), 2, "version '1.0' is not usable",
         "three numbers"),
        (_replaced('version = "1.0.0"', "version = 1.0"), 2, "version 1.0 is not usable",
         "three numbers"),
        (_replaced('name = "triage"', 'name = "Triage"'), 1, "name 'Triage' is not usable",
         "small letters"),
        (_replaced('name = "triage"', 'name = "other"'), 1, "does not match the folder's name",
         "write 'triage'"),
        (_replaced('version = "1.0.0"', 'version = "1.0.1"'), 2, "does not match the file's name",
         "write '1.0.0'"),
        (_replaced('"Route the ticket."', '" "'), 3, "instructions are missing", "say what"),
        (_replaced("description =", "decription ="), 7, "unknown key 'decription'",
         "did you mean 'description'?"),
        (_replaced('description = "The message."', "description = 3"), 7,
         "description must be a text", "quotes"),
        (_replaced('type = "str"', 'type = "strng"'), 6, "character 1: unknown type 'strng'",
         "did you mean 'str'?"),
        (_replaced('type = "str"\n', ""), 5, "field 'ticket' has no type", "add type"),
        (_replaced("Literal['red', 'blue']", "Literal[]"), 10, "cannot be read", "brackets"),
        (_replaced("[outputs.team]", "[outputs.ticket]"), 9, "is an input and an output",
         "rename one"),
        (_replaced("list[Line]", "list[Lin]"), 13, "object 'Lin' is not declared",
         "did you mean 'Line'?"),
        (_replaced('[objects.Line.sku]\ntype = "str"', '[objects.Line.sku]\ntype = "Line"'), 15,
         "object 'Line' contains itself (Line > Line)", "plain type"),
        (_replaced("[inputs.ticket]", "[inputs.inputs]"), 5, "'inputs' is reserved",
         "'inputs_text'"),
        (_replaced("[inputs.ticket]", "[inputs.class]"), 5, "'class' is reserved", "rename"),
        (_replaced("[inputs.ticket]", '[inputs."my ticket"]'), 5, "is not usable", "underscores"),
        (_replaced("[objects.Line.sku]", "[objects.Line.json]"), 15, "'json' is reserved",
         "rename"),
        (_replaced("[objects.Line.sku]", "[objects.line.sku]"), 15, "object name 'line'",
         "a capital first"),
        (_replaced("[objects.Line.sku]", "[objects.Image.sku]"), 15, "is the name of a type",
         "another name"),
        (_replaced('ticket = "Help"', 'tiket = "Help"'), 19, "'tiket' is not in the signature",
         "did you mean 'ticket'?"),
        (_replaced('ticket = "Help"', ""), 19, "example 1: field 'ticket' is missing",
         "expected str"),
        (_replaced('team = "red"', 'team = "green"'), 20,
         "example 1: field 'team' is 'green'", "'red' or 'blue'"),
        (_replaced('sku = "a"', "sku = 1"), 20, "field 'lines[0].sku' is 1", "valid string"),
        (_replaced('inputs = { ticket = "Help" }\n', ""), 18, "the example has no inputs",
         "add inputs"),
        (_replaced("inputs = { ticket", "input = { ticket"), 19, "unknown key 'input'",
         "did you mean 'inputs'?"),
        (f"{HEAD}examples = 3\n{FIELDS}", 4, "examples must be a list", "[[examples]]"),
        (f"{HEAD}[inputs.text]\ntype = 'str'\n", 1, "there are no outputs", "add [outputs.NAME]"),
        (f"{HEAD}outputs = 3\n[inputs.text]\ntype = 'str'\n", 4, "outputs must be a table",
         "docs/signatures.md"),
        (f'{HEAD}outputs.made = "str"\n[inputs.text]\ntype = "str"\n', 4, "field 'made' is a text",
         "made = { type = 'str' }"),
        (f"{HEAD}{FIELDS}[objects.Empty]\n", 8, "object 'Empty' has no fields", "add one"),
        (f"{HEAD}{FIELDS}minimum = 1\n", 8, "minimum does not fit str", "for int or float"),
        (f"{HEAD}{FIELDS}min_length = -1\n", 8, "from 0 on, got -1", "10"),
        (f"{HEAD}{FIELDS}min_length = 5\nmax_length = 2\n", 8, "min_length 5 is above max_length 2",
         "swap"),
        (f"{HEAD}{FIELDS}pattern = '['\n", 8, "no usable regular expression", "unclosed"),
        (f"{HEAD}{FIELDS}pattern = '(?<=a)b'\n", 8, "no usable regular", "look-around"),
        (f"{HEAD}{FIELDS}pattern = 3\n", 8, "pattern must be a text", "quotes"),
        (f'{HEAD}[inputs.text]\ntype = "str"\n[outputs.n]\ntype = "int"\nminimum = 0.5\n', 8,
         "minimum of an int must be whole", "write 0"),
        (f'{HEAD}{NUMBER}maximum = inf\n', 8,
         "maximum must be a number, got inf", "0"),
        (f'{HEAD}{NUMBER}minimum = inf\nmaximum = 1\n', 8,
         "minimum must be a number, got inf", "0"),
        (f'{HEAD}{NUMBER}maximum = {10**400}\n', 8,
         "maximum must be a number, got 1000", "0"),
        (f'{HEAD}{NUMBER}maximum = nan\n', 8,
         "maximum must be a number, got nan", "0"),
        (f'{HEAD}[inputs.text]\ntype = "str"\n[outputs.pic]\ntype = "Image"\n', 7,
         "Image works as an input only", "use `str`"),
        (f'{HEAD}[inputs.text]\ntype = "Noul"\n[outputs.made]\ntype = "str"\n', 5,
         "Noul works as the type of an output only", "`Literal` or `bool`"),
        (f'{HEAD}[inputs.text]\ntype = "list[str | None]"\n[outputs.made]\ntype = "str"\n', 5,
         "only a whole field can be optional", "drop the inner"),
        (f"{HEAD}{FIELDS}[migration]\nrenames = {{ a = 'b' }}\n", 8, "from which version",
         "add from"),
        (f"{HEAD}{FIELDS}[migration]\nfrom = '2.0'\n", 9, "from '2.0' is no version",
         "three numbers"),
        (f"{HEAD}{FIELDS}[migration]\nfrom = '1.0.0'\n", 9, "1.0.0 is not before 1.0.0",
         "earlier version"),
        (f"{HEAD}{FIELDS}[migration]\nfrom = '0.9.0'\nrenames = {{ old = 'mad' }}\n", 10,
         "'mad' is no field of this version", "did you mean 'made'?"),
        (f"{HEAD}{FIELDS}[migration]\nfrom = '0.9.0'\nrenames = {{ made = 'text' }}\n", 10,
         "'made' still is a field", "remove the rename"),
        (f"{HEAD}{FIELDS}[migration]\nfrom = '0.9.0'\ndefaults = {{ made = 3 }}\n", 10,
         "field 'made' is 3", "expected str"),
        (f"{HEAD}{FIELDS}[migration]\nfrom = '0.9.0'\nfrm = 1\n", 10, "unknown key 'frm'",
         "did you mean 'from'?"),
        ('name = "a"\nversion = \n', 2, "no valid TOML: Invalid value", "correct this line"),
        ('name = "a"\nname = "b"\n', 2, "no valid TOML: Cannot overwrite", "correct this line"),
        ('name = "a"\n[inputs.a]\ntype = "str"\n[inputs.a]\n', 4, "no valid TOML",
         "correct this line"),
        ("a = " + "[" * 5000, 1, "nested too deeply", "flatter"),
    ],
)  # fmt: skip
def test_a_defect_names_its_line_and_the_way_out(
    tmp_path: Path, text: str, line: int, what: str, fix: str
) -> None:
    place = "triage/1.0.0.toml" if "ticket" in text else "signature.toml"
    path = write(tmp_path, text, place)

    defects = [each for each in check(path) if what in each.what]

    assert [(each.line, fix in each.fix) for each in defects] == [(line, True)]
    assert str(defects[0]).startswith(f"{path}:{line}: ")


def test_every_defect_is_found_at_once(tmp_path: Path) -> None:
    text = TRIAGE.replace('"str"', '"string"', 1).replace("'blue'", "blue").replace(
        '"Route the ticket."', '"""\n\n"""'
    )  # fmt: skip
    path = write(tmp_path, text + '[[examples]]\ninputs = {}\noutputs = { lines = "x" }\n')

    found = [(each.line, each.what) for each in check(path)]

    assert found == [
        (3, "instructions are missing"),
        (8, "type 'string', character 1: unknown type 'string'"),
        (12, "type \"Literal['red', blue]\", character 16: option blue lacks quotes"),
        (25, "example 2: field 'lines' is 'x'"),
    ]


def test_a_wrong_example_of_a_field_with_another_defect_is_found_too(tmp_path: Path) -> None:
    text = _replaced('description = "The message."', "max_length = 'ten'")
    path = write(tmp_path, text.replace('ticket = "Help"', "ticket = 5"))

    found = [(each.line, each.what) for each in check(path)]

    assert found == [
        (7, "max_length must be a whole number from 0 on, got 'ten'"),
        (19, "example 1: field 'ticket' is 5"),
    ]


def test_an_unknown_field_of_an_example_is_compared_with_fields_that_have_defects(
    tmp_path: Path,
) -> None:
    text = _replaced('type = "str"', 'type = "strng"').replace("{ ticket =", "{ foo = 1, ticket =")

    defects = [each for each in check(write(tmp_path, text)) if "'foo'" in each.what]

    assert [each.fix for each in defects] == ["known: ticket"]


def test_a_longer_chain_of_objects_that_contains_itself_is_shown(tmp_path: Path) -> None:
    more = '[objects.Line.box]\ntype = "list[Box] | None"\n[objects.Box.line]\ntype = "Line"\n'
    path = write(tmp_path, TRIAGE.replace("[[examples]]", f"{more}[[examples]]"))

    found = [each.what for each in check(path)]

    assert found == [
        "object 'Line' contains itself (Line > Box > Line)",
        "object 'Box' contains itself (Box > Line > Box)",
    ]


def test_loading_reports_the_first_defect_and_how_many_more(tmp_path: Path) -> None:
    path = write(tmp_path, TRIAGE.replace('"str"', '"string"'))

    with pytest.raises(InvalidSignature) as caught:
        load_file(path)

    assert str(caught.value).startswith(f"{path}:6: type 'string'")
    assert "1 more: run `dspy-tk signatures check" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 4


def test_a_folder_is_checked_with_all_its_files(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, TRIAGE, "triage/2.0.0.toml")
    write(tmp_path, TRIAGE, "triage/latest.toml")

    found = {(each.path.name, each.what) for each in check(tmp_path)}

    assert found == {
        ("2.0.0.toml", "version '1.0.0' does not match the file's name"),
        ("latest.toml", "file name 'latest' is no version"),
    }


def test_a_file_of_another_name_may_hold_any_signature(tmp_path: Path) -> None:
    path = write(tmp_path, TRIAGE, "task/signature.toml")

    assert load_file(path).reference == "triage@1.0.0"


def test_a_missing_file_and_a_file_that_is_no_text_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "1.0.0.toml"
    with pytest.raises(NotFound, match="does not exist"):
        load_file(path)
    path.write_bytes(b"\xff\xfe")

    with pytest.raises(InvalidInput, match="not UTF-8"):
        check(path)


@many
@given(
    st.integers(0, len(TRIAGE)),
    st.integers(0, 12),
    st.sampled_from(["", '"', "'", "[", "]", "=", "\n", "{", "}", "#", ".", "str", "\\", '"""']),
)
def test_a_damaged_file_gives_defects_inside_the_file_and_never_a_crash(
    start: int, length: int, inserted: str
) -> None:
    text = TRIAGE[:start] + inserted + TRIAGE[start + length :]
    path = Path("triage/1.0.0.toml")
    defects: tuple[int, ...] = ()
    try:
        read_record(text, path)
        tomllib.loads(text)
    except InvalidSignature as error:
        defects = tuple(each.line for each in error.defects)
    except ToolkitError as error:
        pytest.fail(f"not a defect: {error}")

    assert all(1 <= line <= text.count("\n") + 1 for line in defects)
