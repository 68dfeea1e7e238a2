"""An artifact made before, as what a run's result has to beat instead of the bare program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dspy

from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.programs.artifact import Artifact, load_artifact
from dspy_toolkit.programs.formats import prompt_format
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.modules import GIVEN, ModulePlan
from dspy_toolkit.store.manifest import NAME


def load_rival(path: Path, plan: ModulePlan, inputs: list[str]) -> Artifact:
    """Read an artifact that answers what a program of `plan` answers.

    Args:
        path: an artifact, or the folder of a run, whose artifact is meant.
        plan: of the program that is to be compiled.
        inputs: names of its inputs.

    Raises:
        NotFound, IntegrityError: there is none, or it is damaged.
        InvalidInput: it answers another signature.
    """
    inside = path / "artifact"
    artifact = load_artifact(inside if (inside / NAME).is_file() else path)
    ours, theirs = plan.signature, artifact.signature
    if ours is not None and theirs is not None and ours.digest == theirs.digest:
        return artifact
    if ours is None and theirs is None and set(artifact.manifest["inputs"]) == set(inputs):
        return artifact
    found = theirs.reference if theirs else f"inputs {', '.join(artifact.manifest['inputs'])}"
    asked = ours.reference if ours else f"inputs {', '.join(inputs)}"
    if found == asked:
        found += " with other content"
    raise InvalidInput(
        f"artifact {artifact.folder} answers {found}, the task {asked}; "
        "compare with an artifact of the same signature"
    )


@contextmanager
def ready(
    artifact: Artifact, bare: dspy.Module, lm: LocalLM, settings: Settings
) -> Iterator[dspy.Module]:
    """Build an artifact's program as its users run it: its own model and prompt format.

    Args:
        artifact: from `load_rival`.
        bare: the run's own program, copied where only Python knows how to make one.
        lm: the run's model, shared where the artifact was made for the same one.
        settings: for opening another.
    """
    shared = artifact.manifest["model"]["string"] == lm.model
    used = lm if shared else artifact.language_model(settings=settings)
    into = bare.reset_copy() if artifact.plan.kind == GIVEN else None
    try:
        with dspy.context(lm=used, adapter=prompt_format(artifact.manifest["prompt_format"])):
            yield artifact.program(used, into=into)
    finally:
        if not shared:
            used.release()
