from __future__ import annotations

import json
import os
import re
import resource
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import dspy
import pytest

from dspy_toolkit.compiler.course import Course
from dspy_toolkit.compiler.job import CompileResult
from dspy_toolkit.compiler.report import SUMMARY, read_report, summary
from dspy_toolkit.compiler.run import CompileOptions, compile_program, compile_task
from dspy_toolkit.compiler.scoring import score_path
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import EngineError, InvalidInput, NotFound, StorageError, ToolkitError
from dspy_toolkit.events import Event, PhaseAdvanced, PhaseStarted, RunFinished, subscribed
from dspy_toolkit.programs.artifact import ask, load_artifact
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.metrics import MetricError
from dspy_toolkit.programs.modules import build_module
from dspy_toolkit.programs.signature import dspy_signature
from dspy_toolkit.programs.task import load_task
from dspy_toolkit.store.history import History, RunRow
from tests.engine.tiny import write_model
from tests.programs.tasks import (
    SIGNATURE,
    TASK,
    chat,
    learner,
    right,
    rows,
    scripted_lm,
    write_task,
)

SEARCH = {"max_bootstrapped_demos": 2, "max_labeled_demos": 4, "num_candidate_programs": 1}
SEARCHED = TASK.split("[optimizer]")[0] + (
    '[optimizer]\nname = "bootstrap_few_shot_with_random_search"\n'
    + "\n".join(f"{key} = {value}" for key, value in SEARCH.items())
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", threads=4)


def compiled(
    folder: Path, settings: Settings, lm: LocalLM | None = None, text: str = TASK, **options: Any
) -> CompileResult:
    task = load_task(write_task(folder, text))
    return compile_task(task, CompileOptions(lm=lm or scripted_lm(learner), **options), settings)


def made(result: CompileResult) -> Path:
    assert result.artifact is not None

    return result.artifact


def history(settings: Settings) -> list[RunRow]:
    book = History(settings.database)
    found = book.latest()
    book.close()
    return found


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


@pytest.mark.parametrize("written", ["{home}/out", "~/out"])
def test_an_output_that_exists_is_refused_before_anything_runs(
    tmp_path: Path, settings: Settings, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "out").mkdir()
    lm = scripted_lm(learner)
    output = Path(written.format(home=tmp_path))

    with pytest.raises(InvalidInput, match="already exists"):
        compiled(tmp_path / "routing", settings, lm, output=output)
    assert lm.engine.requests == []
    assert not settings.runs.exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"teacher": "no/such/teacher"}, "no/such/teacher"),
        ({"prompt_model": "nowhere"}, "nowhere"),
        ({"course": Course(resume="20260101-120000-routing-0a1b")}, "20260101-120000-routing"),
    ],
)
def test_what_is_not_there_is_told_before_the_model_is_loaded(
    tmp_path: Path, settings: Settings, wrong: dict[str, Any], message: str
) -> None:
    events: list[Event] = []
    task = load_task(write_task(tmp_path / "routing"))
    asked = CompileOptions(model=str(write_model(tmp_path / "tiny")), **wrong)
    with subscribed(events.append), pytest.raises(NotFound, match=message):
        compile_task(task, asked, settings)

    assert events == []


def test_unknown_optimizers_and_options_leave_no_run(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(NotFound, match="did you mean"):
        compiled(tmp_path / "a", settings, optimizer="labeled_fewshot")
    with pytest.raises(InvalidInput, match="unknown key 'kk'"):
        compiled(tmp_path / "b", settings, options={"kk": 2})
    assert not settings.runs.exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("k = 4", 'k = "nine"', r"task\.toml:15 \[optimizer\]: .* got 'nine'"),
        ("k = 4", "kk = 4", r"task\.toml:15 \[optimizer\]: .*did you mean 'k'"),
        ('"labeled_few_shot"', '"labeled"', r"task\.toml:14 \[optimizer\]: .*did you mean"),
    ],
)
def test_a_wrong_optimizer_of_the_task_is_named_by_its_line(
    tmp_path: Path, settings: Settings, old: str, new: str, message: str
) -> None:
    task = load_task(write_task(tmp_path / "routing", TASK.replace(old, new)))

    with pytest.raises(InvalidInput, match=message):
        compile_task(task, CompileOptions(), settings)


def test_an_option_of_the_command_stands_in_for_a_wrong_one_of_the_task(
    tmp_path: Path, settings: Settings
) -> None:
    task = load_task(write_task(tmp_path / "routing", TASK.replace("k = 4", 'k = "nine"')))

    report = compile_task(
        task, CompileOptions(lm=scripted_lm(learner), options={"k": 2}), settings
    ).report

    assert report["optimizer_options"] == {"k": 2}


def test_a_task_for_larger_models_says_so(tmp_path: Path, settings: Settings) -> None:
    text = TASK.replace("[metric]", 'needs_larger_model = "it must reason"\n[metric]')
    task = load_task(write_task(tmp_path / "routing", text))

    with pytest.raises(
        InvalidInput, match=r"larger model than the embedded one: it must reason; .*--model"
    ):
        compile_task(task, CompileOptions(), settings)
    assert not settings.runs.exists()


def only_run(settings: Settings) -> tuple[RunRow, Path]:
    (row,) = history(settings)
    return row, settings.runs / row.id


def test_ctrl_c_marks_the_run_and_leaves_no_artifact(tmp_path: Path, settings: Settings) -> None:
    asked: list[str] = []

    def answer(request: str) -> str:
        asked.append(request)
        if len(asked) == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return right(request)

    with pytest.raises(KeyboardInterrupt):
        compiled(tmp_path / "routing", settings, scripted_lm(answer), SEARCHED)
    row, folder = only_run(settings)

    assert row.status == "interrupted"
    assert "interrupted" in (folder / "run.log").read_text().splitlines()[-1]
    assert "model call failed" not in (folder / "run.log").read_text()
    assert not (folder / "artifact").exists()
    assert not (folder / "report.json").exists()


def test_a_metric_at_fault_inside_an_optimizer_ends_the_run(
    tmp_path: Path, settings: Settings
) -> None:
    text = SEARCHED.replace('name = "per_field"', 'file = "metric.py"')
    folder = write_task(tmp_path / "routing", text)
    (folder / "metric.py").write_text(
        "def metric(example, prediction, trace=None):\n"
        "    return 2.0 if example.text == 'validation message 3' else 0.5\n"
    )
    lm = scripted_lm(learner)

    with pytest.raises(MetricError, match=r"returned 2\.0 on data/validation\.jsonl:4"):
        compile_task(folder, CompileOptions(lm=lm), settings)
    row, _ = only_run(settings)

    assert row.status == "failed"
    assert "validation.jsonl:4" in str(row.error)
    assert len(lm.engine.requests) < 12 + 4 * 6


def test_more_failures_than_dspy_allows_do_not_end_a_run(
    tmp_path: Path, settings: Settings
) -> None:
    text = SEARCHED.replace("[metric]", 'format = "chat_only"\n[metric]')
    result = compiled(tmp_path / "routing", settings, scripted_lm(lambda request: "hm"), text)

    assert result.report["compiled"]["score"] == 0.0
    assert result.report["failures"]["baseline"]["count"] == 12
    assert "AdapterParseError" in result.report["failures"]["baseline"]["first"]


def test_a_model_that_breaks_is_one_line_and_a_failed_run(
    tmp_path: Path, settings: Settings
) -> None:
    def broken(request: str) -> str:
        raise dspy.lm15.ServerError("out of memory")

    with pytest.raises(EngineError, match="out of memory"):
        compiled(tmp_path / "routing", settings, scripted_lm(broken))

    assert only_run(settings)[0].status == "failed"


def test_a_home_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file, not a folder")

    with pytest.raises(StorageError) as raised:
        compiled(tmp_path / "routing", Settings(home=tmp_path / "home"))
    assert "\n" not in str(raised.value)


def test_a_full_disk_is_one_line_and_leaves_no_half_artifact(
    tmp_path: Path, settings: Settings
) -> None:
    asked: list[str] = []
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def answer(request: str) -> str:
        asked.append(request)
        if len(asked) == 24:
            # From here on no file may grow, as on a disk without space.
            resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
        return learner(request)

    try:
        with pytest.raises(StorageError) as raised:
            compiled(tmp_path / "routing", settings, scripted_lm(answer))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    (folder,) = settings.runs.iterdir()

    assert "\n" not in str(raised.value)
    assert {each.name for each in folder.iterdir()} == {
        ".lock",
        ".history.json",
        "task",
        "run.log",
        "events.jsonl",
        "examples.jsonl",
        "journal.log",
        "plan.json",
    }


TOOLS = """
def team_of(number: int) -> str:
    \"\"\"The team that takes a message.\"\"\"
    return "atlas" if number % 2 == 0 else "comet"
"""


def agent(request: str) -> str:
    """Looks the team up with the tool, finishes, and answers with what it found."""
    n = int(re.findall(r"## text ## \]\]\n.*message (\d+)", request)[-1])
    trajectory = request.split("[[ ## trajectory ## ]]")[-1]
    if (
        "Respond with the corresponding output fields, starting with the field `[[ ## reasoning"
        in request
    ):
        found = re.findall(r"observation_0 ## \]\]\n(\w+)", trajectory)[-1]
        return chat(reasoning="The tool says so.", team=found, urgent=n % 3 == 0)
    if "observation_0" in trajectory:
        return chat(next_thought="Done.", next_tool_name="finish", next_tool_args="{}")
    return chat(next_thought="Ask.", next_tool_name="team_of", next_tool_args=f'{{"number": {n}}}')


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


def examples(split: str, count: int) -> list[dspy.Example]:
    return [dspy.Example(**row).with_inputs("text") for row in rows(split, count)]


def test_a_program_of_ones_own_is_compiled_in_python(tmp_path: Path, settings: Settings) -> None:
    record = load_task(write_task(tmp_path / "routing")).signature
    assert record is not None
    program = build_module("predict", dspy_signature(record))

    result = compile_program(
        program,
        train=examples("train", 8),
        validation=examples("validation", 6),
        test=examples("test", 12),
        metric="exact",
        lm=scripted_lm(learner),
        options=CompileOptions(optimizer="labeled_few_shot"),
        settings=settings,
    )

    assert result.report["compiled"]["score"] == 1.0
    assert program.demos == []
    assert ask(made(result), {"text": "message 3"}, lm=scripted_lm(learner)) == {
        "team": "comet",
        "urgent": True,
    }


def test_a_metric_of_ones_own_is_a_function(settings: Settings) -> None:
    def metric(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> float:
        return float(prediction.team == example.team)

    class Own(dspy.Module):  # type: ignore[misc]  # DSPy ships no types
        def __init__(self) -> None:
            super().__init__()
            self.step = dspy.Predict("text: str -> team: str")

        def forward(self, text: str) -> dspy.Prediction:
            return self.step(text=text)

    result = compile_program(
        Own(),
        train=examples("train", 8),
        validation=examples("validation", 6),
        test=examples("test", 12),
        metric=metric,
        lm=scripted_lm(lambda request: chat(team="atlas")),
        options=CompileOptions(optimizer="labeled_few_shot", name="own"),
        settings=settings,
    )
    lm = scripted_lm(lambda request: chat(team="atlas"))
    loaded = load_artifact(made(result)).program(lm, into=Own())

    assert (result.report["metric"], result.report["signature"]) == ("metric", None)
    assert result.report["compiled"]["score"] == 0.5
    assert loaded.step.demos == [demo.toDict() for demo in result.program.step.demos]


def dated() -> list[dspy.Example]:
    return [dspy.Example(text="x", team=date(2026, 1, 2), urgent=True).with_inputs("text")]


NOTED = SIGNATURE.replace("[outputs.team]", '[inputs.note]\ntype = "str | None"\n\n[outputs.team]')


def test_inputs_that_examples_leave_out_are_inputs_of_the_artifact(
    tmp_path: Path, settings: Settings
) -> None:
    task = load_task(write_task(tmp_path / "routing", signature=NOTED))
    assert task.signature is not None
    program = build_module("predict", dspy_signature(task.signature))
    lm = scripted_lm(learner)
    both = (
        compile_task(task, CompileOptions(lm=lm), settings),
        compile_program(
            program,
            train=examples("train", 8),
            validation=examples("validation", 6),
            test=examples("test", 12),
            metric="exact",
            lm=lm,
            options=CompileOptions(optimizer="labeled_few_shot"),
            settings=settings,
        ),
    )

    for result in both:
        assert load_artifact(made(result)).manifest["inputs"] == ["text", "note"]
        outputs = ask(made(result), {"text": "message 2", "note": "so long"}, lm=lm)
        assert outputs["team"] == "atlas"
        assert "so long" in lm.engine.requests[-1]


def test_a_run_is_called_and_prompted_as_its_options_say(
    tmp_path: Path, settings: Settings
) -> None:
    lm = scripted_lm(learner)
    report = compiled(tmp_path / "routing", settings, lm, name="other", format="xml").report

    assert (report["task"], report["prompt_format"]) == ("other", "xml")
    assert "<team>" in lm.engine.requests[0]


def test_a_program_from_an_artifact_is_compiled_in_the_format_that_is_asked_for(
    tmp_path: Path, settings: Settings
) -> None:
    first = compiled(tmp_path / "routing", settings, format="xml")
    lm = scripted_lm(learner)

    compile_program(
        load_artifact(made(first)).program(scripted_lm(learner)),
        train=examples("train", 8),
        validation=examples("validation", 6),
        test=examples("test", 12),
        metric="exact",
        lm=lm,
        options=CompileOptions(optimizer="labeled_few_shot", format="chat_only"),
        settings=settings,
    )

    assert "[[ ## team ## ]]" in lm.engine.requests[0]


def test_a_model_opened_for_work_that_fails_is_given_back(
    tmp_path: Path, settings: Settings
) -> None:
    model = str(write_model(tmp_path / "once"))
    text = TASK.replace("[metric]", 'program = "program.py"\n[metric]')
    folder = write_task(tmp_path / "routing", text)
    (folder / "program.py").write_text(
        "import dspy\nbuilt = []\ndef program():\n    built.append(1)\n"
        "    assert len(built) < 2, 'built twice'\n"
        "    return dspy.Predict('text -> team, urgent')\n"
    )
    task = load_task(folder)

    with pytest.raises(InvalidInput, match="built twice"):
        compile_task(task, CompileOptions(model=model), settings)
    (folder / "program.py").write_text((folder / "program.py").read_text() + "\n")
    with pytest.raises(InvalidInput, match="built twice"):
        score_path(folder, model=model, settings=settings)
    assert not any(each.name == "dspy-tk engine once" for each in threading.enumerate())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": dated()}, "train example 0: field 'team' holds a date that JSON cannot hold"),
        ({"options": CompileOptions(model="embedded")}, "leave out the options' model, adapter"),
        ({"options": CompileOptions(name="a/../../../esc/x")}, "run name 'a/.*must be small"),
        ({"options": CompileOptions(format="xlm")}, "did you mean 'xml'"),
        ({"test": []}, "the test split is empty"),
        ({"train": [dspy.Example(text="x", team="y")]}, "train example 0 says not what its inputs"),
        ({"test": examples("train", 2)}, "test example 0 has the same inputs as train example 0"),
        ({"metric": "exct"}, "did you mean 'exact'"),
        ({"lm": dspy.LM("openai/gpt")}, "lm is a LM, whose calls cannot be counted"),
    ],
)
def test_bad_examples_in_python_are_named(
    settings: Settings, change: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {
        "train": examples("train", 4),
        "validation": examples("validation", 4),
        "test": examples("test", 4),
        "metric": "exact",
        "lm": scripted_lm(learner),
        "settings": settings,
    }

    with pytest.raises(ToolkitError, match=message):
        compile_program(dspy.Predict("text -> team, urgent"), **{**given, **change})
