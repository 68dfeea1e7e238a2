from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dspy_toolkit.cli.signatures import app
from dspy_toolkit.errors import InvalidInput, NotFound, ToolkitError
from dspy_toolkit.registry import check, load_file

V1 = """\
name = "triage"
version = "1.0.0"
instructions = "Route the ticket. Be quick."
[inputs.ticket]
type = "str"
description = "The message."
[outputs.team]
type = "Literal['red', 'blue']"
[outputs.line]
type = "Line | None"
[objects.Line.sku]
type = "str"
[[examples]]
inputs = { ticket = "[bold]Help[/bold]" }
outputs = { team = "red" }
"""
V2 = (
    V1.replace("1.0.0", "2.0.0").replace("'blue'", "'green'")
    + '[migration]\nfrom = "1.0.0"\nvalues = { team = { blue = "green" } }\n'
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DSPY_TK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "home"


@pytest.fixture
def folder(tmp_path: Path, home: Path) -> Path:
    for version, text in {"1.0.0": V1, "2.0.0": V2}.items():
        path = tmp_path / "mine" / "triage" / f"{version}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "mine"


def run(*arguments: object) -> Result:
    """Run a command; what it raises is raised here too."""
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    if isinstance(result.exception, ToolkitError):
        raise result.exception
    return result


def test_list_shows_the_shipped_and_the_given_ones(folder: Path) -> None:
    result = run("list", "--folder", folder)

    assert result.exit_code == 0
    assert "classify" in result.stdout
    assert "ticket -> team, line" in result.stdout


def test_list_for_machines_is_one_json_object(folder: Path) -> None:
    rows = json.loads(run("list", "-f", folder, "--json").stdout)["signatures"]

    found = [row for row in rows if row["name"] == "triage"]
    assert [row["version"] for row in found] == ["1.0.0", "2.0.0"]
    assert found[0]["summary"] == "Route the ticket."
    assert found[0]["path"].endswith("1.0.0.toml")


def test_show_prints_every_part_as_it_is(folder: Path) -> None:
    text = run("show", "triage@1.0.0", "-f", folder).stdout

    assert "triage@1.0.0" in text
    assert "Route the ticket. Be quick." in text
    assert "Literal['red', 'blue']" in text
    assert "object Line" in text
    assert '"[bold]Help[/bold]"' in text


def test_show_for_machines_is_the_record(folder: Path) -> None:
    content = json.loads(run("show", "triage", "-f", folder, "--json").stdout)

    assert content["version"] == "2.0.0"
    assert content["outputs"]["team"] == {"type": "Literal['red', 'green']"}
    assert re.fullmatch("[0-9a-f]{64}", content["digest"])


def test_check_of_sound_files_says_so_and_exits_with_0(folder: Path) -> None:
    result = run("check", folder)

    assert result.exit_code == 0
    assert result.stdout == ""
    assert "no defects" in result.stderr


def test_check_prints_each_defect_with_path_and_line_and_exits_with_4(folder: Path) -> None:
    path = folder / "triage" / "1.0.0.toml"
    path.write_text(V1.replace('"str"', '"strng"').replace("description", "decription"))

    result = run("check", path)
    machine = run("check", path, "--json")

    assert result.exit_code == machine.exit_code == 4
    assert result.stdout.splitlines() == [
        f"{path}:5: type 'strng', character 1: unknown type 'strng'; did you mean 'str'?",
        f"{path}:6: unknown key 'decription'; did you mean 'description'?",
        f"{path}:12: type 'strng', character 1: unknown type 'strng'; did you mean 'str'?",
    ]
    assert [each["line"] for each in json.loads(machine.stdout)["defects"]] == [5, 6, 12]


def test_check_without_paths_covers_the_search_path(folder: Path) -> None:
    (folder / "triage" / "1.0.0.toml").write_text("name =")

    assert run("check").exit_code == 0
    assert run("check", "-f", folder).exit_code == 4


def test_check_without_paths_passes_over_an_empty_home(home: Path) -> None:
    (home / "signatures").mkdir(parents=True)

    result = run("check")

    assert result.exit_code == 0
    assert str(home) not in result.stderr


def test_check_of_a_folder_that_holds_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nothing to check"):
        run("check", tmp_path)


def test_check_of_a_missing_file_is_an_error() -> None:
    with pytest.raises(NotFound, match="does not exist"):
        run("check", "absent.toml")


def test_diff_shows_hints_only_where_there_are_any(folder: Path) -> None:
    path = folder / "triage" / "1.1.0.toml"
    path.write_text(V1.replace("1.0.0", "1.1.0").replace("Be quick", "Be kind"))
    renamed = folder / "triage" / "3.0.0.toml"
    renamed.write_text(V1.replace("1.0.0", "3.0.0").replace("team", "teams"))

    without = run("diff", "triage@1.0.0", "triage@1.1.0", "-f", folder).stdout
    hinted = run("diff", "triage@1.0.0", "triage@3.0.0", "-f", folder).stdout

    assert "change" in without
    assert "hint" not in without
    assert "hint" in hinted


def test_diff_says_what_changed_and_what_it_means(folder: Path) -> None:
    result = run("diff", "triage@1.0.0", "triage@2.0.0", "-f", folder)
    machine = json.loads(run("diff", "triage@1.0.0", "triage@2.0.0", "-f", folder, "--json").stdout)

    assert "outputs.team" in result.stdout
    assert result.stdout.rstrip().endswith("triage@1.0.0 -> triage@2.0.0: breaks")
    assert machine["verdict"] == "breaks"
    assert [each["where"] for each in machine["changes"]] == ["outputs.team", "migration"]


def test_new_writes_a_file_that_is_found_and_passes_the_check(home: Path) -> None:
    path = Path(run("new", "my_task").stdout.strip())

    assert path == home / "signatures" / "my_task" / "1.0.0.toml"
    assert check(path) == []
    assert run("show", "my_task").exit_code == 0
    with pytest.raises(InvalidInput, match="already exists"):
        run("new", "my_task")


@pytest.mark.parametrize("form", ["json", "python", "toml"])
def test_what_is_exported_is_printed_or_written(folder: Path, form: str, tmp_path: Path) -> None:
    output = tmp_path / "out"

    printed = run("export", "triage", "-f", folder, "--format", form).stdout
    run("export", "triage", "-f", folder, "--format", form, "--output", output)

    assert output.read_text() == printed
    assert "Route the ticket" in printed


@pytest.mark.parametrize("command", [("export", "triage"), ("docs",)])
def test_a_file_that_is_there_is_never_overwritten(
    folder: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    mine = tmp_path / "notes.md"
    mine.write_text("mine")

    with pytest.raises(InvalidInput, match="already exists"):
        run(*command, "-f", folder, "--output", mine)

    assert mine.read_text() == "mine"


def test_an_export_is_imported_elsewhere(folder: Path, home: Path, tmp_path: Path) -> None:
    run("export", "triage@1.0.0", "-f", folder, "--output", tmp_path / "triage.json")

    path = Path(run("import", tmp_path / "triage.json", "--version", "1.2.0").stdout.strip())

    assert path == home / "signatures" / "triage" / "1.2.0.toml"
    assert load_file(path).reference == "triage@1.2.0"


def test_a_class_is_imported(home: Path, tmp_path: Path) -> None:
    (tmp_path / "cli_module.py").write_text(
        "import dspy\n\n\nclass Sort(dspy.Signature):\n"
        "    mail: str = dspy.InputField()\n    box: bool = dspy.OutputField()\n"
    )

    path = Path(run("import", "cli_module:Sort", "-f", tmp_path).stdout.strip())

    assert load_file(path).outputs[0].type == "bool"


def test_what_one_packs_another_installs(folder: Path, home: Path, tmp_path: Path) -> None:
    packed = run("pack", "triage@1.0.0", "classify", "-f", folder, "-o", tmp_path / "team.zip")

    machine = json.loads(run("install", tmp_path / "team.zip", "--json").stdout)["installed"]
    again = run("install", tmp_path / "team.zip")

    assert packed.stdout.strip() == str(tmp_path / "team.zip")
    assert machine == [
        {"signature": "triage@1.0.0", "new": True},
        {"signature": "classify@1.0.0", "new": False},
    ]
    assert "triage@1.0.0  was there already" in again.stdout
    assert (home / "signatures" / "triage" / "1.0.0.toml").read_text() == V1


def test_migrate_carries_what_it_can_and_lists_the_rest(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "train.jsonl"
    lines = [{"ticket": "a", "team": team} for team in ("red", "blue", "grey")]
    source.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    versions = ("triage@1.0.0", "triage@2.0.0", "-f", folder)

    partly = run("migrate", source, *versions, "-o", tmp_path / "one.jsonl")
    source.write_text(json.dumps(lines[1]))
    wholly = run("migrate", source, *versions, "-o", tmp_path / "two.jsonl", "--json")

    written = (tmp_path / "one.jsonl").read_text()
    carried = [json.loads(line)["team"] for line in written.splitlines()]
    assert partly.exit_code == 4
    assert partly.stdout.startswith(
        f"{source}:3: field 'team' is 'grey'; expected 'red' or 'green'"
    )
    assert "carried 2" in partly.stderr
    assert carried == ["red", "green"]
    assert wholly.exit_code == 0
    assert json.loads(wholly.stdout)["carried"] == 1


def test_migrate_takes_a_folder_for_an_artifact(folder: Path, tmp_path: Path) -> None:
    versions = ("triage@1.0.0", "triage@2.0.0", "-f", folder)

    with pytest.raises(NotFound, match="is no artifact"):
        run("migrate", folder, *versions, "-o", tmp_path / "new")


def test_docs_describes_everything_or_what_is_named(folder: Path, tmp_path: Path) -> None:
    run("docs", "-f", folder, "--output", tmp_path / "page.md")
    one = run("docs", "triage@1.0.0", "-f", folder).stdout

    page = (tmp_path / "page.md").read_text()
    assert "## classify@1.0.0" in page
    assert "## triage@2.0.0" in page
    assert one.count("## ") == 1


def test_every_command_shows_an_example_in_its_help() -> None:
    names = [
        each.name or getattr(each.callback, "__name__", "") for each in app.registered_commands
    ]

    assert sorted(names) == sorted(
        "list show check diff new export import pack install migrate docs".split()
    )
    for name in names:
        assert f"Example: dspy-tk signatures {name}" in run(name, "--help").stdout
