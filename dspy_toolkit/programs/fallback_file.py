"""Programs with fallbacks from a TOML file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dspy.adapters.utils import serialize_for_json

from dspy_toolkit.config import Settings
from dspy_toolkit.contract import LM15Error
from dspy_toolkit.errors import EngineError, InvalidInput, nearest, reject_unknown_keys
from dspy_toolkit.programs.answer_sources import HeadAnswers, Source, TypedDefault
from dspy_toolkit.programs.artifact import load_artifact
from dspy_toolkit.programs.fallback import FallbackProgram
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.signature import record_of, typed_values
from dspy_toolkit.registry import validate_values
from dspy_toolkit.resilience import AnswerMemory, read_policy
from dspy_toolkit.store.files import parse_toml, read_text

OpenHeads = Callable[[Path], HeadAnswers]

_KINDS = ("artifact", "head_model", "answer", "remember")
_BESIDE = {"artifact": {"model", "adapter"}, "remember": {"keep_s"}}
_OWN = {*_KINDS, *(key for keys in _BESIDE.values() for key in keys)}


def load_fallback_program(
    path: Path, *, open_heads: OpenHeads | None = None, settings: Settings | None = None
) -> FallbackProgram:
    """Build a program with fallbacks from a file.

    Each table `[programs.NAME]` names one of `artifact` (with `model` and `adapter`, if it is to
    run on others than those of its compile run), `head_model`, `answer` (values by output) or
    `remember` (how many answers; with `keep_s`), and its part of the policy, as engines have it.
    Paths are relative to the file. The policy is checked before anything is opened.

    Args:
        open_heads: opens head models; `training`'s `HeadModel.load`.
        settings: for opening models.

    Raises:
        NotFound, InvalidInput, UnknownKey, IntegrityError: what the file says cannot be done.
    """
    where = f"fallbacks {path}"
    values = parse_toml(read_text(path, "fallbacks"), where)
    known = ("primary", "deadline_s", "attempts", "defaults", "programs")
    reject_unknown_keys(values, known, where)
    programs = values.pop("programs", {})
    if not isinstance(programs, Mapping):
        raise InvalidInput(f"{where}: [programs] must be a table, got {programs!r}")
    for name, given in programs.items():
        _check_kind(given, f"{where}, [programs.{name}]")
    bounds = {
        name: {key: given[key] for key in given if key not in _OWN}
        for name, given in programs.items()
    }
    defaults = {"retry": {"attempts": 1}, **values.pop("defaults", {})}
    policy = read_policy({**values, "engines": bounds, "defaults": defaults}, where)
    folder = path.absolute().parent
    sources = {name: _source(programs[name], folder, open_heads, settings) for name in programs}
    return FallbackProgram(sources, policy)


def ask_with_fallbacks(
    path: Path,
    values: Mapping[str, Any],
    *,
    open_heads: OpenHeads | None = None,
    settings: Settings | None = None,
) -> tuple[dict[str, Any], str]:
    """Build a program with fallbacks from a file, call it once, and give its models back.

    Args:
        values: JSON values by input field.

    Returns:
        Its outputs as JSON values, and who answered.

    Raises:
        InvalidInput: an input is missing or unknown. EngineError: nobody answered.
        Otherwise as `load_fallback_program`.
    """
    program = load_fallback_program(path, open_heads=open_heads, settings=settings)
    try:
        answer = program(**_typed_inputs(program, values))
    except LM15Error as error:
        raise EngineError(
            f"{' '.join(str(error).split())}; end the fallbacks with an answer"
        ) from error
    finally:
        for _, predictor in program.named_predictors():
            if isinstance(predictor.lm, LocalLM):
                predictor.lm.release()
    outputs = {name: serialize_for_json(value) for name, value in answer.items()}
    return outputs, answer.answered_by


def _typed_inputs(program: FallbackProgram, values: Mapping[str, Any]) -> dict[str, Any]:
    inputs = program.signature.input_fields
    for name in values:
        if name not in inputs:
            raise InvalidInput(f"unknown input {name!r}; {nearest(name, inputs)}")
    for name in inputs:
        if name not in values:
            raise InvalidInput(f"input {name!r} is missing; inputs: {', '.join(inputs)}")
    record = record_of(program.signature)
    if record is None:
        return dict(values)
    validate_values(record, "inputs", values)
    return typed_values(record, values)


def _check_kind(given: Any, where: str) -> None:
    if not isinstance(given, Mapping):
        raise InvalidInput(f"{where} must be a table, got {given!r}")
    kinds = [kind for kind in _KINDS if kind in given]
    if len(kinds) != 1:
        found = " and ".join(kinds) or "none"
        raise InvalidInput(f"{where} must have one of {', '.join(_KINDS)}; it has {found}")
    foreign = (given.keys() & _OWN) - {kinds[0]} - _BESIDE.get(kinds[0], set())
    if foreign:
        raise InvalidInput(f"{where}: {min(foreign)!r} does not belong to {kinds[0]!r}; remove it")


def _source(
    given: Mapping[str, Any],
    folder: Path,
    open_heads: OpenHeads | None,
    settings: Settings | None,
) -> Source:
    if "answer" in given:
        return TypedDefault(given["answer"])
    if "remember" in given:
        return AnswerMemory(given["remember"], given.get("keep_s", 86400.0))
    if "head_model" in given:
        if open_heads is None:
            raise InvalidInput("head models cannot be opened here; give open_heads=HeadModel.load")
        return open_heads(folder / given["head_model"])
    artifact = load_artifact(folder / given["artifact"])
    adapter = given.get("adapter")
    lm = artifact.language_model(
        given.get("model"), None if adapter is None else folder / adapter, settings
    )
    return artifact.program(lm)
