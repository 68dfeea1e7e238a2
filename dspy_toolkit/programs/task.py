"""Tasks: a folder that says what to compile, on which examples, and how answers are scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dspy

from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput, NotFound
from dspy_toolkit.programs.data import Data
from dspy_toolkit.programs.formats import FORMATS
from dspy_toolkit.programs.limits import Budget, read_budget
from dspy_toolkit.programs.metrics import Metric, metric_from_file, named_metric
from dspy_toolkit.programs.modules import ModulePlan
from dspy_toolkit.programs.task_data import load_data
from dspy_toolkit.programs.task_file import Table
from dspy_toolkit.programs.user_code import with_modules
from dspy_toolkit.registry import SignatureRecord, find, load_file
from dspy_toolkit.registry.toml_lines import Lines
from dspy_toolkit.store.files import parse_toml, read_text

FILE = "task.toml"
KEPT_SIGNATURE = "signature.used.toml"
"""In a run's copy of a task: the signature as it was, wherever the reference leads by now."""

_KEYS = (
    "name", "description", "signature", "program", "module", "model", "needs_larger_model",
    "format", "generation", "tools", "metric", "data", "optimizer", "teacher", "prompt_model",
    "budget",
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """What `task.toml` says, checked, with its examples.

    Attributes:
        folder: where it was loaded from.
        plan: how to build the program.
        metric: scores answers; names examples by file and line.
        data: train, validation and test.
        model: reference of the model the task asks for, or None for the user's default.
        needs_larger_model: why the embedded model is too small, or None.
        format: prompt format, see `programs.formats`.
        generation: `max_tokens` and `temperature` of model calls, where the task sets them.
        optimizer: name of the optimizer, or None for the default.
        optimizer_options: its options.
        optimizer_places: file and line of its name and of each option.
        teacher: reference of the model that makes demonstrations, or None for the task's own.
        prompt_model: reference of the model that writes instructions, or None for the task's own.
        budget: what a compile run may spend, where the command says nothing else.
        files: what belongs to the task, relative to the folder: what it names, and the modules
            that its Python files can import.
    """

    name: str
    description: str
    folder: Path
    plan: ModulePlan
    metric: Metric
    data: Data
    model: str | None = None
    needs_larger_model: str | None = None
    format: str = "chat"
    generation: Mapping[str, Any] = field(default_factory=dict)
    optimizer: str | None = None
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    optimizer_places: Mapping[str, str] = field(default_factory=dict)
    teacher: str | None = None
    prompt_model: str | None = None
    budget: Budget = field(default_factory=Budget)
    files: tuple[str, ...] = ()

    @property
    def signature(self) -> SignatureRecord | None:
        """The signature, or None where only a `program.py` says what goes in and out."""
        return self.plan.signature

    def program(self) -> dspy.Module:
        """A new program without demonstrations: what a compile run starts from."""
        return self.plan.build()


def load_task(folder: Path | str, settings: Settings | None = None) -> Task:
    """Load a task and check it: keys, signature, code, every data line.

    The optimizer's name and options are checked when a compile run takes them.

    Args:
        folder: holds `task.toml`.
        settings: where the user's signatures lie; read from the environment when left out.

    Raises:
        NotFound: the folder or a file it names does not exist.
        InvalidInput: something in it is wrong; the message names file and line.
    """
    place = Path(folder).expanduser()
    place = place.parent if place.name == FILE else place
    if not place.is_dir():
        raise NotFound(f"task {place} does not exist; give a folder that holds a {FILE}")
    if not (place / FILE).is_file():
        raise NotFound(f"{place} is no task: it has no {FILE}; make one with `dspy-tk init NAME`")
    place = place.absolute()
    table = _table(place)
    record = _signature(table, settings)
    plan = _plan(table, record)
    optimizer = table.table("optimizer")
    options = dict(optimizer.values) if optimizer else {}
    data = load_data(table, record)
    return Task(
        name=table.name("name"),
        description=table.text("description", ""),
        folder=place,
        plan=plan,
        metric=_metric(table, _compared(record, data)).located(data.locate),
        data=data,
        model=table.optional_text("model"),
        needs_larger_model=table.optional_text("needs_larger_model"),
        format=_format(table),
        generation=_generation(table),
        optimizer=_popped_name(optimizer, options),
        optimizer_options=options,
        optimizer_places=_places(optimizer),
        teacher=table.optional_text("teacher"),
        prompt_model=table.optional_text("prompt_model"),
        budget=_budget(table),
        files=with_modules(place, [FILE, *table.files]),
    )


def _table(folder: Path) -> Table:
    file = folder / FILE
    text = read_text(file, "task file")
    values = parse_toml(text, str(file))
    table = Table(values, folder, str(file), Lines(text))
    table.only(*_KEYS)
    return table


def _signature(table: Table, settings: Settings | None) -> SignatureRecord | None:
    reference = table.optional_text("signature")
    if reference is None:
        return None
    if (table.folder / KEPT_SIGNATURE).is_file():
        return load_file(table.file(KEPT_SIGNATURE))
    if reference.endswith(".toml"):
        return load_file(table.file(reference))
    return find(reference, [table.folder], settings)


def _plan(table: Table, record: SignatureRecord | None) -> ModulePlan:
    program = table.optional_text("program")
    if program is None and record is None:
        raise InvalidInput(f"{table.at()}: add signature = '...' or program = 'program.py'")
    if program is not None and "module" in table.values:
        raise InvalidInput(
            f"{table.at('module')}: program and module exclude each other; remove one"
        )
    tools = table.table("tools")
    if tools is not None:
        tools.only("file", "functions")
    plan = ModulePlan(
        kind="program" if program else table.text("module", "predict"),
        signature=record,
        folder=table.folder,
        program=table.relative(program) if program else None,
        tools_file=tools.relative(tools.text("file", "tools.py")) if tools else None,
        tools=tools.texts("functions") if tools else (),
    )
    plan.check(table.at("program" if program else "module"))
    return plan


def _metric(table: Table, fields: tuple[str, ...]) -> Metric:
    options = table.table("metric")
    if options is None:
        return named_metric("per_field", fields)
    given = dict(options.values)
    if "file" in given:
        options.only("file", "threshold")
        name = options.text("file")
        return metric_from_file(options.file(name), name, options.number("threshold", 1.0))
    name = options.text("name", "per_field")
    given.pop("name", None)
    chosen = options.texts("fields") if given.pop("fields", None) is not None else fields
    options.known("fields", chosen, fields)
    try:
        return named_metric(name, chosen, given)
    except InvalidInput as error:
        raise InvalidInput(f"{options.at()}: {error}") from None


def _compared(record: SignatureRecord | None, data: Data) -> tuple[str, ...]:
    if record is not None:
        return tuple(each.name for each in record.outputs)
    return tuple(data.train.examples[0].labels().keys())


def _format(table: Table) -> str:
    name = table.text("format", "chat")
    table.known("format", (name,), FORMATS)
    return name


def _generation(table: Table) -> dict[str, Any]:
    generation = table.table("generation")
    if generation is None:
        return {}
    generation.only("max_tokens", "temperature")
    found: dict[str, Any] = {}
    if "max_tokens" in generation.values:
        found["max_tokens"] = generation.whole("max_tokens", 0, least=1)
    if "temperature" in generation.values:
        found["temperature"] = generation.number("temperature", 0.0, most=2.0)
    return found


def _budget(table: Table) -> Budget:
    budget = table.table("budget")
    return Budget() if budget is None else read_budget(budget.values, budget.at())


def _popped_name(table: Table | None, options: dict[str, Any]) -> str | None:
    if table is None:
        return None
    options.pop("name", None)
    return table.text("name")


def _places(table: Table | None) -> dict[str, str]:
    return {key: table.at(key) for key in table.values} if table else {}
