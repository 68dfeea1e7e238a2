"""Artifacts: a compiled program as a folder that loads anywhere and vouches for itself.

`program.json` is DSPy's own state file; `manifest.json` says what it belongs to and holds the
SHA-256 of every file. Nothing in it is ever unpickled. A program that has Python code of its own
brings the source, which runs when the program is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dspy
from dspy.adapters.utils import serialize_for_json

from dspy_toolkit.config import Settings
from dspy_toolkit.errors import EngineError, IntegrityError, InvalidInput, nearest
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.modules import ModulePlan, required_inputs
from dspy_toolkit.programs.opening import chosen_model, local_lm
from dspy_toolkit.programs.signature import typed_values
from dspy_toolkit.programs.speaking import speaking
from dspy_toolkit.registry import SignatureRecord, load_file, validate_values
from dspy_toolkit.registry.toml_text import to_toml
from dspy_toolkit.store.files import copy_files, new_folder, storage_errors, write_text
from dspy_toolkit.store.manifest import read_manifest, write_manifest

FORMAT = 1
PROGRAM = "program.json"
SIGNATURE = "signature.toml"


@dataclass(frozen=True)
class Artifact:
    """A compiled program on disk, checked.

    Attributes:
        folder: where it lies.
        manifest: everything recorded about it.
        plan: how its module is built.
    """

    folder: Path
    manifest: Mapping[str, Any]
    plan: ModulePlan

    @property
    def signature(self) -> SignatureRecord | None:
        """What goes in and out, where the program has a signature of the registry."""
        return self.plan.signature

    def program(
        self,
        lm: dspy.BaseLM | None = None,
        *,
        into: dspy.Module | None = None,
        settings: Settings | None = None,
    ) -> dspy.Module:
        """Build the program, demonstrations and instructions in place, ready to be called.

        Wherever it is called, it speaks the prompt format it was compiled with.

        Args:
            lm: the language model; without one, the model of the compile run is opened again.
            into: a new program of the same class, for one that was made in Python.
            settings: for opening the model.

        Raises:
            InvalidInput: the program or the model cannot be made again from what is recorded.
            IntegrityError: the model's files are no longer those of the compile run.
        """
        module = self.plan.build(into)
        try:
            module.load(self.folder / PROGRAM)
        except (KeyError, AttributeError, ValueError) as error:
            raise InvalidInput(
                f"artifact {self.folder} does not fit the program ({error!r}); "
                "give a program of the class that was compiled"
            ) from None
        module.set_lm(self.language_model(settings=settings) if lm is None else lm)
        return speaking(module, self.manifest["prompt_format"], required_inputs(module))

    def language_model(
        self,
        model: str | None = None,
        adapter: Path | None = None,
        settings: Settings | None = None,
    ) -> LocalLM:
        """Open the model to run on: that of the compile run, unless another is named.

        Args:
            model: reference of another model, which takes over temperature, seed and the longest
                answer, and no adapter.
            adapter: folder of a fine-tune, laid over that model; over the compile run's model,
                where no other is named.
            settings: for opening it.

        Raises:
            InvalidInput: the compile run's was made in Python and has no reference.
            IntegrityError: no other is named, and the reference leads to another model by now.
        """
        kept = self.manifest["model"]
        if model is None and kept["reference"] is None:
            raise InvalidInput(
                f"artifact {self.folder} was compiled with a model made in Python; "
                "give one, in Python as lm=..., on the command line with --model"
            )
        same = model is None and adapter is None
        limits = {key: kept[key] for key in ("temperature", "max_tokens") if kept[key] is not None}
        lm = local_lm(
            model or kept["reference"],
            adapter=kept["adapter"] if same else adapter,
            seed=self.manifest["seed"],
            settings=settings,
            **limits,
            **(kept["options"] if model is None else {}),
        )
        if same and lm.model != kept["string"]:
            lm.release()
            adapted = f" --adapter {kept['adapter']}" if kept["adapter"] else ""
            raise IntegrityError(
                f"artifact {self.folder} was compiled for {kept['string']}, but "
                f"{kept['reference']!r} is now {lm.model}; compile again, or name the model "
                f"with --model {kept['reference']}{adapted} to use it all the same"
            )
        return lm

    def run(self, program: dspy.Module, values: Mapping[str, Any]) -> dict[str, Any]:
        """Check inputs, call the program, and give its outputs as JSON values.

        Args:
            program: made by `program`.
            values: JSON values by input field.

        Raises:
            InvalidInput: a field is missing, unknown or does not fit.
            EngineError: the model failed, or its answer could not be read.
        """
        given = self.check(values)
        try:
            prediction = program(**given)
        except dspy.DSPyError as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            raise EngineError(
                f"the program gave no usable answer: {text}; "
                "ask again with a larger --model, or compile with other labels or another format"
            ) from error
        return {name: serialize_for_json(value) for name, value in prediction.items()}

    def check(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Check inputs, and give them as the program takes them.

        Raises:
            InvalidInput: a field is missing, unknown or does not fit.
        """
        inputs = self.manifest["inputs"]
        for name in values:
            if name not in inputs:
                raise InvalidInput(f"unknown input {name!r}; {nearest(name, inputs)}")
        if self.signature is not None:
            validate_values(self.signature, "inputs", values)
            return typed_values(self.signature, values)
        for name in inputs:
            if name not in values:
                raise InvalidInput(f"input {name!r} is missing; inputs: {', '.join(inputs)}")
        return dict(values)


def save_artifact(
    folder: Path,
    program: dspy.Module,
    plan: ModulePlan,
    lm: LocalLM,
    facts: Mapping[str, Any],
) -> Artifact:
    """Write an artifact; it appears whole or not at all.

    Args:
        folder: must not exist yet.
        program: its state is saved without its language model.
        plan: how to build the module again; the files it names are copied.
        lm: the model the program was compiled for.
        facts: what else the manifest says; `run` needs `inputs`, `seed` and `prompt_format`.

    Raises:
        InvalidInput: `folder` exists, or the program holds values that JSON cannot.
        StorageError: it cannot be written.
    """
    with new_folder(folder) as place:
        _save_state(program, place / PROGRAM)
        if plan.signature is not None:
            write_text(place / SIGNATURE, to_toml(plan.signature))
        copy_files(plan.sources(), plan.folder, place)
        content = {
            "format": FORMAT,
            "signature": plan.signature
            and {
                "reference": plan.signature.reference,
                "digest": plan.signature.digest,
            },
            "module": {
                "kind": plan.kind,
                "program": plan.program,
                "tools_file": plan.tools_file,
                "tools": list(plan.tools),
                "wrapper": plan.wrapper,
            },
            "model": _model_facts(lm),
            **facts,
        }
        write_manifest(place, content)
    return load_artifact(folder)


def load_artifact(folder: Path | str) -> Artifact:
    """Read an artifact and check every file in it. Runs none of its code.

    Raises:
        NotFound: there is none.
        IntegrityError: a file is missing, added, changed or damaged.
        InvalidInput: a newer toolkit made it.
    """
    place = Path(folder).expanduser().absolute()
    manifest = read_manifest(place, "artifact")
    if isinstance(manifest.get("format"), int) and manifest["format"] > FORMAT:
        raise InvalidInput(f"artifact {place} was made by a newer toolkit; upgrade this one")
    module = manifest["module"]
    plan = ModulePlan(
        kind=module["kind"],
        signature=_signature(place, manifest),
        folder=place,
        program=module["program"],
        tools_file=module["tools_file"],
        tools=tuple(module["tools"]),
        wrapper=module.get("wrapper"),
    )
    return Artifact(place, manifest, plan)


def ask(
    folder: Path | str,
    values: Mapping[str, Any],
    *,
    model: str | None = None,
    adapter: Path | None = None,
    lm: LocalLM | None = None,
    settings: Settings | None = None,
) -> dict[str, Any]:
    """Load an artifact, call it once, and give its outputs as JSON values.

    Args:
        folder: the artifact.
        values: JSON values by input field.
        model, adapter, lm: what to run on instead of the model of the compile run, see
            `Artifact.language_model`.
        settings: for opening the model.

    Raises:
        As `load_artifact`, `Artifact.program`, `Artifact.run` and `chosen_model`.
    """
    artifact = load_artifact(folder)
    artifact.check(values)
    opened = partial(artifact.language_model, settings=settings)
    with chosen_model(lm, model, adapter, opened) as used:
        return artifact.run(artifact.program(used), values)


def _signature(place: Path, manifest: Mapping[str, Any]) -> SignatureRecord | None:
    return load_file(place / SIGNATURE) if manifest["signature"] else None


def _save_state(program: dspy.Module, file: Path) -> None:
    state = program.deepcopy()
    state.set_lm(None)
    try:
        state.save(file)
    except RuntimeError as error:
        # DSPy wraps whatever went wrong, a full disk as well as a value without a JSON form.
        with storage_errors(file):
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
        raise InvalidInput(
            f"the program cannot be saved as JSON: {' '.join(str(error.__context__).split())}"
        ) from None


def _model_facts(lm: LocalLM) -> dict[str, Any]:
    source = lm.source
    return {
        "reference": source and source.reference,
        "adapter": source and source.adapter,
        "options": source.options if source else {},
        "temperature": lm.kwargs.get("temperature"),
        "max_tokens": lm.kwargs.get("max_tokens"),
        "string": lm.model,
    }
