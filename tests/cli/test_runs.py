from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from dspy_toolkit.cli.main import app
from dspy_toolkit.compiler.job import CompileResult
from dspy_toolkit.compiler.run import CompileOptions, compile_task
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput, NotFound
from dspy_toolkit.programs.task import load_task
from dspy_toolkit.store.history import History, RunRow
from tests.programs.tasks import TASK, learner, number_in, scripted_lm, write_task

WIDE = {"COLUMNS": "220"}


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSPY_TK_HOME", str(folder))
        yield folder


def answer(request: str) -> str:
    return "hm" if number_in(request) % 6 == 5 else learner(request)


@pytest.fixture(scope="module")
def runs(home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = write_task(
        tmp_path_factory.mktemp("tasks") / "routing",
        TASK.replace("[metric]", 'format = "chat_only"\n[metric]'),
    )
    settings = Settings(home=home, threads=4)

    def made(seed: int) -> CompileResult:
        options = CompileOptions(lm=scripted_lm(answer), seed=seed)
        return compile_task(load_task(folder), options, settings)

    return made(0).report["run"], made(1).report["run"]


def invoke(*arguments: object, **settings: Any) -> Result:
    return CliRunner().invoke(app, ["runs", *map(str, arguments)], env=WIDE, **settings)


def printed(*arguments: object) -> dict[str, Any]:
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.exception
    return dict(json.loads(result.stdout))


def test_list_shows_the_newest_first(runs: tuple[str, str]) -> None:
    facts = printed("list", "--task", "routing")["runs"]
    told = invoke("list").stdout

    assert [each["run"] for each in facts] == [runs[1], runs[0]]
    assert (facts[0]["status"], facts[0]["calls"]) == ("finished", {"made": 24, "cached": 0})
    assert all(word in told for word in (*runs, "came to", "not shown"))


def test_a_row_of_the_list_is_one_line_of_a_terminal(runs: tuple[str, str]) -> None:
    told = CliRunner().invoke(app, ["runs", "list"], env={"COLUMNS": "80"}).stdout
    rows = [line.split() for line in told.splitlines() if "routing" in line]

    assert [row[0] for row in rows] == [runs[1], runs[0]]
    assert all(row[-1] == "24" for row in rows)
    assert len([line for line in told.splitlines() if line.strip()]) == 2 + len(rows)


def test_a_long_name_in_the_list_breaks_no_word(runs: tuple[str, str], home: Path) -> None:
    run = f"20260101-120000-{'a_long_name_' * 5}-0a1b"
    with closing(History(home / "history.sqlite")) as history:
        history.add(RunRow(run, "long", "labeled_few_shot", "embedded", 0, 1000.0))
        history.interrupt(run)
        told = CliRunner().invoke(app, ["runs", "list"], env={"COLUMNS": "80"}).stdout
        history.remove(run)

    assert [run, "interrupted"] in [line.split() for line in told.splitlines()]


def test_list_says_when_there_is_none() -> None:
    told = invoke("list", "--task", "nothing")

    assert told.stdout == ""
    assert "no run of task 'nothing'" in told.stderr


def test_list_says_when_there_is_more(runs: tuple[str, str]) -> None:
    assert "the newest 1; more with --limit" in invoke("list", "--limit", 1).stderr


def test_show_tells_result_and_failures(runs: tuple[str, str]) -> None:
    told = invoke("show", runs[0]).stdout
    facts = printed("show", runs[0])

    for words in ("score before", "score after", "verdict", "labeled_few_shot", "finished"):
        assert words in told
    assert "baseline: 2 answers could not be used\n  data/test.jsonl:6: AdapterParseError" in told
    assert facts["report"]["run"] == runs[0]
    assert [(each["phase"], each["example"]) for each in facts["failures"]] == [
        ("baseline", "data/test.jsonl:6"),
        ("baseline", "data/test.jsonl:12"),
        ("compiled", "data/test.jsonl:6"),
        ("compiled", "data/test.jsonl:12"),
    ]


def test_show_of_a_run_that_failed_says_why(home: Path) -> None:
    history = History(home / "history.sqlite")
    history.add(RunRow("broken", "other", "labeled_few_shot", "embedded", 0, 1000.0))
    history.fail("broken", "the metric raised")
    history.close()
    told = invoke("show", "broken").stdout

    assert "the metric raised" in told
    assert "removed" in told
    assert printed("show", "broken")["report"] is None


def test_diff_and_compare_hold_two_runs_side_by_side(runs: tuple[str, str]) -> None:
    compared = printed("compare", *runs)

    assert printed("diff", *runs)["settings"] == {"seed": [0, 1]}
    assert "seed" in invoke("diff", *runs).stdout
    assert "the same settings" in invoke("diff", runs[0], runs[0]).stderr
    assert [score["n"] for score in compared["scores"]] == [12, 12]
    assert compared["judgement"]["verdict"] == "not shown better"
    assert f"not shown better than {runs[0]}" in invoke("compare", *runs).stdout


def test_diff_fits_a_terminal_and_leaves_ids_whole(runs: tuple[str, str]) -> None:
    told = CliRunner().invoke(app, ["runs", "diff", *runs], env={"COLUMNS": "80"}).stdout
    lines = told.splitlines()

    assert lines[:2] == [f"first   {runs[0]}", f"second  {runs[1]}"]
    assert ["seed", "0", "1"] in [line.split() for line in lines]
    assert max(map(len, lines)) <= 80


def test_show_leaves_paths_whole(runs: tuple[str, str], home: Path) -> None:
    told = CliRunner().invoke(app, ["runs", "show", runs[0]], env={"COLUMNS": "40"}).stdout

    assert f"folder  {home / 'runs' / runs[0]}" in told.splitlines()


@pytest.fixture
def dead(runs: tuple[str, str], home: Path) -> Iterator[str]:
    """A run whose process is gone."""
    run = "20260101-120000-routing-dead"
    (home / "runs" / run).mkdir()
    shutil.copy(home / "runs" / runs[0] / "plan.json", home / "runs" / run)
    with closing(History(home / "history.sqlite")) as history:
        history.add(RunRow(run, "routing", "labeled_few_shot", "embedded", 0, 1000.0))
        yield run
        history.remove(run)


def test_a_run_that_died_says_how_to_go_on(dead: str) -> None:
    shown, verified = invoke("show", dead), invoke("verify", dead)

    assert f"dspy-tk compile --resume {dead}" in shown.stderr
    assert isinstance(verified.exception, NotFound)
    assert str(verified.exception) == (
        f"run {dead} has no artifact: it died before its end; "
        f"go on with `dspy-tk compile --resume {dead}`"
    )


def test_export_prints_the_file_it_made(runs: tuple[str, str], tmp_path: Path) -> None:
    made = invoke("export", runs[0], "--output", tmp_path / "run.zip")

    assert made.stdout == f"{tmp_path / 'run.zip'}\n"
    assert printed("export", runs[0], "-o", tmp_path / "b.zip")["bytes"] > 1000
    assert isinstance(invoke("export", runs[0], "-o", tmp_path / "b.zip").exception, InvalidInput)


def test_delete_asks_first(home: Path) -> None:
    history = History(home / "history.sqlite")
    for name in ("x", "y"):
        history.add(RunRow(name, "other", "labeled_few_shot", "embedded", 0, 1.0, "failed"))
    history.close()
    refused = invoke("delete", "x", input="n\n")

    assert refused.exit_code == 1
    assert printed("show", "x")["run"] == "x"
    assert "deleted 1 run" in invoke("delete", "x", input="y\n").stderr
    assert isinstance(invoke("show", "x").exception, NotFound)
    assert printed("delete", "y", "--yes") == {"deleted": ["y"]}


@pytest.mark.parametrize("command", ["show", "diff", "compare", "export", "delete"])
def test_an_unknown_run_is_one_line_that_names_the_nearest(
    command: str, runs: tuple[str, str]
) -> None:
    wrong = f"{runs[0]}x"
    others = [runs[1]] if command in ("diff", "compare") else []
    result = invoke(command, wrong, *others)

    assert isinstance(result.exception, NotFound)
    assert f"did you mean '{runs[0]}'" in str(result.exception)


@pytest.mark.parametrize("command", ["list", "show", "diff", "compare", "export", "delete"])
def test_help_ends_with_an_example(command: str) -> None:
    assert f"Example: dspy-tk runs {command}" in invoke(command, "--help").stdout
