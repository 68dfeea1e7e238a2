"""What two versions of a deployment have different."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dspy_toolkit.deployment.bundle import ARTIFACT, POLICY, Bundle
from dspy_toolkit.store.files import read_json, read_text

_PASSED_OVER = {"files", "seal", "version", "digest", "created", "started_at", "run"}


def differences(first: Bundle, second: Bundle) -> dict[str, tuple[Any, Any]]:
    """Both values of everything that is not the same, by dotted path.

    Manifests, the program's state (instructions, demonstrations), signature text and policy are
    compared; ids, dates and digests are not, since they always differ.
    """
    one, other = (dict(_facts(each)) for each in (first, second))
    names = [*one, *(name for name in other if name not in one)]
    return {
        name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)
    }


def _facts(bundle: Bundle) -> Iterator[tuple[str, Any]]:
    yield from _flat(bundle.manifest, "bundle")
    artifact = bundle.folder / ARTIFACT
    yield from _flat(read_json(artifact / "manifest.json", "artifact"), "artifact")
    yield from _flat(read_json(artifact / "program.json", "program"), "program")
    for name, file in (
        ("signature", artifact / "signature.toml"),
        ("policy", bundle.folder / POLICY),
    ):
        if file.is_file():
            yield name, read_text(file, name)


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, part in value.items():
            if key not in _PASSED_OVER:
                yield from _flat(part, f"{path}.{key}")
    elif isinstance(value, list) and any(isinstance(part, dict) for part in value):
        for number, part in enumerate(value):
            yield from _flat(part, f"{path}[{number}]")
    else:
        yield path, value
