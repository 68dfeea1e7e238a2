from __future__ import annotations

import json
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from dspy_toolkit.compiler.job import CompileResult
from dspy_toolkit.compiler.outcomes import FILE
from dspy_toolkit.compiler.run import CompileOptions, compile_task
from dspy_toolkit.compiler.run_comparison import compare_runs, differing_settings
from dspy_toolkit.compiler.run_export import export_run
from dspy_toolkit.compiler.runs import Run, delete_runs, find_run, list_runs
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput, NotFound
from dspy_toolkit.programs.task import load_task
from dspy_toolkit.store.files import sha256_bytes
from dspy_toolkit.store.history import History, RunRow
from dspy_toolkit.store.lock import working_in
from tests.compiler.test_gated_runs import spoilt
from tests.compiler.test_report import GOOD
from tests.programs.tasks import TASK, learner, right, rows, scripted_lm, write_lines, write_task

ROW = RunRow("a", "routing", "labeled_few_shot", "embedded", 0, 1000.0)


def compiled(
    folder: Path,
    settings: Settings,
    answer: Any = learner,
    text: str = TASK,
    tests: int = 12,
    **options: Any,
) -> CompileResult:
    write_task(folder, text)
    write_lines(folder / "data" / "test.jsonl", rows("test", tests))
    chosen = CompileOptions(lm=scripted_lm(answer), **options)
    return compile_task(load_task(folder), chosen, settings)


def run_of(settings: Settings, result: CompileResult) -> Run:
    return find_run(settings, result.report["run"])


def noted(settings: Settings, *made: RunRow) -> None:
    history = History(settings.database)
    for row in made:
        history.add(row)
    history.close()


def test_runs_are_listed_newest_first_with_what_they_came_to(
    tmp_path: Path, settings: Settings
) -> None:
    noted(
        settings,
        replace(ROW, status="failed", error="metric raised"),
        replace(ROW, id="b", task="other", started_at=2000.0, status="finished", report=GOOD),
    )
    newest, oldest = (run.facts() for run in list_runs(settings))

    assert (newest["run"], newest["baseline"], newest["compiled"]) == ("b", 0.25, 1.0)
    assert (newest["verdict"], newest["calls"]["made"]) == ("not shown better", 4)
    assert (oldest["status"], oldest["error"], oldest["verdict"]) == (
        "failed",
        "metric raised",
        None,
    )
    assert oldest["started_at"] == "1970-01-01T00:16:40+00:00"
    assert [run.row.id for run in list_runs(settings, task="other")] == ["b"]
    assert [run.row.id for run in list_runs(settings, limit=1)] == ["b"]


def test_a_run_of_training_is_listed_without_scores(settings: Settings) -> None:
    noted(settings, replace(ROW, status="finished", report={"run": "a", "seconds": 3.5}))
    (run,) = list_runs(settings)
    facts = run.facts()

    assert (facts["seconds"], facts["compiled"], facts["calls"]) == (3.5, None, None)
    with pytest.raises(InvalidInput, match="has no compiled score"):
        compare_runs(run, run)


def test_a_home_without_runs_has_an_empty_list_and_stays_untouched(settings: Settings) -> None:
    assert list_runs(settings) == []
    assert not settings.home.exists()
    with pytest.raises(NotFound, match="has no runs"):
        find_run(settings, "a")


def test_listing_200_runs_is_one_query_and_opens_no_file(settings: Settings) -> None:
    noted(
        settings, *(replace(ROW, id=f"{n:03}", status="finished", report=GOOD) for n in range(200))
    )
    statements: list[str] = []

    def note(_c: object, _cur: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        runs = list_runs(settings, limit=500)
    finally:
        event.remove(Engine, "before_cursor_execute", note)

    assert len(runs) == 200
    assert sum(statement.startswith("SELECT") for statement in statements) == 1
    # No run of these has a folder, so nothing can have been read from one.
    assert not settings.runs.exists()


def test_listing_loads_neither_dspy_nor_numpy(settings: Settings) -> None:
    noted(settings, ROW)
    code = (
        "import sys; from dspy_toolkit.cli.main import app; app(['runs', 'list'], "
        "standalone_mode=False); print(sorted({'dspy', 'numpy', 'mlx'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"DSPY_TK_HOME": str(settings.home)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.splitlines()[-1] == "[]"


KILLED = """
import sys
from pathlib import Path
from dspy_toolkit.compiler.course import Plan, Start
from dspy_toolkit.compiler.record import recorded
from dspy_toolkit.config import Settings

facts = dict(task="routing", optimizer="labeled_few_shot", model="embedded", seed=0)
start = Start(Plan({}, {}))
with recorded(Settings(home=Path(sys.argv[1])), start, fill=lambda place: place.mkdir(), **facts):
    print("here", flush=True)
    sys.stdin.read()
"""


def test_a_killed_run_shows_as_died_and_can_be_deleted(settings: Settings) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, settings.home], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        (alive,) = list_runs(settings)
        assert alive.status == "running"
        with pytest.raises(InvalidInput, match="is still running; stop it first"):
            delete_runs(settings, [alive.row.id])
        with pytest.raises(InvalidInput, match="still running; export it when it has ended"):
            export_run(alive, settings.home / "x.zip")

        process.send_signal(signal.SIGKILL)
        process.wait()

    (dead,) = list_runs(settings)
    assert dead.status == "died"
    delete_runs(settings, [dead.row.id])
    assert list_runs(settings) == []


def test_an_unknown_run_names_the_nearest(tmp_path: Path, settings: Settings) -> None:
    noted(settings, replace(ROW, id="20260101-120000-routing-0a1b"))

    with pytest.raises(NotFound, match="did you mean '20260101-120000-routing-0a1b'"):
        find_run(settings, "20260101-120000-routing-0a1c")
    with pytest.raises(NotFound, match="`dspy-tk runs list` shows them"):
        find_run(settings, "zzz")


def test_settings_that_differ_are_named_with_both_values(
    tmp_path: Path, settings: Settings
) -> None:
    first = compiled(tmp_path / "a", settings)
    second = compiled(tmp_path / "b", settings, seed=3, options={"k": 2})

    assert differing_settings(run_of(settings, first), run_of(settings, second)) == {
        "optimizer_options.k": (4, 2),
        "seed": (0, 3),
    }


def test_a_run_without_report_is_compared_by_what_is_known_of_it(
    tmp_path: Path, settings: Settings
) -> None:
    first = run_of(settings, compiled(tmp_path / "a", settings))
    noted(settings, replace(ROW, seed=5, model=first.row.model, status="failed"))

    assert differing_settings(first, find_run(settings, "a")) == {"seed": (0, 5)}


def test_a_run_that_died_is_compared_by_its_plan(tmp_path: Path, settings: Settings) -> None:
    first = run_of(settings, compiled(tmp_path / "a", settings))
    second = run_of(settings, compiled(tmp_path / "b", settings, options={"k": 2}))
    died = replace(second, row=replace(second.row, report=None))

    assert differing_settings(first, died) == {"option k": (4, 2)}


def test_results_on_the_same_examples_are_compared_in_pairs(
    tmp_path: Path, settings: Settings
) -> None:
    good = run_of(settings, compiled(tmp_path / "a", settings, tests=40))
    bad = run_of(settings, compiled(tmp_path / "b", settings, spoilt, tests=40, keep_anyway=True))
    there, back = compare_runs(bad, good), compare_runs(good, bad)

    assert there.judgement is not None
    assert back.judgement is not None
    assert there.interval is not None
    assert (there.judgement.verdict, back.judgement.verdict) == ("better", "worse")
    assert there.difference == -back.difference > 0
    assert there.interval[0] < there.difference < there.interval[1]
    assert there.unpaired is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tests": 30}, "their test examples differ"),
        ({"text": TASK.replace("per_field", "exact")}, "their metrics differ: per_field and exact"),
    ],
)
def test_results_that_cannot_be_paired_say_why(
    tmp_path: Path, settings: Settings, change: dict[str, Any], reason: str
) -> None:
    first = run_of(settings, compiled(tmp_path / "a", settings))
    second = run_of(settings, compiled(tmp_path / "b", settings, **change))
    result = compare_runs(first, second)

    assert (result.unpaired, result.interval, result.judgement) == (reason, None, None)


def test_runs_that_lost_their_scores_are_not_paired(tmp_path: Path, settings: Settings) -> None:
    first, second = (run_of(settings, compiled(tmp_path / name, settings)) for name in "ab")
    (second.folder / FILE).unlink()

    assert "was not kept by both" in str(compare_runs(first, second).unpaired)


def test_a_run_without_result_is_not_compared(tmp_path: Path, settings: Settings) -> None:
    first = run_of(settings, compiled(tmp_path / "a", settings))
    noted(settings, replace(ROW, status="failed"))

    with pytest.raises(InvalidInput, match=r"run a has no compiled score \(failed\)"):
        compare_runs(first, find_run(settings, "a"))


def test_an_export_holds_the_run_its_digests_and_nothing_else(
    tmp_path: Path, settings: Settings
) -> None:
    run = run_of(settings, compiled(tmp_path / "a", settings, right))
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("hidden")
    (run.folder / "link").symlink_to(secret / "key")
    (run.folder / "folder").symlink_to(secret)
    export_run(run, tmp_path / "run.zip")

    with zipfile.ZipFile(tmp_path / "run.zip") as archive:
        names = set(archive.namelist())
        content = {name: archive.read(name) for name in names}
    manifest = json.loads(content.pop(f"{run.row.id}/manifest.json"))

    assert {f"{run.row.id}/{name}" for name in manifest["files"]} == content.keys()
    assert manifest["files"]["report.json"] == sha256_bytes(content[f"{run.row.id}/report.json"])
    assert {"task/task.toml", "artifact/program.json", FILE, "run.log"} <= manifest["files"].keys()
    assert not any("key" in name or "link" in name or ".lock" in name for name in names)
    assert manifest["run"] == run.row.id


def test_an_export_overwrites_nothing(tmp_path: Path, settings: Settings) -> None:
    run = run_of(settings, compiled(tmp_path / "a", settings))
    (tmp_path / "run.zip").write_text("mine")

    with pytest.raises(InvalidInput, match="already exists"):
        export_run(run, tmp_path / "run.zip")
    assert (tmp_path / "run.zip").read_text() == "mine"


def test_deleting_removes_row_and_folder_of_those_named_only(
    tmp_path: Path, settings: Settings
) -> None:
    first, second = (run_of(settings, compiled(tmp_path / name, settings)) for name in "ab")
    delete_runs(settings, [first.row.id])

    assert [run.row.id for run in list_runs(settings)] == [second.row.id]
    assert [folder.name for folder in settings.runs.iterdir()] == [second.row.id]


def test_nothing_is_deleted_when_one_of_several_is_unknown_or_running(
    tmp_path: Path, settings: Settings
) -> None:
    first = run_of(settings, compiled(tmp_path / "a", settings))
    noted(settings, ROW)
    (settings.runs / "a").mkdir()

    with pytest.raises(NotFound):
        delete_runs(settings, [first.row.id, "none"])
    with working_in(settings.runs / "a", "run a"), pytest.raises(InvalidInput):
        delete_runs(settings, [first.row.id, "a"])
    assert first.folder.is_dir()
    assert len(list_runs(settings)) == 2


def test_a_deletion_that_was_cut_short_is_finished_by_the_next(
    tmp_path: Path, settings: Settings
) -> None:
    run = run_of(settings, compiled(tmp_path / "a", settings))
    run.folder.rename(settings.runs / f".{run.row.id}.deleted")
    delete_runs(settings, [run.row.id])

    assert list_runs(settings) == []
    assert list(settings.runs.iterdir()) == []
