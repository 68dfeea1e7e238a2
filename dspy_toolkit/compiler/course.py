"""How a run begins: anew, where an earlier one ended, or anew with the calls of an earlier one.

`plan.json` in a run's folder says what the run is a run of: everything that decides its result.
Only a run with the same plan goes on, since its journal would not fit another.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dspy_toolkit.compiler.runs import BUDGET, UNFINISHED, Run, find_run, list_runs
from dspy_toolkit.compiler.runs import PLAN as FILE
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import IntegrityError, InvalidInput
from dspy_toolkit.programs.journal import FILE as JOURNAL
from dspy_toolkit.programs.journal import cost_of
from dspy_toolkit.programs.limits import MAX_FAILURES, Budget, Cost, FailureLimit, read_budget
from dspy_toolkit.store.append_log import read_log
from dspy_toolkit.store.files import read_json, sha256_bytes, sha256_file, write_json
from dspy_toolkit.store.history import FINISHED, RUNNING

if TYPE_CHECKING:
    from dspy_toolkit.compiler.job import Job, Models, Settled

FORMAT = 1
_SHOWN = 5
_OPTION = "option "
_DIGEST = re.compile("[0-9a-f]{64}")
_NOT_KEPT = ("lm", "adapters", "course", "threads", "output")


@dataclass(frozen=True)
class Course:
    """How a run is to begin, and how far it may go.

    Attributes:
        resume: id of the run to go on with; None looks for one with the same plan that died, was
            interrupted or failed.
        fork: begin anew with the calls of `resume`, whose plan may differ.
        fresh: begin anew, whatever there is.
        budget: the most it may spend.
        max_failures: share of the last 50 model calls that may fail before the run ends.
    """

    resume: str | None = None
    fork: bool = False
    fresh: bool = False
    budget: Budget = field(default_factory=Budget)
    max_failures: float = MAX_FAILURES

    def __post_init__(self) -> None:
        FailureLimit(self.max_failures)
        if self.fork and self.resume is None:
            raise InvalidInput("fork begins a run with the calls of another; name it with resume")
        if self.fresh and self.resume is not None:
            raise InvalidInput("fresh and resume exclude each other; leave one out")

    def under(self, budget: Budget) -> Course:
        """The same course, with the limits of a task where it sets none itself."""
        return replace(self, budget=budget.extended(self.budget))


@dataclass(frozen=True)
class Plan:
    """What a run is a run of.

    Attributes:
        facts: what decides the result, by name; digests where it is long.
        asked: the options it was asked with, to ask so again; see `asked_options`.
        task: folder of the task, where there is one.
    """

    facts: Mapping[str, Any]
    asked: Mapping[str, Any]
    task: str | None = None


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes:
        plan: of the run.
        resumed: the run that goes on.
        forked: the run whose calls are taken over.
    """

    plan: Plan
    resumed: Run | None = None
    forked: Run | None = None


def check_course(course: Course, settings: Settings) -> None:
    """Refuse a run that cannot go on, whatever it was a run of.

    Raises:
        NotFound: it does not exist. InvalidInput: it is finished, or another process works on it.
    """
    if course.resume is None or course.fork:
        return
    found = find_run(settings, course.resume)
    if found.status == FINISHED:
        raise InvalidInput(f"run {found.row.id} is finished; compile again")
    if found.status == RUNNING:
        raise InvalidInput(f"run {found.row.id} is being worked on by another process; wait for it")


def check_resumed(
    job: Settled, models: Models, settings: Settings, fill: Callable[[Path], None]
) -> None:
    """Refuse to go on with a run that was a run of something else, or has spent its budget.

    Raises:
        InvalidInput: it has; says what changed, or what was spent.
    """
    if job.course.resume is not None and not job.course.fork:
        found = find_run(settings, job.course.resume)
        _check_same(found, Plan(_facts(job, models, fill), job.asked, job.task))
        _check_extended(found, job.asked, job.course.budget)


def start_of(job: Job, settings: Settings, fill: Callable[[Path], None]) -> Start:
    """Decide where a job begins.

    Raises:
        NotFound: the run to go on with does not exist.
        InvalidInput: it is finished, or its plan is another; says what changed.
    """
    course = job.course
    plan = Plan(_facts(job, job.models, fill), job.asked, job.task)
    if course.resume is None:
        return Start(plan, None if course.fresh else _unfinished(settings, job.name, plan))
    found = find_run(settings, course.resume)
    if course.fork:
        return Start(plan, forked=found)
    _check_same(found, plan)
    return Start(plan, found)


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between the facts of two plans, each in a few words."""
    differing = [name for name in before.keys() | now.keys() if before.get(name) != now.get(name)]
    if "optimizer" in differing:
        # Another one has other options, which says nothing new.
        differing = [name for name in differing if not name.startswith(_OPTION)]
    told = [_change(name, before.get(name), now.get(name)) for name in sorted(differing)]
    more = len(told) - _SHOWN
    return told if more <= 0 else [*told[:_SHOWN], f"{more} more changed"]


def write_plan(folder: Path, plan: Plan) -> None:
    """Keep a plan in a run's folder."""
    write_json(folder / FILE, {"format": FORMAT, **asdict(plan)})


def read_plan(run: Run) -> Plan:
    """The plan of a run.

    Raises:
        InvalidInput: it has none, as runs of older versions. IntegrityError: it is damaged.
    """
    if not (run.folder / FILE).is_file():
        raise InvalidInput(f"run {run.row.id} has no {FILE}, so it cannot go on; compile again")
    values = read_json(run.folder / FILE, "plan")
    try:
        if values.pop("format") == FORMAT:
            return Plan(**values)
    except (KeyError, TypeError, AttributeError):
        pass
    raise IntegrityError(f"plan {run.folder / FILE} cannot be read; compile again")


def asked_options(options: Any) -> dict[str, Any]:
    """The options of a run as JSON, for `plan.json`: those that differ from their defaults.

    What only Python can hold is named under `python`, and has to be given again.
    """
    kept: dict[str, Any] = {}
    python = []
    for each in fields(options):
        value = getattr(options, each.name)
        if each.name in _NOT_KEPT or value is None or value == getattr(type(options)(), each.name):
            continue
        if isinstance(value, Path):
            kept[each.name] = str(value.expanduser().absolute())
        elif isinstance(value, str | int | float | Mapping):
            kept[each.name] = value
        else:
            python.append(each.name)
    course: Course = options.course
    if options.lm is not None:
        python.append("lm")
    return {
        **kept,
        **({"budget": course.budget.to_dict()} if course.budget.to_dict() else {}),
        **({"max_failures": course.max_failures} if course.max_failures != MAX_FAILURES else {}),
        **({"python": python} if python else {}),
    }


def asked_again(run: Run, options: Any) -> tuple[Path, Any]:
    """The task of a run, and the options it was asked with under those given now.

    Args:
        run: of a task.
        options: what is to differ; its course names the run.

    Raises:
        InvalidInput: the run was made of no task, or with something that only Python can give.
    """
    plan = read_plan(run)
    asked = dict(plan.asked)
    python = [name for name in asked.pop("python", []) if getattr(options, name) is None]
    if plan.task is None or python:
        what = " and ".join(python) or "a program"
        raise InvalidInput(
            f"run {run.row.id} was given {what} from Python; go on with it there, "
            f"with Course(resume={run.row.id!r})"
        )
    budget = read_budget(asked.pop("budget", {}), f"plan {run.folder / FILE}")
    kind = type(options)
    course = replace(
        options.course,
        budget=budget.extended(options.course.budget),
        max_failures=_later(options.course.max_failures, asked.pop("max_failures", MAX_FAILURES)),
    )
    given = {
        each.name: getattr(options, each.name)
        for each in fields(options)
        if getattr(options, each.name) != getattr(kind(), each.name)
    }
    paths: dict[str, Any] = {
        name: Path(asked[name]) for name in ("adapter", "against") if name in asked
    }
    folder = Path(plan.task)
    again: dict[str, Any] = {**asked, **paths, **given, "course": course}
    return folder if folder.is_dir() else run.folder / "task", kind(**again)


def _check_same(found: Run, plan: Plan) -> None:
    changed = changes(read_plan(found).facts, plan.facts)
    if changed:
        raise InvalidInput(
            f"run {found.row.id} cannot go on: {'; '.join(changed)} since it began; undo that, or "
            "begin a new run with its calls by --fork"
        )


def _check_extended(found: Run, asked: Mapping[str, Any], budget: Budget) -> None:
    if found.status == BUDGET and asked.get("budget") == read_plan(found).asked.get("budget"):
        raise InvalidInput(
            f"run {found.row.id} spent its budget; give it a larger one, such as --max-calls MORE"
        )
    spent = cost_of(read_log(found.folder / JOURNAL), budget)
    crossed = budget.exceeded(spent + Cost(calls=1, tokens=1))
    if crossed is not None:
        raise InvalidInput(
            f"run {found.row.id} has spent {spent.of(crossed.limit):g} {crossed.limit} of the "
            f"{crossed.allowed:g} it may now; give a larger --max-{crossed.limit}"
        )


def _later(now: float, before: float) -> float:
    return before if now == MAX_FAILURES else now


def _unfinished(settings: Settings, task: str, plan: Plan) -> Run | None:
    """The newest run with this plan, if it did not come to its end."""
    for run in list_runs(settings, task=task):
        try:
            same = read_plan(run).facts == plan.facts
        except (InvalidInput, IntegrityError):
            # A run without a plan that can be read is none to go on with.
            continue
        if same:
            return run if run.status in UNFINISHED else None
    return None


def _facts(job: Settled, models: Models, fill: Callable[[Path], None]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "task"
        folder.mkdir()
        fill(folder)
        files = {
            file.relative_to(folder).as_posix(): sha256_file(file)
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
    rival = job.against and sha256_bytes((job.against.folder / "manifest.json").read_bytes())
    state = json.dumps(job.program.dump_state(), sort_keys=True, default=repr)
    facts: dict[str, Any] = {
        "task": job.name,
        "optimizer": job.optimizer.name,
        **{f"{_OPTION}{key}": value for key, value in job.options.items()},
        "model": models.task[-1],
        "teacher": models.teacher[-1] if models.teacher else None,
        "prompt model": models.prompt_model[-1] if models.prompt_model else None,
        "seed": job.seed,
        "prompt format": job.format,
        "metric": job.metric.name,
        "program": sha256_bytes(state.encode()),
        "artifact compared with": rival,
        "error rate": job.alpha,
        "DSPy": version("dspy"),
        **files,
    }
    # As it will be read again.
    read: dict[str, Any] = json.loads(json.dumps(facts))
    return read


def _change(name: str, before: Any, now: Any) -> str:
    if any(isinstance(value, str) and _DIGEST.fullmatch(value) for value in (before, now)):
        verb = "appeared" if before is None else "was removed" if now is None else "changed"
        return f"{name} {verb}"
    return f"{name} changed from {before!r} to {now!r}"
