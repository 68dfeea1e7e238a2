from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dspy_toolkit.compiler.candidate_files import read_candidate
from dspy_toolkit.compiler.candidates import FILE, CandidateLog
from dspy_toolkit.compiler.course import Course
from dspy_toolkit.compiler.plot import FILE as PLOT
from dspy_toolkit.compiler.run import CompileOptions, compile_task
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import IntegrityError, NotFound, StorageError
from dspy_toolkit.events import CandidateScored, Event, subscribed
from dspy_toolkit.programs.limits import Budget
from dspy_toolkit.programs.task import load_task
from tests.compiler.running import SEARCHED
from tests.compiler.small import answering, options
from tests.compiler.test_resume import Place
from tests.programs.tasks import TASK, learner, number_in, scripted_lm, write_task

SCORED = CandidateScored("a", 1, 0.75, (1.0, 0.5), 4, 1)


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def test_a_search_keeps_every_candidate_with_scores_and_calls(
    tmp_path: Path, settings: Settings
) -> None:
    task = load_task(write_task(tmp_path / "routing", SEARCHED))
    result = compile_task(task, CompileOptions(lm=scripted_lm(learner)), settings)
    kept = lines(result.folder)
    events = (result.folder / "events.jsonl").read_text()

    assert [line["score"] for line in kept] == result.report["candidates"]
    assert [line["candidate"] for line in kept] == [1, 2, 3, 4]
    # The baseline's 12 calls, then 6 validation examples for the first candidate.
    assert kept[0]["calls_made"] == 12 + 6
    assert all(len(line["scores"]) == 6 for line in kept if isinstance(line["scores"], list))
    assert events.count('"event": "CandidateScored"') == 4
    assert "candidate 1: 75.0 % after 18 calls" in (result.folder / "run.log").read_text()
    plot = ElementTree.parse(result.folder / PLOT)
    assert len(plot.findall(".//{*}circle")) == 4


def test_the_folder_holds_what_each_candidate_was_and_why_it_failed(
    tmp_path: Path, settings: Settings
) -> None:
    def answer(request: str) -> str:
        return "hm" if number_in(request) == 5 else learner(request)

    text = SEARCHED.replace("[metric]", 'format = "chat_only"\n[metric]')
    task = load_task(write_task(tmp_path / "routing", text))
    result = compile_task(task, CompileOptions(lm=scripted_lm(answer)), settings)
    bare, shown = (read_candidate(result.folder, number) for number in (1, 2))

    assert [row.score for row in (bare, shown)] == result.report["candidates"][:2]
    assert bare.prompts[0]["instructions"] == "Say which team takes the message."
    assert (bare.prompts[0]["demos"], len(shown.prompts[0]["demos"])) == ([], 4)
    (failed,) = [each for each in bare.examples if each["error"]]
    assert (failed["example"], failed["score"]) == ("data/validation.jsonl:6", 0.0)
    assert "AdapterParseError" in failed["error"]
    with pytest.raises(NotFound, match="has no candidate 9; it tried 4"):
        read_candidate(result.folder, 9)
    (result.folder / "candidates" / "0001.json").write_text("{}")
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_candidate(result.folder, 1)


@pytest.mark.parametrize("optimizer", ["race", "simba", "reanchor"])
def test_optimizers_that_score_by_themselves_tell_of_each_candidate(
    tmp_path: Path, optimizer: str
) -> None:
    place = Place(tmp_path, optimizer)
    events: list[Event] = []
    with subscribed(events.append):
        result = place.compiled(**options(optimizer), answer=answering(optimizer))
    told = [each for each in events if isinstance(each, CandidateScored)]
    numbers = range(1, 1 + len(told))
    kept = [read_candidate(result.folder, number) for number in numbers]

    assert len(told) > 2
    assert [each.score for each in told] == result.report["candidates"]
    assert [len(each.examples) for each in kept] == [len(each.scores) for each in told]
    # They come while the run goes on, each after the calls that it took.
    assert [each.calls_made + each.calls_cached for each in told] == sorted(
        each.calls_made + each.calls_cached for each in told
    )
    assert told[0].calls_made < result.report["calls"]["made"] - 12


def test_a_candidate_of_reanchor_says_how_it_decides(tmp_path: Path) -> None:
    place = Place(tmp_path, "reanchor")
    result = place.compiled(**options("reanchor"), answer=answering("reanchor"))
    scores = result.report["candidates"]
    bare, best = (read_candidate(result.folder, 1 + scores.index(at)) for at in (scores[0], 1.0))

    assert "decisions" not in bare.prompts[0]
    assert best.prompts[0]["decisions"]["team"]["weights"]


def test_a_race_that_ends_at_its_budget_tells_of_those_it_scored(tmp_path: Path) -> None:
    place = Place(tmp_path, "race")
    course = Course(budget=Budget(calls=36))
    report = place.compiled(**options("race"), course=course).report

    assert report["stopped"] == "budget"
    assert len(report["candidates"]) > 2


def test_an_optimizer_without_candidates_leaves_no_plot(tmp_path: Path, settings: Settings) -> None:
    task = load_task(write_task(tmp_path / "routing", TASK))
    folder = compile_task(task, CompileOptions(lm=scripted_lm(learner)), settings).folder

    assert not (folder / FILE).exists()
    assert not (folder / PLOT).exists()


def test_candidates_of_another_run_are_left_out(tmp_path: Path) -> None:
    log = CandidateLog(tmp_path, "b")
    log(SCORED)
    log.check()

    assert list(tmp_path.iterdir()) == []


def test_a_candidate_that_cannot_be_kept_is_told_afterwards(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    log = CandidateLog(tmp_path / "file", "a")
    log(SCORED)

    with pytest.raises(StorageError):
        log.check()
