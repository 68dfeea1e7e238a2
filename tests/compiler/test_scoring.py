from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dspy_toolkit.compiler.run import CompileOptions, compile_task
from dspy_toolkit.compiler.scoring import score_path
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput, NotFound
from dspy_toolkit.programs.artifact import load_artifact, save_artifact
from dspy_toolkit.programs.task import load_task
from dspy_toolkit.registry import load_file
from dspy_toolkit.registry.toml_text import to_toml
from tests.programs.tasks import TASK, learner, scripted_lm, write_task


@pytest.fixture
def run(tmp_path: Path, settings: Settings) -> Path:
    task = load_task(write_task(tmp_path / "routing"))
    return compile_task(task, CompileOptions(lm=scripted_lm(learner)), settings).folder


def test_a_tasks_bare_program_is_scored(tmp_path: Path, settings: Settings) -> None:
    folder = write_task(tmp_path / "routing")

    score = score_path(folder, lm=scripted_lm(learner), settings=settings)

    assert (score.score, score.n, score.artifact, score.split) == (0.75, 12, None, "test")
    assert score.calls.made == 12
    assert not settings.runs.exists()


def test_a_tasks_signature_is_looked_for_in_the_given_home(
    tmp_path: Path, settings: Settings
) -> None:
    folder = write_task(tmp_path / "routing", TASK.replace('"signature.toml"', '"route"'))
    place = settings.signatures / "route" / "1.0.0.toml"
    place.parent.mkdir(parents=True)
    (folder / "signature.toml").rename(place)

    score = score_path(folder, lm=scripted_lm(learner), settings=settings)

    assert score.signature == "route@1.0.0"


def test_an_artifact_is_scored_on_the_task_its_run_kept(
    tmp_path: Path, settings: Settings, run: Path
) -> None:
    shutil.rmtree(tmp_path / "routing")

    for path in (run, run / "artifact"):
        score = score_path(path, split="validation", lm=scripted_lm(learner), settings=settings)

        assert (score.score, score.n, score.signature) == (1.0, 6, "route@1.0.0")
        assert score.to_dict()["artifact"] == str(run / "artifact")


def test_the_modules_of_a_metric_are_kept_with_the_run(tmp_path: Path, settings: Settings) -> None:
    metric = '[metric]\nfile = "metric.py"'
    folder = write_task(tmp_path / "routing", TASK.replace('[metric]\nname = "per_field"', metric))
    (folder / "lib").mkdir()
    (folder / "lib" / "words.py").write_text("FULL = 1.0\n")
    (folder / "metric.py").write_text(
        "from lib.words import FULL\ndef metric(example, prediction, trace=None): return FULL\n"
    )
    options = CompileOptions(lm=scripted_lm(learner), keep_anyway=True)
    run = compile_task(load_task(folder), options, settings).folder
    shutil.rmtree(folder)

    assert score_path(run, lm=scripted_lm(learner), settings=settings).score == 1.0


def test_an_artifact_without_its_run_needs_a_task(
    tmp_path: Path, settings: Settings, run: Path
) -> None:
    moved = shutil.copytree(run / "artifact", tmp_path / "moved")
    shutil.rmtree(run)

    with pytest.raises(NotFound, match="name it with --task FOLDER"):
        score_path(moved, lm=scripted_lm(learner), settings=settings)
    score = score_path(moved, task=tmp_path / "routing", lm=scripted_lm(learner), settings=settings)

    assert score.score == 1.0


def test_answers_that_cannot_be_read_are_counted(tmp_path: Path, settings: Settings) -> None:
    score = score_path(
        write_task(tmp_path / "routing"), lm=scripted_lm(lambda request: "hm"), settings=settings
    )

    assert (score.score, score.failures) == (0.0, 12)
    assert "AdapterParseError" in str(score.first_failure)


def test_what_is_neither_task_nor_artifact_is_named(tmp_path: Path, settings: Settings) -> None:
    lm = scripted_lm(learner)

    with pytest.raises(NotFound, match="does not exist"):
        score_path(tmp_path / "none", lm=lm, settings=settings)
    with pytest.raises(InvalidInput, match="neither a task"):
        score_path(tmp_path, lm=lm, settings=settings)
    with pytest.raises(InvalidInput, match="did you mean 'train'"):
        score_path(write_task(tmp_path / "routing"), split="trian", lm=lm, settings=settings)


def test_an_artifact_carried_to_another_signature_wants_a_task_of_it(
    tmp_path: Path, settings: Settings, run: Path
) -> None:
    newer = replace(load_file(tmp_path / "routing" / "signature.toml"), version="2.0.0")
    (tmp_path / "routing" / "signature.toml").write_text(to_toml(newer))
    old = load_artifact(run / "artifact")
    carried = tmp_path / "carried"
    save_artifact(
        carried,
        old.program(scripted_lm(learner)),
        replace(old.plan, signature=newer),
        scripted_lm(learner),
        {key: old.manifest[key] for key in ("run", "seed", "prompt_format", "inputs")},
    )

    with pytest.raises(InvalidInput, match=r"from route@1\.0\.0 to route@2\.0\.0 .*--task"):
        score_path(carried, lm=scripted_lm(learner), settings=settings)
    task = tmp_path / "routing"
    score = score_path(carried, task=task, lm=scripted_lm(learner), settings=settings)

    assert (score.score, score.signature) == (1.0, "route@2.0.0")
