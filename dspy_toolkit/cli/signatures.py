"""`dspy-tk signatures`: look at, check, compare, migrate and share signature records."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspy_toolkit.cli.output import out, out_json, say, table
from dspy_toolkit.config import load_settings
from dspy_toolkit.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dspy_toolkit.registry import FieldRecord, MigrationReport, SignatureRecord

app = typer.Typer(
    help="Look at, check, compare, migrate and share signatures.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Folder = Annotated[
    list[Path] | None,
    typer.Option("--folder", "-f", help="A folder of signatures, searched first; may be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value for machines.")]
Reference = Annotated[
    str, typer.Argument(help="name, name@version, module:Class, or the path of a .toml file.")
]
Into = Annotated[
    Path | None,
    typer.Option("--into", help="The folder to write to; the user's own signatures if left out."),
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="A new file to write to.")]


class Form(StrEnum):
    """What `export` writes."""

    json = "json"
    python = "python"
    toml = "toml"


@app.command("list")
def list_command(folder: Folder = None, json: Json = False) -> None:
    """List every signature and version.

    Example: dspy-tk signatures list
    """
    from dspy_toolkit.registry import list_records, summary

    records = list_records(folder)
    if json:
        out_json(
            {
                "signatures": [
                    {
                        "name": each.name,
                        "version": each.version,
                        "summary": summary(each),
                        "inputs": [field.name for field in each.inputs],
                        "outputs": [field.name for field in each.outputs],
                        "digest": each.digest,
                        "path": str(each.source),
                    }
                    for each in records
                ]
            }
        )
        return
    rows = [(each.name, each.version, _flow(each), summary(each)) for each in records]
    table("", ["name", "version", "inputs -> outputs", "what it does"], rows)


@app.command()
def show(reference: Reference, folder: Folder = None, json: Json = False) -> None:
    """Print one signature: its instructions, fields and examples.

    Example: dspy-tk signatures show classify
    """
    from dspy_toolkit.registry import resolve

    record = resolve(reference, folder)
    if json:
        out_json({**record.to_dict(), "digest": record.digest, "path": _source(record)})
        return
    out(f"{record.reference}  {_source(record) or ''}\ndigest {record.digest}\n")
    out(f"{record.instructions}\n")
    columns = ["field", "type", "meaning"]
    table("inputs", columns, map(_row, record.inputs))
    table("outputs", columns, map(_row, record.outputs))
    for each in record.objects:
        table(f"object {each.name}", columns, map(_row, each.fields))
    for number, example in enumerate(record.examples, start=1):
        out(f"example {number}")
        out_json(dict(example))


@app.command()
def check(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Signature files or folders of them; the search path if left out."),
    ] = None,
    folder: Folder = None,
    json: Json = False,
) -> None:
    """Find every defect of signature files; exit with 4 if there is one.

    Example: dspy-tk signatures check signatures/triage/1.0.0.toml
    """
    from dspy_toolkit.registry import check as check_path
    from dspy_toolkit.registry import search_path
    from dspy_toolkit.registry.reading import holds_signatures

    places = paths or list(filter(holds_signatures, search_path(folder)))
    defects = [defect for place in places for defect in check_path(place)]
    if json:
        found = [{**dataclasses.asdict(each), "path": str(each.path)} for each in defects]
        out_json({"defects": found})
    else:
        for defect in defects:
            out(str(defect))
        if not defects:
            say(f"no defects in {', '.join(map(str, places))}")
    if defects:
        raise typer.Exit(InvalidInput.exit_code)


@app.command()
def diff(old: Reference, new: Reference, folder: Folder = None, json: Json = False) -> None:
    """Say what changed between two signatures, and what that means.

    The verdict is compatible, recompile (callers go on, compiled programs are outdated) or
    breaks (callers must change).

    Example: dspy-tk signatures diff triage@1.0.0 triage@1.1.0
    """
    from dspy_toolkit.registry import diff as compare
    from dspy_toolkit.registry import resolve

    difference = compare(resolve(old, folder), resolve(new, folder))
    if json:
        changes = [dataclasses.asdict(each) for each in difference.changes]
        out_json(
            {
                "old": difference.old,
                "new": difference.new,
                "verdict": difference.verdict,
                "changes": changes,
            }
        )
        return
    if difference.changes:
        hints = any(each.hint for each in difference.changes)
        columns = ["where", "change", "verdict", "hint"]
        rows = [(each.where, each.what, each.verdict, each.hint) for each in difference.changes]
        shown = len(columns) if hints else columns.index("hint")
        table("", columns[:shown], [row[:shown] for row in rows])
    out(f"{difference.old} -> {difference.new}: {difference.verdict}")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Small letters, digits and underscores.")],
    into: Into = None,
    version: Annotated[str, typer.Option("--version", help="Three numbers.")] = "1.0.0",
) -> None:
    """Write a starter file to edit.

    Example: dspy-tk signatures new triage --into signatures
    """
    from dspy_toolkit.registry import start

    out(str(start(name, _into(into), version)))


@app.command()
def export(
    reference: Reference,
    form: Annotated[Form, typer.Option("--format", help="What to write.")] = Form.json,
    output: Output = None,
    folder: Folder = None,
) -> None:
    """Write a signature as JSON with JSON Schemas, as a Python class, or as TOML.

    Example: dspy-tk signatures export classify --format python --output classify.py
    """
    import json

    from dspy_toolkit.registry import class_source, export_json, resolve, to_toml

    record = resolve(reference, folder)
    texts = {
        Form.json: lambda: json.dumps(export_json(record), indent=2, ensure_ascii=False) + "\n",
        Form.python: lambda: class_source(record),
        Form.toml: lambda: to_toml(record),
    }
    _write(texts[form](), output)


@app.command("import")
def import_command(
    source: Annotated[str, typer.Argument(help="module:Class, or a JSON file.")],
    into: Into = None,
    name: Annotated[str | None, typer.Option("--name", help="In place of its own.")] = None,
    version: Annotated[str | None, typer.Option("--version", help="In place of its own.")] = None,
    folder: Folder = None,
) -> None:
    """Make a signature file from a DSPy class or an exported JSON file.

    Example: dspy-tk signatures import my_package.signatures:Triage --version 1.0.0
    """
    from dspy_toolkit.registry import read_foreign, save

    record = save(read_foreign(source, name, version, folder or ()), _into(into))
    out(str(record.source))


@app.command()
def pack(
    references: Annotated[list[str], typer.Argument(help="Each name, name@version or .toml file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The new zip file.")],
    folder: Folder = None,
) -> None:
    """Pack signatures into one file to share, with a digest of each.

    Example: dspy-tk signatures pack triage classify@1.0.0 --output team.zip
    """
    from dspy_toolkit.registry import pack as pack_records
    from dspy_toolkit.registry import resolve

    records = [resolve(reference, folder) for reference in references]
    pack_records(records, output)
    say(f"packed {', '.join(each.reference for each in records)}")
    out(str(output))


@app.command()
def install(
    file: Annotated[Path, typer.Argument(help="A file that `pack` made.")],
    into: Into = None,
    json: Json = False,
) -> None:
    """Install every signature of a packed file, or none if one is not acceptable.

    Example: dspy-tk signatures install team.zip
    """
    from dspy_toolkit.registry import install as install_pack

    installed = install_pack(file, _into(into))
    if json:
        rows = [{"signature": each.record.reference, "new": each.new} for each in installed]
        out_json({"installed": rows})
        return
    for each in installed:
        out(f"{each.record.reference}  {'installed' if each.new else 'was there already'}")


@app.command()
def migrate(
    source: Annotated[
        Path, typer.Argument(help="Examples (.jsonl), a program.json, or an artifact's folder.")
    ],
    old: Annotated[str, typer.Argument(help="The version it is for, such as triage@1.0.0.")],
    new: Annotated[str, typer.Argument(help="The version it shall be for.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A new file or folder.")],
    folder: Folder = None,
    json: Json = False,
) -> None:
    """Carry stored examples or a compiled program to a newer version; the original stays.

    What cannot be carried is left out and listed, with the reason; the exit code is then 4.

    Example: dspy-tk signatures migrate train.jsonl triage@1.0.0 triage@2.0.0 --output train2.jsonl
    """
    from dspy_toolkit.registry import chain, resolve

    versions = chain(resolve(old, folder), resolve(new, folder), folder)
    report = _migrated(source, versions, output)
    if json:
        out_json({**dataclasses.asdict(report), "output": str(output)})
    else:
        for refused in report.refused:
            out(f"{refused.where}: {refused.why}")
        for note in report.notes:
            say(note)
        say(f"carried {report.carried} to {output}, left out {len(report.refused)}")
    if report.refused:
        raise typer.Exit(InvalidInput.exit_code)


@app.command()
def docs(
    references: Annotated[
        list[str] | None, typer.Argument(help="What to describe; everything if left out.")
    ] = None,
    output: Output = None,
    folder: Folder = None,
) -> None:
    """Write a reference page of signatures, in Markdown.

    Example: dspy-tk signatures docs --output signatures.md
    """
    from dspy_toolkit.registry import list_records, reference_page, resolve

    records = [resolve(each, folder) for each in references or ()] or list_records(folder)
    _write(reference_page(records), output)


def _migrated(source: Path, versions: Sequence[SignatureRecord], output: Path) -> MigrationReport:
    if source.is_dir():
        from dspy_toolkit.programs.artifact_migration import migrate_artifact

        return migrate_artifact(source, versions, output)
    from dspy_toolkit.registry import migrate as migrate_file

    return migrate_file(source, versions, output)


def _into(given: Path | None) -> Path:
    return given or load_settings().signatures


def _write(text: str, output: Path | None) -> None:
    from dspy_toolkit.store.files import refuse_existing, write_text

    if output is None:
        out(text.removesuffix("\n"))
        return
    refuse_existing(output)
    write_text(output, text)
    out(str(output))


def _flow(record: SignatureRecord) -> str:
    inputs, outputs = (", ".join(f.name for f in side) for side in (record.inputs, record.outputs))
    return f"{inputs} -> {outputs}"


def _source(record: SignatureRecord) -> str | None:
    return str(record.source) if record.source else None


def _row(field: FieldRecord) -> tuple[Any, ...]:
    from dspy_toolkit.registry import field_meaning

    return field.name, field.type, field_meaning(field)
