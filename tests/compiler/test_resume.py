from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dspy_toolkit.compiler.course import Course
from dspy_toolkit.compiler.job import CompileResult
from dspy_toolkit.compiler.run import CompileOptions, compile_task, resume_run
from dspy_toolkit.compiler.runs import find_run, list_runs
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import IntegrityError, InvalidInput, NotFound
from dspy_toolkit.events import Event, JournalOpened, subscribed
from dspy_toolkit.programs.journal import FILE as JOURNAL
from dspy_toolkit.programs.task import load_task
from dspy_toolkit.store.append_log import read_log
from dspy_toolkit.store.lock import working_in
from tests.compiler.killing import answers, compiled, killed
from tests.compiler.running import SEARCHED, check_refused
from tests.compiler.small import USABLE, answering, at_once, options, write_small
from tests.conformance.brief import the_rest_slow
from tests.engine.tiny import write_model
from tests.programs.tasks import write_task


class Place:
    """A task, a home and a count of answers."""

    def __init__(self, folder: Path, optimizer: str | None = None) -> None:
        place = folder / "routing"
        self.task = write_small(place, optimizer) if optimizer else write_task(place, SEARCHED)
        self.home = folder / "home"
        self.log = folder / "answers"

    @property
    def settings(self) -> Settings:
        return Settings(home=self.home, threads=1)

    @property
    def answers(self) -> int:
        return answers(self.log)

    def compiled(self, **how: Any) -> CompileResult:
        return compiled(self.task, self.home, self.log, **how)

    def killed(self, **how: Any) -> None:
        killed(self.task, self.home, self.log, **how)

    def run(self) -> str:
        (run,) = list_runs(self.settings)
        return run.row.id


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "a")


@pytest.fixture
def whole(tmp_path: Path) -> tuple[CompileResult, int]:
    """The uninterrupted run, and its calls."""
    other = Place(tmp_path / "whole")
    return other.compiled(), other.answers


def program(result: CompileResult) -> bytes:
    assert result.artifact is not None

    return (result.artifact / "program.json").read_bytes()


def same(report: Any) -> dict[str, Any]:
    """What two runs of one plan have in common."""
    own = ("run", "artifact", "seconds", "started_at")
    return {key: value for key, value in report.items() if key not in own}


def check_kill(folder: Path, optimizer: str, points: int, threads: int) -> list[int]:
    """Kill a run at so many calls; the calls of the whole run, then those of each killed one."""
    whole = Place(folder / "whole", optimizer)
    how = {**options(optimizer), "answer": answering(optimizer), "threads": threads}
    result = whole.compiled(**how)
    calls = [whole.answers]
    for point in random.Random(optimizer).sample(range(1, whole.answers), points):
        place = Place(folder / str(point), optimizer)
        place.killed(kill_at=point, **how)
        resumed = place.compiled(**how)

        assert program(resumed) == program(result)
        assert same(resumed.report) == same(result.report)
        kept = read_log(resumed.folder / JOURNAL)
        assert len(kept.records) == result.report["calls"]["made"]
        # A call that was under way in another thread is all that can be lost.
        assert whole.answers <= place.answers < whole.answers + at_once(optimizer, threads)
        assert place.run() == resumed.report["run"]
        calls.append(place.answers)
    return calls


@pytest.mark.parametrize("optimizer", the_rest_slow(USABLE))
def test_a_run_killed_anywhere_goes_on_to_the_same_result(tmp_path: Path, optimizer: str) -> None:
    check_kill(tmp_path, optimizer, 1, 4)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("optimizer", USABLE)
def test_a_run_killed_at_ten_points_goes_on_to_the_same_result(
    tmp_path: Path,
    optimizer: str,
    threads: int,
    record_property: Callable[[str, object], None],
) -> None:
    calls = check_kill(tmp_path, optimizer, 10, threads)

    record_property("calls", calls)
    assert len(calls) == 11


def test_the_same_command_goes_on_and_says_so(
    place: Place, whole: tuple[CompileResult, int]
) -> None:
    place.killed(kill_at=20)
    events: list[Event] = []
    with subscribed(events.append):
        result = place.compiled()
    opened = [event for event in events if isinstance(event, JournalOpened)]

    assert opened == [JournalOpened(result.report["run"], 19, 0, 0)]
    assert place.answers == whole[1]
    assert "goes on from 19 calls" in (result.folder / "run.log").read_text()


def test_a_run_killed_twice_goes_on_twice(place: Place, whole: tuple[CompileResult, int]) -> None:
    place.killed(kill_at=15)
    place.killed(kill_at=15)

    assert same(place.compiled().report) == same(whole[0].report)
    assert place.answers == whole[1]


def test_a_finished_run_is_begun_anew(place: Place) -> None:
    first, second = place.compiled(), place.compiled()

    assert first.report["run"] != second.report["run"]
    assert place.answers == 2 * first.report["calls"]["made"]
    with pytest.raises(InvalidInput, match=r"is finished; compile again"):
        place.compiled(course=Course(resume=first.report["run"]))


def test_a_fresh_run_leaves_the_unfinished_one_alone(place: Place) -> None:
    place.killed(kill_at=20)
    dead = place.run()

    assert place.compiled(course=Course(fresh=True)).report["run"] != dead
    assert find_run(place.settings, dead).status == "died"


def test_a_run_that_another_process_works_on_is_refused(place: Place) -> None:
    place.killed(kill_at=20)
    run = find_run(place.settings, place.run())
    with working_in(run.folder, "x"), pytest.raises(InvalidInput, match="another process"):
        place.compiled(course=Course(resume=run.row.id))


def test_an_unknown_run_is_named(place: Place) -> None:
    place.killed(kill_at=5)

    with pytest.raises(NotFound, match="did you mean"):
        place.compiled(course=Course(resume=place.run()[:-1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 3}, r"seed changed from 0 to 3 since it began; .*--fork"),
        ({"options": {"max_rounds": 2}}, "option max_rounds changed from 1 to 2"),
        ({"format": "xml"}, "prompt format changed from 'chat' to 'xml'"),
        (
            {"optimizer": "labeled_few_shot"},
            "go on: optimizer changed from '.*' to 'labeled_few_shot' since",
        ),
    ],
)
def test_what_differs_from_the_run_is_named(
    place: Place, change: dict[str, Any], message: str
) -> None:
    place.killed(kill_at=5)

    with pytest.raises(InvalidInput, match=message):
        place.compiled(course=Course(resume=place.run()), **change)
    assert find_run(place.settings, place.run()).status == "died"


def test_another_model_is_told_before_it_is_loaded(place: Place, tmp_path: Path) -> None:
    place.killed(kill_at=5)
    other = str(write_model(tmp_path / "tiny"))
    asked = CompileOptions(model=other, course=Course(resume=place.run()))

    check_refused(
        lambda: compile_task(load_task(place.task), asked, place.settings),
        "model changed from 'mlx/scripted#scripted' to 'mlx/tiny#.* since it began",
    )


def test_changed_data_are_named_and_a_fork_takes_over_what_still_fits(place: Place) -> None:
    place.killed(kill_at=30)
    dead = place.run()
    file = place.task / "data" / "validation.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))

    with pytest.raises(InvalidInput, match=r"data/validation\.jsonl changed since it began"):
        place.compiled(course=Course(resume=dead))
    result = place.compiled(course=Course(resume=dead, fork=True))
    anew = Place(place.home / "anew")
    (anew.task / "data" / "validation.jsonl").write_text(file.read_text())

    assert program(result) == program(anew.compiled())
    assert result.report["run"] != dead
    # The baseline's 12 calls at least are the same ones.
    assert result.report["calls"]["made"] <= anew.answers - 12
    assert find_run(place.settings, dead).status == "died"


def test_a_damaged_journal_costs_the_damaged_calls(
    place: Place, whole: tuple[CompileResult, int]
) -> None:
    place.killed(kill_at=30)
    file = place.settings.runs / place.run() / JOURNAL
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content[:-3]))
    result = place.compiled()

    assert same(result.report) == same(whole[0].report)
    assert place.answers == whole[1] + 2
    assert "1 damaged record" in (result.folder / "run.log").read_text()


def test_a_run_whose_plan_is_damaged_is_left_alone(place: Place) -> None:
    place.killed(kill_at=20)
    dead = find_run(place.settings, place.run())
    (dead.folder / "plan.json").write_text("{")

    assert place.compiled().report["run"] != dead.row.id
    with pytest.raises(IntegrityError, match="is damaged"):
        place.compiled(course=Course(resume=dead.row.id))


def test_a_run_of_a_task_is_resumed_by_its_id_alone(place: Place) -> None:
    """As the command does; only a model given in Python has to be given again."""
    place.killed(kill_at=30)

    with pytest.raises(
        InvalidInput, match=r"was given prompt_model and lm from Python; .*Course\(resume="
    ):
        resume_run(place.run(), CompileOptions(), place.settings)
