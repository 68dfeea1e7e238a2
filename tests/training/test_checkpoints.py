from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_toolkit.errors import StorageError
from dspy_toolkit.events import CheckpointDamaged, CheckpointSaved, Event, subscribed
from dspy_toolkit.training.checkpoints import Checkpoints, Snapshot, save_arrays

SNAPSHOT = Snapshot(
    weights={"layer.weight": mx.arange(6.0).reshape(2, 3)},
    optimizer={"step": mx.array(4, mx.uint64), "layer.weight.m": mx.ones((2, 3), mx.bfloat16)},
    state={"progress": {"step": 4}},
)


def store(folder: Path, keep_last: int = 2, keep_best: int = 0) -> Checkpoints:
    return Checkpoints("run", folder, keep_last, keep_best)


def test_what_is_saved_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    store(tmp_path).save(4, 0.5, SNAPSHOT)

    again = store(tmp_path)
    assert again.newest is not None
    read = again.load(again.newest)
    for before, after in ((SNAPSHOT.weights, read.weights), (SNAPSHOT.optimizer, read.optimizer)):
        assert before.keys() == after.keys()
        assert all(after[name].dtype == array.dtype for name, array in before.items())
        assert all(mx.array_equal(after[name], array).item() for name, array in before.items())
    assert read.state == SNAPSHOT.state
    assert (again.newest.step, again.newest.loss) == (4, 0.5)


def flip_a_bit(folder: Path) -> None:
    file = folder / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def cut_short(folder: Path) -> None:
    file = folder / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


def change_state(folder: Path) -> None:
    (folder / "state.json").write_text('{"progress": {"step": 9}}')


def lose_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def put_in_another_place(folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(folder.parent / "step-00000004", folder)


DAMAGES = [flip_a_bit, cut_short, change_state, lose_the_manifest, empty, put_in_another_place]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    first = store(tmp_path)
    first.save(4, None, SNAPSHOT)
    damaged = first.save(8, None, SNAPSHOT)
    damage(damaged.folder)
    heard: list[Event] = []

    with subscribed(heard.append):
        again = store(tmp_path)

    assert again.newest is not None
    assert again.newest.step == 4
    assert [type(event) for event in heard] == [CheckpointDamaged]
    assert (tmp_path / "damaged-0-step-00000008").is_dir()
    assert again.save(8, None, SNAPSHOT).folder.is_dir()


steps_and_losses = st.lists(
    st.one_of(st.none(), st.floats(0, 9, allow_nan=False)), min_size=1, max_size=6
)


@settings(max_examples=8, deadline=None)
@given(steps_and_losses, st.integers(1, 3), st.integers(0, 3))
def test_the_best_and_the_last_stay_and_no_others(
    tmp_path_factory: pytest.TempPathFactory,
    losses: list[float | None],
    keep_last: int,
    keep_best: int,
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    made = store(folder, keep_last, keep_best)
    small = Snapshot({"a": mx.zeros(1)}, {"b": mx.zeros(1)}, {})

    for step, loss in enumerate(losses, start=1):
        made.save(step, loss, small)

    kept = {each.step for each in store(folder, keep_last, keep_best).all}
    last = set(range(1, len(losses) + 1)[-keep_last:])
    best = sorted((loss, step) for step, loss in enumerate(losses, start=1) if loss is not None)
    assert kept == last | {step for _, step in best[:keep_best]}


def test_the_best_is_the_one_of_lowest_loss(tmp_path: Path) -> None:
    made = store(tmp_path, 1, 2)
    for step, loss in ((1, 0.7), (2, 0.2), (3, 0.9)):
        made.save(step, loss, SNAPSHOT)

    assert made.best is not None
    assert made.best.step == 2


def test_without_space_nothing_is_written_or_removed(tmp_path: Path) -> None:
    store(tmp_path).save(1, None, SNAPSHOT)
    full = Checkpoints("run", tmp_path, 1, 0, free=lambda folder: 1000)

    with pytest.raises(StorageError, match=r"needs 1 MB and .* has 0 MB left"):
        full.save(2, None, SNAPSHOT)

    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_what_a_kill_left_behind_is_removed(tmp_path: Path) -> None:
    for name in (".step-00000003.abc.tmp", ".dying-step-00000001"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.safetensors").write_bytes(b"torn")

    assert store(tmp_path).newest is None
    assert not list(tmp_path.iterdir())


def test_a_step_is_saved_once(tmp_path: Path) -> None:
    made = store(tmp_path)
    heard: list[Event] = []

    with subscribed(heard.append):
        first, second = made.save(1, None, SNAPSHOT), made.save(1, None, SNAPSHOT)

    assert first == second
    assert [type(event) for event in heard] == [CheckpointSaved]


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        save_arrays(tmp_path / "missing" / "weights.safetensors", SNAPSHOT.weights)
