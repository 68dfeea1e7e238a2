"""The signature registry: typed, versioned records of what a program takes and gives."""

from dspy_toolkit.registry.carry import chain
from dspy_toolkit.registry.class_source import class_source
from dspy_toolkit.registry.comparison import diff
from dspy_toolkit.registry.exchange import export_json, read_foreign, resolve, save, start
from dspy_toolkit.registry.lookup import (
    SignatureConflict,
    SignatureNotFound,
    find,
    list_records,
    search_path,
)
from dspy_toolkit.registry.migration import MigrationReport, migrate
from dspy_toolkit.registry.python_types import constraint_keywords, python_type
from dspy_toolkit.registry.reading import InvalidSignature, check, load_file
from dspy_toolkit.registry.record import FieldRecord, Migration, ObjectRecord, SignatureRecord
from dspy_toolkit.registry.reference import field_meaning, reference_page, summary
from dspy_toolkit.registry.share import install, pack
from dspy_toolkit.registry.toml_text import to_toml
from dspy_toolkit.registry.values import InvalidValues, validate_values

__all__ = [
    "FieldRecord",
    "InvalidSignature",
    "InvalidValues",
    "Migration",
    "MigrationReport",
    "ObjectRecord",
    "SignatureConflict",
    "SignatureNotFound",
    "SignatureRecord",
    "chain",
    "check",
    "class_source",
    "constraint_keywords",
    "diff",
    "export_json",
    "field_meaning",
    "find",
    "install",
    "list_records",
    "load_file",
    "migrate",
    "pack",
    "python_type",
    "read_foreign",
    "reference_page",
    "resolve",
    "save",
    "search_path",
    "start",
    "summary",
    "to_toml",
    "validate_values",
]
