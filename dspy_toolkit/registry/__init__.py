"""The signature registry: typed, versioned records of what a program takes and gives."""

from dspy_toolkit.registry.check import Defect, InvalidSignature, check, load_file
from dspy_toolkit.registry.lookup import (
    SignatureConflict,
    SignatureNotFound,
    find,
    list_records,
    search_path,
)
from dspy_toolkit.registry.python_types import constraint_keywords, python_type
from dspy_toolkit.registry.record import FieldRecord, Migration, ObjectRecord, SignatureRecord
from dspy_toolkit.registry.values import InvalidValues, json_schema, validate_values

__all__ = [
    "Defect",
    "FieldRecord",
    "InvalidSignature",
    "InvalidValues",
    "Migration",
    "ObjectRecord",
    "SignatureConflict",
    "SignatureNotFound",
    "SignatureRecord",
    "check",
    "constraint_keywords",
    "find",
    "json_schema",
    "list_records",
    "load_file",
    "python_type",
    "search_path",
    "validate_values",
]
