from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.engine.blas import preload_blas
from dspy_toolkit.errors import IntegrityError, InvalidInput, NotFound
from dspy_toolkit.events import Event, RunResumed, TrainingStepped, subscribed
from dspy_toolkit.store.history import FINISHED, INTERRUPTED, History
from dspy_toolkit.store.lock import working_in
from dspy_toolkit.training import Recipe, resume, train
from dspy_toolkit.training.run_folder import open_run
from tests.training.conftest import RecipeMaker, Values, merged

ROOT = Path(__file__).parents[2]


class Crash(Exception):
    """Stands for a death of the process that runs no code of ours."""


def crash_at(step: int) -> Any:
    def crash(event: Event) -> None:
        if isinstance(event, TrainingStepped) and event.step == step:
            raise Crash

    return crash


def interrupt_at(step: int) -> Any:
    def interrupt(event: Event) -> None:
        if isinstance(event, TrainingStepped) and event.step == step:
            signal.raise_signal(signal.SIGINT)

    return interrupt


def outcome(settings: Settings) -> dict[str, bytes]:
    """Every array file of the only run: what was handed over, and the last checkpoint."""
    (run,) = settings.runs.iterdir()
    handed_over = [*run.glob("model/*.safetensors"), *run.glob("adapter/*.safetensors")]
    last = sorted(run.glob("checkpoints/step-*"))[-1]
    files = [*handed_over, *last.glob("*.safetensors")]
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


def learnt(report: dict[str, Any]) -> dict[str, Any]:
    return {key: report[key] for key in ("loss", "validation", "tokens", "steps", "weights_of")}


def undisturbed(recipe: Recipe, home: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    settings = Settings(home=home)
    report = train(recipe, settings)
    return outcome(settings), learnt(report)


def the_run(settings: Settings) -> str:
    (run,) = settings.runs.iterdir()
    return run.name


EVERYTHING: Values = {
    "data": {"validation": "validation.jsonl"},
    "schedule": {"name": "cosine", "warmup_steps": 2},
    "training": {
        "accumulation": 2,
        "clip_norm": 0.5,
        "evaluate_every": 3,
        "report_every": 4,
    },
}
KINDS: dict[str, Values] = {
    "adamw": EVERYTHING,
    "sgd": {"optimizer": {"name": "sgd", "momentum": 0.9}},
    "lion": {"optimizer": {"name": "lion"}},
    "muon": {"optimizer": {"name": "muon"}},
    "adafactor": {"optimizer": {"name": "adafactor"}},
    "unpacked": {"data": {"packing": False}},
    "augmented": {"augment": {"character_noise": 0.3}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_crashed_run_ends_bit_for_bit_as_if_it_had_not(
    recipe: RecipeMaker, settings: Settings, tmp_path: Path, kind: str
) -> None:
    made = recipe(KINDS[kind])
    expected = undisturbed(made, tmp_path / "undisturbed")

    with subscribed(crash_at(5)), pytest.raises(Crash):
        train(made, settings)
    heard: list[Event] = []
    with subscribed(heard.append):
        report = resume(the_run(settings), settings)

    assert [event.step for event in heard if isinstance(event, RunResumed)] == [3]
    assert (outcome(settings), learnt(report)) == expected
    assert report["resumed_at"] == [3]


def test_dropout_goes_on_as_if_nothing_had_happened(
    recipe: RecipeMaker, settings: Settings, tmp_path: Path, adapting: Values
) -> None:
    made = recipe(merged(adapting, {"adapter": {"dropout": 0.5, "layers": 1}}))
    expected = undisturbed(made, tmp_path / "undisturbed")

    with subscribed(crash_at(7)), pytest.raises(Crash):
        train(made, settings)
    report = resume(the_run(settings), settings)

    assert (outcome(settings), learnt(report)) == expected


def test_an_interrupt_saves_the_step_it_comes_in(
    recipe: RecipeMaker, settings: Settings, tmp_path: Path
) -> None:
    made = recipe(EVERYTHING)
    expected = undisturbed(made, tmp_path / "undisturbed")

    with subscribed(interrupt_at(4)), pytest.raises(KeyboardInterrupt):
        train(made, settings)
    history = History(settings.database)
    stopped = history.get(the_run(settings)).status
    report = resume(the_run(settings), settings)

    assert stopped == INTERRUPTED
    assert history.get(report["run"]).status == FINISHED
    assert report["resumed_at"] == [4]
    assert (outcome(settings), learnt(report)) == expected
    history.close()


def test_a_tampered_checkpoint_is_passed_over(
    recipe: RecipeMaker, settings: Settings, tmp_path: Path
) -> None:
    made = recipe({})
    expected = undisturbed(made, tmp_path / "undisturbed")
    with subscribed(crash_at(7)), pytest.raises(Crash):
        train(made, settings)
    weights = settings.runs / the_run(settings) / "checkpoints/step-00000006/weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 4
    weights.write_bytes(content)

    report = resume(the_run(settings), settings)

    assert report["resumed_at"] == [3]
    assert "weights.safetensors was changed" in report["damaged"][0]
    assert (outcome(settings), learnt(report)) == expected


def test_a_run_whose_every_checkpoint_is_damaged_begins_again(
    recipe: RecipeMaker, settings: Settings, tmp_path: Path
) -> None:
    made = recipe({})
    expected = undisturbed(made, tmp_path / "undisturbed")
    with subscribed(crash_at(5)), pytest.raises(Crash):
        train(made, settings)
    run = settings.runs / the_run(settings)
    (run / "checkpoints/step-00000003/optimizer.safetensors").write_bytes(b"torn")
    heard: list[Event] = []

    with subscribed(heard.append):
        report = resume(run.name, settings)

    assert [event.step for event in heard if isinstance(event, RunResumed)] == [0]
    assert report["resumed_at"] == []
    assert (outcome(settings), learnt(report)) == expected


def test_a_finished_run_gives_its_report_back(recipe: RecipeMaker, settings: Settings) -> None:
    report = train(recipe({}), settings)

    assert resume(report["run"], settings) == report
    assert resume(str(settings.runs / report["run"]), settings) == report


def test_a_run_does_not_go_on_with_other_data(
    values: Values, recipe: RecipeMaker, settings: Settings, tmp_path: Path
) -> None:
    data = tmp_path / "train.jsonl"
    data.write_bytes(Path(values["data"]["train"]).read_bytes())
    with subscribed(crash_at(5)), pytest.raises(Crash):
        train(recipe({"data": {"train": str(data)}}), settings)
    data.write_text(data.read_text() + '{"prompt": "x", "completion": "y"}\n')

    with pytest.raises(IntegrityError, match=r"train.jsonl was changed since run .* began"):
        resume(the_run(settings), settings)
    data.unlink()
    with pytest.raises(NotFound, match=r"train.jsonl does not exist"):
        resume(the_run(settings), settings)


def test_runs_that_cannot_be_resumed_say_why(recipe: RecipeMaker, settings: Settings) -> None:
    with subscribed(crash_at(5)), pytest.raises(Crash):
        train(recipe({}), settings)
    run = open_run(settings, the_run(settings))
    (settings.runs / "compiled").mkdir()

    with pytest.raises(NotFound, match="training run 'none' is not in"):
        resume("none", settings)
    with pytest.raises(NotFound, match="an empty id"):
        resume("", settings)
    with pytest.raises(InvalidInput, match="is no training run"):
        resume("compiled", settings)
    with (
        working_in(run.path, run.run),
        pytest.raises(InvalidInput, match="worked on by another process"),
    ):
        resume(run.run, settings)
    (run.path / "run.json").write_text('{"recipe": {}}')
    with pytest.raises(IntegrityError, match=r"run.json is damaged"):
        resume(run.run, settings)


def child(home: Path, what: str, step: int = 0, number: int = 0) -> subprocess.Popen[str]:
    """Train in another process, which may send itself a signal after a step.

    It multiplies with the same BLAS as this one: another adds up in another order.
    """
    blas = "auto" if preload_blas().loaded else "off"
    given = (str(home), what, str(step), str(number), blas)
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.child", *given],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> int:
    process.communicate()
    return process.returncode


def killed_after(process: subprocess.Popen[str], step: int) -> int:
    """Kill a process some time after it has made a step, whatever it is doing then."""
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= step:
            process.kill()
            break
    process.stdout.close()
    return process.wait()


def test_a_process_killed_at_a_random_step_is_gone_on_with_bit_for_bit(
    recipe: RecipeMaker, settings: Settings, tmp_path: Path
) -> None:
    made = recipe(EVERYTHING)
    expected = undisturbed(made, tmp_path / "undisturbed")
    step = random.Random().randint(1, 7)

    end = ended(child(settings.home, json.dumps(made.to_dict()), step, signal.SIGKILL))
    report = resume(the_run(settings), settings)

    assert end == -signal.SIGKILL
    assert (outcome(settings), learnt(report)) == expected, f"killed at {step}"


LONG: Values = {"training": {"steps": 40, "report_every": 5}, "checkpoint": {"every": 4}}


@pytest.mark.slow
def test_kills_at_random_steps_and_an_interrupt_change_no_bit(
    recipe: RecipeMaker, settings: Settings, tmp_path: Path
) -> None:
    made = recipe(merged(EVERYTHING, LONG))
    expected = undisturbed(made, tmp_path / "undisturbed")
    first, second, third = sorted(random.Random().sample(range(2, 39), 3))
    what = json.dumps(made.to_dict())

    ends = [ended(child(settings.home, what, first, signal.SIGKILL))]
    run = the_run(settings)
    ends.append(ended(child(settings.home, run, second, signal.SIGKILL)))
    ends.append(ended(child(settings.home, run, third, signal.SIGINT)))
    report = resume(run, settings)

    assert ends == [-signal.SIGKILL, -signal.SIGKILL, 130], f"killed at {first}, {second}, {third}"
    assert (outcome(settings), learnt(report)) == expected, f"killed at {first}, {second}, {third}"
    assert report["resumed_at"][-1] == third


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(3))
def test_an_adapter_survives_kills_in_the_midst_of_whatever_it_does(
    recipe: RecipeMaker, settings: Settings, tmp_path: Path, adapting: Values, attempt: int
) -> None:
    made = recipe(merged(adapting, {**LONG, "checkpoint": {"every": 1}}))
    expected = undisturbed(made, tmp_path / "undisturbed")
    steps = sorted(random.Random().sample(range(1, 35), 3))
    what = json.dumps(made.to_dict())

    for step in steps:
        assert killed_after(child(settings.home, what), step) in (-9, 0), f"killed at {steps}"
        what = the_run(settings)
    report = resume(what, settings)

    assert (outcome(settings), learnt(report)) == expected, f"killed at {steps}"
