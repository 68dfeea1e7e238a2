from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dspy_toolkit.compiler.job import CompileResult
from dspy_toolkit.compiler.report import SUMMARY, read_report, summary
from dspy_toolkit.compiler.run import CompileOptions, compile_task
from dspy_toolkit.config import Settings
from dspy_toolkit.events import Event, PhaseAdvanced, PhaseStarted, RunFinished, subscribed
from dspy_toolkit.programs.artifact import ask, load_artifact
from dspy_toolkit.programs.task import load_task
from dspy_toolkit.store.history import History
from tests.compiler.running import SEARCHED, TOOLS, agent, compiled, history, made
from tests.programs.tasks import TASK, learner, scripted_lm, write_task


def test_a_run_measures_what_the_demonstrations_gained(tmp_path: Path, settings: Settings) -> None:
    report = compiled(tmp_path / "routing", settings).report

    assert report["baseline"]["score"] == pytest.approx(0.75)
    assert report["compiled"]["score"] == 1.0
    assert report["difference"]["score"] == pytest.approx(0.25)
    assert report["difference"]["interval"][0] > 0
    assert report["baseline"]["n"] == 12
    assert report["calls"] == {"made": 24, "cached": 0}


def test_the_report_holds_the_keys_promised_in_their_order(
    tmp_path: Path, settings: Settings
) -> None:
    result = compiled(tmp_path / "routing", settings, seed=7)

    assert tuple(summary(result.report)) == SUMMARY
    assert result.report["signature"] == "route@1.0.0"
    assert result.report["seed"] == 7
    assert result.report["optimizer_options"] == {"k": 4}
    assert read_report(result.folder) == result.report


def test_a_run_leaves_task_logs_report_artifact_and_a_row(
    tmp_path: Path, settings: Settings
) -> None:
    result = compiled(tmp_path / "routing", settings)
    (row,) = history(settings)
    lines = (result.folder / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]

    assert result.folder == settings.runs / result.report["run"]
    assert (
        load_task(result.folder / "task").data.test.digest
        == result.report["data"]["test"]["digest"]
    )
    assert (row.status, row.report) == ("finished", result.report)
    assert "baseline: started, 12 examples" in (result.folder / "run.log").read_text()
    assert {event["event"] for event in events} == {
        "RunStarted",
        "PhaseStarted",
        "PhaseAdvanced",
        "CallFinished",
        "RunFinished",
    }


def test_the_artifact_answers_as_the_compiled_program(tmp_path: Path, settings: Settings) -> None:
    result = compiled(tmp_path / "routing", settings)

    outputs = ask(made(result), {"text": "message 2"}, lm=scripted_lm(learner))

    assert outputs == {"team": "atlas", "urgent": False}
    assert load_artifact(made(result)).manifest["compiled"] == result.report["compiled"]


def test_the_optimizer_never_sees_a_test_example(tmp_path: Path, settings: Settings) -> None:
    lm = scripted_lm(learner)
    marks: list[int] = []

    def note(event: Event) -> None:
        if isinstance(event, PhaseStarted):
            marks.append(len(lm.engine.requests))

    with subscribed(note):
        result = compiled(tmp_path / "routing", settings, lm, SEARCHED)
    optimizing = lm.engine.requests[marks[1] : marks[2]]

    assert len(optimizing) >= 4 * 6
    assert not any("test message" in request for request in optimizing)
    assert result.report["candidates"] == [0.75, 1.0, 1.0, 1.0]


def test_the_same_seed_gives_the_same_artifact(tmp_path: Path, settings: Settings) -> None:
    programs = [
        made(compiled(tmp_path / "routing", settings, text=SEARCHED, seed=seed)) / "program.json"
        for seed in (3, 3, 4)
    ]

    assert programs[0].read_bytes() == programs[1].read_bytes()
    assert programs[0].read_bytes() != programs[2].read_bytes()


def test_phases_follow_each_other_and_count_to_their_end(
    tmp_path: Path, settings: Settings
) -> None:
    events: list[Event] = []
    with subscribed(events.append):
        compiled(tmp_path / "routing", settings, text=SEARCHED)
    started = [(e.phase, e.total) for e in events if isinstance(e, PhaseStarted)]
    last = {e.phase: e.done for e in events if isinstance(e, PhaseAdvanced)}

    assert started == [("baseline", 12), ("optimize", 24), ("test", 12)]
    assert last == {"baseline": 12, "optimize": 24, "test": 12}
    assert isinstance(events[-1], RunFinished)


def test_nothing_is_printed(
    tmp_path: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    result = compiled(tmp_path / "routing", settings, text=SEARCHED)

    assert capfd.readouterr() == ("", "")
    assert "Bootstrapped" in (result.folder / "run.log").read_text()


def test_options_of_the_command_win_over_the_tasks(tmp_path: Path, settings: Settings) -> None:
    same = compiled(tmp_path / "a", settings, options={"k": "2"}).report
    other = compiled(
        tmp_path / "b", settings, optimizer="bootstrap_few_shot", options={"max_labeled_demos": 3}
    ).report

    assert same["optimizer_options"] == {"k": 2}
    assert other["optimizer"] == "bootstrap_few_shot"
    assert "k" not in other["optimizer_options"]


def test_a_copy_of_the_artifact_goes_where_it_is_wanted(tmp_path: Path, settings: Settings) -> None:
    report = compiled(tmp_path / "routing", settings, output=tmp_path / "out").report

    assert report["artifact"] == str(tmp_path / "out")
    assert load_artifact(tmp_path / "out").manifest["run"] == report["run"]
    assert load_artifact(settings.runs / report["run"] / "artifact")


def test_a_program_with_tools_is_compiled_and_its_artifact_brings_them(
    tmp_path: Path, settings: Settings
) -> None:
    folder = write_task(
        tmp_path / "routing",
        TASK.replace("[metric]", 'module = "react"\n[tools]\nfunctions = ["team_of"]\n[metric]')
        .replace("labeled_few_shot", "bootstrap_few_shot")
        .replace("k = 4", "max_bootstrapped_demos = 2\nmax_labeled_demos = 2"),
    )
    (folder / "tools.py").write_text(TOOLS)
    result = compile_task(load_task(folder), CompileOptions(lm=scripted_lm(agent)), settings)
    (folder / "tools.py").unlink()

    assert result.report["baseline"]["score"] == result.report["compiled"]["score"] == 1.0
    outputs = ask(made(result), {"text": "message 4"}, lm=scripted_lm(agent))
    assert outputs["team"] == "atlas"
    assert outputs["trajectory"]["tool_args_0"] == {"number": 4}
    assert (made(result) / "tools.py").is_file()


def test_two_runs_at_once_keep_their_counts_apart(tmp_path: Path, settings: Settings) -> None:
    def run(name: str) -> CompileResult:
        return compiled(tmp_path / name, settings, text=SEARCHED)

    History(settings.database).close()
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(run, ["a", "b"]))

    assert [result.report["calls"]["made"] for result in results] == [
        results[0].report["calls"]["made"]
    ] * 2
    assert {row.status for row in history(settings)} == {"finished"}
    assert len(history(settings)) == 2
    for result in results:
        lines = (result.folder / "events.jsonl").read_text().splitlines()
        calls = [line for line in lines if '"event": "CallFinished"' in line]
        assert len(calls) == result.report["calls"]["made"]


def test_a_run_is_called_and_prompted_as_its_options_say(
    tmp_path: Path, settings: Settings
) -> None:
    lm = scripted_lm(learner)
    report = compiled(tmp_path / "routing", settings, lm, name="other", format="xml").report

    assert (report["task"], report["prompt_format"]) == ("other", "xml")
    assert "<team>" in lm.engine.requests[0]
