"""Records in and out of other forms: JSON with JSON Schema, Python classes, new files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.registry.build import built
from dspy_toolkit.registry.classes import UNVERSIONED, import_class
from dspy_toolkit.registry.lookup import SignatureConflict, find, is_class
from dspy_toolkit.registry.reading import load_file, read_record
from dspy_toolkit.registry.record import SignatureRecord
from dspy_toolkit.registry.rules import NAME, VERSION
from dspy_toolkit.registry.toml_text import to_toml
from dspy_toolkit.registry.values import json_schema
from dspy_toolkit.store.files import parse_json, read_text, refuse_existing, write_text

_STARTER = '''\
name = "{name}"
version = "{version}"
# What the model is told to do. Short, plain sentences work best with small models.
instructions = """
Read the text and say whether its tone is positive, neutral or negative.
"""

[inputs.text]
type = "str"
description = "The text to read."
min_length = 1

[outputs.tone]
type = "Literal['positive', 'neutral', 'negative']"
description = "The tone of the text as a whole."

# Each example must fit the fields above.
[[examples]]
inputs = {{ text = "The new desk arrived a day early and looks great." }}
outputs = {{ tone = "positive" }}
'''


def export_json(record: SignatureRecord) -> dict[str, Any]:
    """The record, its digest, and JSON Schemas of its inputs and outputs."""
    return {
        "signature": record.to_dict(),
        "digest": record.digest,
        "json_schema": {
            "inputs": json_schema(record, "inputs"),
            "outputs": json_schema(record, "outputs"),
        },
    }


def read_foreign(
    source: str,
    name: str | None = None,
    version: str | None = None,
    folders: Sequence[Path] = (),
) -> SignatureRecord:
    """Read a record from elsewhere.

    Args:
        source: `module:Class`, or a JSON file with an exported record or the record alone.
        name, version: in place of the source's own; a class that was not exported
            from a record has version 1.0.0.
        folders: looked in for the module.

    Raises:
        NotFound: there is no such class or file. InvalidInput: it makes no sound record.
    """
    file, colon, name_of_class = source.partition(".py:")
    if colon:
        module, folder = Path(file).name, Path(file).parent
        where = f" with --folder {folder}" if folder.name else ""
        raise InvalidInput(
            f"{source!r} is no module and class; write {module}:{name_of_class}{where}"
        )
    if is_class(source):
        tables = import_class(source, folders).to_dict()
    else:
        tables = _json_tables(Path(source))
    if tables.get("version") == UNVERSIONED:
        tables["version"] = "1.0.0"
    given = {"name": name, "version": version}
    return built({**tables, **{key: each for key, each in given.items() if each}}, source)


def _json_tables(path: Path) -> dict[str, Any]:
    what = "signature in JSON"
    content = parse_json(read_text(path, what), f"{what} {path}")
    if isinstance(content, dict) and isinstance(content.get("signature"), dict):
        content = content["signature"]
    if not isinstance(content, dict):
        raise InvalidInput(f"{path} holds no signature; export one to see its form")
    return dict(content)


def save(record: SignatureRecord, folder: Path) -> SignatureRecord:
    """Write a record to `<folder>/<name>/<version>.toml`.

    Returns:
        The record with its file as source. A file that holds the same is left as it is.

    Raises:
        SignatureConflict: the file holds something else. StorageError: it cannot be written.
    """
    path = folder / record.name / f"{record.version}.toml"
    if path.exists():
        there = load_file(path)
        if there.digest != record.digest:
            raise SignatureConflict(there, replace(record, source=None))
        return there
    text = to_toml(record)
    saved = read_record(text, path)
    write_text(path, text)
    return saved


def start(name: str, folder: Path, version: str = "1.0.0") -> Path:
    """Write a starter file that passes `check`, to be edited.

    Raises:
        InvalidInput: the name or version is not usable, or the file exists.
    """
    if not NAME.fullmatch(name):
        raise InvalidInput(
            f"signature name {name!r} is not usable; "
            "use small letters, digits and underscores, a letter first, at most 64"
        )
    if not VERSION.fullmatch(version):
        raise InvalidInput(f"version {version!r} is not usable; write three numbers, as in 1.0.0")
    path = folder / name / f"{version}.toml"
    refuse_existing(path)
    text = _STARTER.format(name=name, version=version)
    read_record(text, path)
    write_text(path, text)
    return path


def resolve(
    reference: str, folders: Sequence[Path] | None = None, settings: Settings | None = None
) -> SignatureRecord:
    """A record by reference, see `find`, or by the path of a file that ends in `.toml`."""
    if reference.endswith(".toml"):
        return load_file(Path(reference))
    return find(reference, folders, settings)
