"""DSPy modules from a signature, or from the user's own `program.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dspy
from dspy.adapters.utils import annotation_allows_none

from dspy_toolkit.errors import InvalidInput, nearest
from dspy_toolkit.programs.nearest import Nearest
from dspy_toolkit.programs.signature import dspy_signature, record_of
from dspy_toolkit.programs.speaking import class_of
from dspy_toolkit.programs.user_code import call, load_function, with_modules
from dspy_toolkit.programs.voting import Voting
from dspy_toolkit.registry import SignatureRecord

KINDS = ("predict", "chain_of_thought", "react")
GIVEN = "given"
"""Kind of a program that only the user's own Python can build again."""


def build_module(
    kind: str, signature: type[dspy.Signature], tools: Sequence[Callable[..., Any]] = ()
) -> dspy.Module:
    """A module over a signature.

    Args:
        kind: `predict`, `chain_of_thought` or `react`.
        signature: what goes in and out.
        tools: functions with type hints and docstrings, for `react` only.

    Raises:
        InvalidInput: no such kind, or tools that do not belong to it.
    """
    if kind not in KINDS:
        raise InvalidInput(f"module {kind!r} does not exist; {nearest(kind, KINDS)}")
    if bool(tools) != (kind == "react"):
        raise InvalidInput(
            "module 'react' needs tools; list them under [tools]"
            if kind == "react"
            else f"module {kind!r} takes no tools; use module = 'react' or remove them"
        )
    if kind == "react":
        return dspy.ReAct(signature, tools=list(tools))
    return dspy.Predict(signature) if kind == "predict" else dspy.ChainOfThought(signature)


def plan_of(program: dspy.Module) -> ModulePlan:
    """How to build a program again: from its signature, if that came from a record; else `GIVEN`.

    Only DSPy's own `Predict` and `ChainOfThought` can be told from their signature.
    """
    made = class_of(program)
    if made is dspy.Predict:
        kind, signature = "predict", program.signature
    elif made is dspy.ChainOfThought:
        kind, signature = "chain_of_thought", program.predict.signature.delete("reasoning")
    else:
        return ModulePlan(GIVEN)
    record = record_of(signature)
    return ModulePlan(GIVEN) if record is None else ModulePlan(kind, record)


def required_inputs(program: dspy.Module) -> tuple[str, ...]:
    """Inputs that a program of DSPy's own cannot do without; none where the user's code decides.

    Inputs with a default, and those that may be None, can be left out.
    """
    match class_of(program):
        case dspy.Predict | dspy.ReAct:
            signature = program.signature
        case dspy.ChainOfThought:
            signature = program.predict.signature
        case _ if isinstance(program, Nearest):
            return required_inputs(program.program)
        case _ if isinstance(program, Voting):
            return required_inputs(program.programs[0])
        case _:
            return ()
    return tuple(
        name
        for name, field in signature.input_fields.items()
        if field.is_required() and not annotation_allows_none(field.annotation)
    )


@dataclass(frozen=True)
class ModulePlan:
    """How a program is built, from data and named files only.

    Attributes:
        kind: one of `KINDS`, "program" for the user's `program.py`, or `GIVEN`.
        signature: what goes in and out; None where only `program.py` knows.
        folder: where the files lie.
        program: the user's file, relative to the folder.
        tools_file: file of the tools, relative to the folder.
        tools: names of functions in it.
        wrapper: what an optimizer put around the program: `{"nearest": k}` or `{"voting": n}`.
    """

    kind: str
    signature: SignatureRecord | None = None
    folder: Path = Path()
    program: str | None = None
    tools_file: str | None = None
    tools: tuple[str, ...] = ()
    wrapper: Mapping[str, int] | None = None

    def around(self, program: dspy.Module) -> ModulePlan:
        """The plan of a program that an optimizer made of this plan's."""
        return replace(self, wrapper=_wrapper_of(program))

    def check(self, where: str) -> None:
        """Refuse a plan that cannot be built, running the user's code once.

        Raises:
            InvalidInput: with what is wrong, in `where`.
        """
        try:
            self.build()
        except InvalidInput as error:
            raise InvalidInput(f"{where}: {error}") from None

    def sources(self) -> tuple[str, ...]:
        """Python files that building needs: those named, and what they can import beside them."""
        named = [name for name in (self.program, self.tools_file) if name is not None]
        return with_modules(self.folder, named)

    def build(self, into: dspy.Module | None = None) -> dspy.Module:
        """A new module without demonstrations, with what an optimizer put around it.

        Args:
            into: the bare program, where it is there already.

        Raises:
            NotFound, InvalidInput: a file or function is missing, or the user's code fails.
        """
        bare = self._bare() if into is None else into
        match dict(self.wrapper or {}):
            case {"nearest": k}:
                return Nearest(bare, k)
            case {"voting": count}:
                return Voting([bare.deepcopy() for _ in range(count)])
        return bare

    def _bare(self) -> dspy.Module:
        if self.program is not None:
            return _user_program(self.folder / self.program)
        if self.kind == GIVEN:
            raise InvalidInput("the program was made in Python; give a new one to load it into")
        if self.signature is None:
            raise InvalidInput(f"module {self.kind!r} needs a signature")
        tools = (
            [load_function(self.folder / self.tools_file, name) for name in self.tools]
            if self.tools_file
            else []
        )
        return build_module(self.kind, dspy_signature(self.signature), tools)


def _wrapper_of(program: dspy.Module) -> dict[str, int] | None:
    if isinstance(program, Nearest):
        return {"nearest": program.k}
    return {"voting": len(program.programs)} if isinstance(program, Voting) else None


def _user_program(file: Path) -> dspy.Module:
    made = call(load_function(file, "program"), file)
    if not isinstance(made, dspy.Module):
        raise InvalidInput(
            f"{file}: program() returned {type(made).__name__}; it must return a dspy.Module"
        )
    if not made.named_predictors():
        raise InvalidInput(f"{file}: the program has no dspy.Predict, so nothing can be optimized")
    return made
