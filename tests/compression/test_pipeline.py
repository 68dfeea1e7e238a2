"""The pipeline on the embedded model and a real task, quantized only, which takes seconds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dspy_toolkit.compression.make import run_pipeline
from dspy_toolkit.compression.plan import planned
from dspy_toolkit.compression.subject import look_at
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.programs.task import load_task
from tests.compression.making import packed_model

TRIAGE = Path(__file__).parents[2] / "examples" / "ticket_triage"
FEW = {"train": 8, "validation": 8, "test": 8}
# So many that the gate can call a broken model worse.
TESTED = 64
CANDIDATES = ("rtn-8", "rtn-4")


def triage(folder: Path, counts: dict[str, int]) -> Path:
    """The ticket example with its first examples of each split."""
    shutil.copytree(TRIAGE, folder)
    for split, count in counts.items():
        file = folder / "data" / f"{split}.jsonl"
        file.write_text("\n".join(file.read_text().splitlines()[:count]) + "\n")
    task = folder / "task.toml"
    text = task.read_text().split("[optimizer]")[0]
    # A model that is broken on purpose would write on to the end of its context.
    task.write_text(
        f'{text}[generation]\nmax_tokens = 32\n\n[optimizer]\nname = "labeled_few_shot"\nk = 2\n'
    )
    return folder


@pytest.fixture(scope="module")
def small_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return triage(tmp_path_factory.mktemp("task") / "triage", FEW)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def report(small_task: Path, home: Settings) -> dict[str, Any]:
    return run_pipeline(
        small_task,
        "embedded",
        ["score>=baseline-0.1", "size<=0.6x"],
        candidates=CANDIDATES,
        block=4,
        settings=home,
    )


def test_a_smaller_model_that_keeps_the_goals_is_recommended(report: dict[str, Any]) -> None:
    chosen = next(p for p in report["points"] if p["name"] == report["recommended"])
    original = report["points"][0]

    assert chosen["size_bytes"] <= 0.6 * original["size_bytes"]
    assert chosen["score"] >= original["score"] - 0.1 - 1e-9
    assert chosen["name"] in report["front"]
    assert report["evidence"]["examples"] == FEW["test"]
    assert report["evidence"]["gate"]["verdict"] in ("better", "not shown better", "worse")


def test_report_and_plot_lie_in_its_folder(report: dict[str, Any]) -> None:
    folder = Path(report["folder"])

    assert json.loads((folder / "report.json").read_text()) == report
    assert report["recommended"] in (folder / "pareto.svg").read_text()


def test_no_more_calls_than_scoring_everything(report: dict[str, Any]) -> None:
    assert 0 < report["calls"] <= report["exhaustive_calls"]


def test_asked_again_it_goes_on_where_it_stopped(
    report: dict[str, Any], small_task: Path, home: Settings
) -> None:
    journal = Path(report["folder"]) / "journal.json"
    kept = json.loads(journal.read_text())
    # As a kill leaves it: the last block of the original's scores is not there yet.
    cut = {**kept, "scores": {"original": kept["scores"]["original"][:4]}}
    cut.pop("confirmed", None)
    journal.write_text(json.dumps(cut))

    again = run_pipeline(
        small_task,
        "embedded",
        ["score>=baseline-0.1", "size<=0.6x"],
        candidates=CANDIDATES,
        block=4,
        settings=home,
    )

    assert again == report


def test_an_impossible_goal_is_named_with_the_nearest_point(
    small_task: Path, home: Settings
) -> None:
    found = run_pipeline(
        small_task, "embedded", ["size<=0.1x"], candidates=CANDIDATES, block=4, settings=home
    )

    assert found["recommended"] is None
    assert found["nearest"]["name"] == "rtn-4"
    assert [miss["goal"] for miss in found["nearest"]["misses"]] == ["size<=0.1x"]
    assert found["calls"] == FEW["validation"]


@pytest.mark.slow
def test_a_candidate_that_only_its_score_keeps_out_gets_prompts_of_its_own(
    small_task: Path, home: Settings
) -> None:
    found = run_pipeline(
        small_task,
        "embedded",
        ["score>=baseline+0.9"],
        candidates=["rtn-8"],
        recompile=1,
        block=4,
        settings=home,
    )
    point = found["points"][1]

    assert "with prompts of its own" in point["reason"]
    assert Path(point["program"]).is_dir()
    assert found["calls_recompiling"] == FEW["validation"]
    assert found["recommended"] is None


@pytest.mark.slow
def test_one_that_is_worse_on_the_test_examples_is_rolled_back(
    home: Settings, tmp_path: Path
) -> None:
    found = run_pipeline(
        triage(tmp_path / "triage", {**FEW, "test": TESTED}),
        "embedded",
        ["score>=baseline-1"],
        candidates=["rtn-2", "rtn-8"],
        block=4,
        settings=home,
    )
    states = {point["name"]: point["state"] for point in found["points"]}

    assert states["rtn-2"] == "rolled back"
    assert found["recommended"] == "rtn-8"
    assert found["calls_confirming"] == 4 * TESTED


def test_the_result_is_a_model_that_programs_run_on(
    report: dict[str, Any], small_task: Path, home: Settings
) -> None:
    from dspy_toolkit.compiler.scoring import score_path

    chosen = next(p for p in report["points"] if p["name"] == report["recommended"])
    scored = score_path(small_task, model=chosen["folder"], settings=home)

    assert scored.n == len(load_task(small_task).data.test.examples)


def test_an_unknown_candidate_is_told(small_task: Path, home: Settings) -> None:
    with pytest.raises(InvalidInput, match="did you mean 'gptq-4'"):
        run_pipeline(small_task, "embedded", [], candidates=["gptq4"], settings=home)


def test_what_a_model_does_not_allow_is_told_not_tried(settings: Settings, tmp_path: Path) -> None:
    allowed, refused = planned(look_at(str(packed_model(tmp_path)), settings))

    assert not allowed
    assert all("quantized already" in each.reason for each in refused)
