"""Bundles: one version of a program with all it needs to be served, sealed and never changed."""

from __future__ import annotations

import asyncio
import json
import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dspy_toolkit.config import Settings
from dspy_toolkit.deployment.policy import guarded, read_sources
from dspy_toolkit.engine.digest import model_digest
from dspy_toolkit.engine.source import download, find_source
from dspy_toolkit.errors import IntegrityError, InvalidInput, ToolkitError
from dspy_toolkit.programs.artifact import Artifact, load_artifact
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.opening import local_lm
from dspy_toolkit.programs.served import LoadedProgram, ProgramFailed, open_program
from dspy_toolkit.registry import validate_values
from dspy_toolkit.store.files import (
    copy_tree,
    read_json,
    read_text,
    sha256_json,
    storage_errors,
    write_json,
    write_text,
)
from dspy_toolkit.store.manifest import read_manifest, write_manifest

FORMAT = 1
ARTIFACT, MODEL, ADAPTER = "artifact", "model", "adapter"
POLICY, SMOKE, SCORES = "policy.toml", "smoke.json", "examples.jsonl"
_PACKAGES = ("dspy-toolkit", "dspy", "mlx", "mlx-lm", "llguidance")


@dataclass(frozen=True)
class Bundle:
    """A version on disk, checked.

    Attributes:
        name: the deployment it belongs to.
        version: its number among the deployment's and the beginning of its digest, `3-1a2b3c4d`.
        folder: where it lies.
        manifest: everything recorded about it.
    """

    name: str
    version: str
    folder: Path
    manifest: Mapping[str, Any]

    @property
    def number(self) -> int:
        """Which of the deployment's versions it is, from 1."""
        return int(self.version.partition("-")[0])

    @property
    def artifact(self) -> Artifact:
        """The program in it."""
        return load_artifact(self.folder / ARTIFACT)

    @property
    def smoke_inputs(self) -> dict[str, Any]:
        """What it must answer before it is served."""
        inputs: dict[str, Any] = read_json(self.folder / SMOKE, "smoke test")
        return inputs

    def facts(self) -> dict[str, Any]:
        """What people want to see of it, as JSON values."""
        program = self.manifest["program"]
        return {
            "name": self.name,
            "version": self.version,
            "created": self.manifest["created"],
            "signature": program["signature"],
            "optimizer": program["optimizer"],
            "score": program["score"],
            "model": self.manifest["model"],
            "policy": (self.folder / POLICY).is_file(),
            "environment": self.manifest["environment"],
            "digest": self.manifest["digest"],
            "note": self.manifest["note"],
        }

    def open(self, settings: Settings) -> LoadedProgram:
        """Load the model and build the program.

        Raises:
            IntegrityError: the model is another one than that of the push.
            As `local_lm` and `Artifact.program`.
        """
        artifact = self.artifact
        lm = self._language_model(artifact, replace(settings, cache=False))
        policy = self.folder / POLICY
        if policy.is_file():
            try:
                lm = guarded(lm, policy, self.version, settings)
            except BaseException:
                lm.release()
                raise
        return open_program(artifact, self.name, self.version, settings, lm)

    def _language_model(self, artifact: Artifact, settings: Settings) -> LocalLM:
        kept, recorded = artifact.manifest["model"], self.manifest["model"]
        own, adapter = self.folder / MODEL, self.folder / ADAPTER
        reference = str(own) if recorded["weights"] else kept["reference"]
        used_adapter = adapter if recorded["adapter"] else None
        if files_digest(reference, used_adapter, settings) != recorded["files"]:
            raise IntegrityError(
                f"{self.name} {self.version} was pushed with another model than {reference!r} "
                "leads to now; restore it, or push again with --weights"
            )
        limits = {key: kept[key] for key in ("temperature", "max_tokens") if kept[key] is not None}
        return local_lm(
            reference,
            adapter=used_adapter,
            seed=artifact.manifest["seed"],
            settings=settings,
            **limits,
            **kept["options"],
        )


@dataclass(frozen=True)
class PushOptions:
    """What goes into a bundle beside the program.

    Attributes:
        weights: whether the model's files are copied in; None copies those of a folder, and
            leaves models that can be had again under their reference (embedded, hub ids).
        policy: a TOML file: how calls are guarded, and what stands in, see `policy`.
        smoke: inputs that the program must answer before it is served; made from the program's
            demonstrations or the signature's examples when left out.
        note: for people.
    """

    weights: bool | None = None
    policy: Path | None = None
    smoke: Mapping[str, Any] | None = None
    note: str = ""


def fill_bundle(place: Path, source: Path, settings: Settings, options: PushOptions) -> str:
    """Write a bundle's files into an empty folder, without the manifest; returns its digest.

    Raises:
        As `load_artifact` and `read_sources`. InvalidInput: the model was made in Python, or there
            is nothing to try the program on.
    """
    artifact = load_artifact(source)
    kept = artifact.manifest["model"]
    if kept["reference"] is None:
        raise InvalidInput(
            f"artifact {source} was compiled with a model made in Python, which no server can "
            "open again; compile it with a model that has a reference"
        )
    _copy(source, place / ARTIFACT)
    run = source.parent / SCORES
    if run.is_file():
        _copy(run, place / SCORES)
    model = _copy_model(place, kept, settings, options.weights)
    if options.policy is not None:
        read_sources(options.policy)
        write_text(place / POLICY, read_text(options.policy, "policy"))
    smoke = dict(options.smoke) if options.smoke is not None else _smoke_inputs(artifact)
    artifact.check(smoke)
    write_json(place / SMOKE, smoke)
    return sha256_json([artifact.manifest["seal"], model, _text(place / POLICY), smoke])


def seal_bundle(
    place: Path, name: str, number: int, digest: str, settings: Settings, options: PushOptions
) -> str:
    """Write the manifest over what `fill_bundle` wrote; returns the version."""
    artifact = load_artifact(place / ARTIFACT)
    facts, kept = artifact.manifest, artifact.manifest["model"]
    weights, adapter = (place / MODEL).is_dir(), (place / ADAPTER).is_dir()
    version_ = f"{number}-{digest[:8]}"
    own = str(place / MODEL) if weights else kept["reference"]
    content = {
        "format": FORMAT,
        "name": name,
        "version": version_,
        "digest": digest,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "note": options.note,
        "program": {
            "signature": facts["signature"] and facts["signature"]["reference"],
            "optimizer": facts.get("optimizer"),
            "run": facts.get("run"),
            "score": facts.get("compiled"),
            "gate": facts.get("gate"),
            "test": (facts.get("data") or {}).get("test"),
        },
        "model": {
            # A folder's name is enough: its path is nobody's business elsewhere.
            "reference": Path(kept["reference"]).name if weights else kept["reference"],
            "weights": weights,
            "adapter": adapter,
            "files": files_digest(own, place / ADAPTER if adapter else None, settings),
        },
        "environment": {
            "python": platform.python_version(),
            "platform": f"{platform.system().lower()}-{platform.machine()}",
            **{package: version(package) for package in _PACKAGES},
        },
    }
    write_manifest(place, content)
    return version_


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle and check every file in it. Runs none of its code.

    Raises:
        NotFound: there is none. IntegrityError: a file is missing, added, changed or damaged.
        InvalidInput: a newer toolkit made it.
    """
    manifest = read_manifest(folder, "bundle")
    if not isinstance(manifest.get("format"), int) or manifest["format"] > FORMAT:
        raise InvalidInput(f"bundle {folder} was made by a newer toolkit; upgrade this one")
    return Bundle(manifest["name"], manifest["version"], folder, manifest)


async def check_bundle(bundle: Bundle, settings: Settings) -> None:
    """Open a version and have it answer its smoke test, as a server does before it takes it.

    Raises:
        As `Bundle.open` and `smoke_test`.
    """
    program = await asyncio.to_thread(bundle.open, settings)
    try:
        await smoke_test(program, bundle.smoke_inputs)
    finally:
        await asyncio.to_thread(program.close)


async def smoke_test(program: LoadedProgram, inputs: Mapping[str, Any]) -> None:
    """Have a loaded program answer its smoke test.

    Raises:
        ProgramFailed: it gave no answer. InvalidInput: the answer does not fit its signature.
    """
    try:
        answer = await program.call(inputs)
    except ToolkitError:
        raise
    except Exception as error:
        # The program's own code may raise anything.
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise ProgramFailed("failed", f"the program failed its smoke test: {told}") from error
    if program.artifact.signature is not None:
        validate_values(program.artifact.signature, "outputs", answer.outputs)


def files_digest(reference: str, adapter: Path | None, settings: Settings) -> str:
    """The digest of a model's files and its adapter's; the same on any device."""
    source = find_source(reference, fetch=download)
    return str(model_digest(source.folder, adapter, settings.home))


def _copy_model(
    place: Path, kept: Mapping[str, Any], settings: Settings, weights: bool | None
) -> list[Any]:
    source = find_source(kept["reference"], fetch=download)
    adapter = None if kept["adapter"] is None else Path(kept["adapter"])
    is_folder = Path(kept["reference"]).expanduser().is_dir()
    copied = is_folder if weights is None else weights
    if is_folder and not copied:
        raise InvalidInput(
            f"the model {kept['reference']!r} is a folder of this machine, which a bundle cannot "
            "name; leave out --no-weights"
        )
    if copied:
        _copy(source.folder, place / MODEL)
    if adapter is not None:
        _copy(adapter, place / ADAPTER)
    digest = str(model_digest(source.folder, adapter, settings.home))
    return [copied, None if copied else kept["reference"], digest]


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        with storage_errors(target):
            shutil.copyfile(source, target)
    else:
        copy_tree(source, target)


def _smoke_inputs(artifact: Artifact) -> dict[str, Any]:
    names = artifact.manifest["inputs"]
    record = artifact.signature
    for example in record.examples if record is not None else ():
        return dict(example["inputs"])
    for demo in _demonstrations(read_json(artifact.folder / "program.json", "program")):
        if all(name in demo for name in names):
            inputs = {name: demo[name] for name in names}
            try:
                artifact.check(inputs)
            except InvalidInput:
                continue
            return inputs
    example = {name: "..." for name in names}
    raise InvalidInput(
        "nothing is known to try the program on before it is served; give inputs, for example "
        f"--smoke '{json.dumps(example)}'"
    )


def _demonstrations(state: Any) -> list[dict[str, Any]]:
    if not isinstance(state, dict):
        return []
    own = state.get("demos")
    found = [each for each in own if isinstance(each, dict)] if isinstance(own, list) else []
    for part in state.values():
        found += _demonstrations(part)
    return found


def _text(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.is_file() else None
