from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from dspy_toolkit.compression.build import build, order
from dspy_toolkit.compression.calibration import CalibrationSet
from dspy_toolkit.compression.divergence import Reference
from dspy_toolkit.compression.dwq import learnable, settle
from dspy_toolkit.compression.mixed import sensitivities, spend
from dspy_toolkit.compression.opened import open_subject, working_device
from dspy_toolkit.compression.packing import Packing, pack, plain_modules
from dspy_toolkit.compression.smooth import smooth, smoothing_factors
from dspy_toolkit.compression.subject import Unsupported, look_at
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import EngineError, InvalidInput, StorageError
from tests.compression.making import reading
from tests.engine.tiny import write_architecture, write_model

LOW, HIGH = Packing(4, 32), Packing(8, 32)


def test_smoothing_factors_by_hand() -> None:
    inputs = mx.array([16.0, 1.0])
    weights = [mx.array([[4.0, -1.0], [2.0, 0.5]]), mx.array([[1.0, 4.0]])]

    # sqrt(16 / 4), sqrt(1 / 4)
    assert smoothing_factors(inputs, weights, 0.5).tolist() == pytest.approx([2.0, 0.5])


def test_smoothing_changes_no_answer(model: Path, data: CalibrationSet, settings: Settings) -> None:
    subject = look_at(str(model), settings)
    opened = open_subject(subject, working_device(settings))
    tokens = mx.array(data.windows(32, 2))
    before = opened.model(tokens)
    weights = {name: mx.array(a) for name, a in tree_flatten(opened.model.parameters())}

    smooth(opened.model, tokens, subject, 0.5)

    after = dict(tree_flatten(opened.model.parameters()))
    assert mx.allclose(before, opened.model(tokens), atol=1e-3)
    assert any(not mx.allclose(weights[name], after[name]) for name in weights)


def test_packing_counts_bits_scales_and_biases() -> None:
    assert Packing(4, 64).nbytes(128, 2) == 128 * 4 // 8 + 2 * (2 + 2)
    assert Packing(8, 32, "mxfp8").nbytes(64, 2) == 64 + 2


def test_bits_go_where_a_byte_saves_most() -> None:
    hurts, sizes = {"a": 1.0, "b": 0.9, "c": 0.1}, {"a": 640, "b": 64, "c": 64}
    low = sum(LOW.nbytes(size, 2) for size in sizes.values())
    step = HIGH.nbytes(64, 2) - LOW.nbytes(64, 2)

    chosen = spend(hurts, sizes, LOW, HIGH, low + 1.5 * step, 2)

    assert chosen == {"a": LOW, "b": HIGH, "c": LOW}


@given(
    st.dictionaries(st.text("abcdef", min_size=1), st.floats(0, 5), min_size=1),
    st.floats(0, 3000),
)
def test_bits_never_cost_more_than_the_budget(hurts: dict[str, float], room: float) -> None:
    sizes = {path: 64 * (1 + len(path)) for path in hurts}
    least = sum(LOW.nbytes(size, 2) for size in sizes.values())

    chosen = spend(hurts, sizes, LOW, HIGH, least + room, 2)

    assert sum(chosen[path].nbytes(sizes[path], 2) for path in hurts) <= least + room


def test_sensitivities_leave_the_model_as_it_was(
    model: Path, data: CalibrationSet, settings: Settings
) -> None:
    opened = open_subject(look_at(str(model), settings), working_device(settings))
    before = {path: mx.array(module.weight) for path, module in plain_modules(opened.model).items()}
    reference = Reference(opened.model, data.held, int(opened.config["vocab_size"]))

    found = sensitivities(opened.model, reference.compare_kl, Packing(2, 32))

    assert found.keys() == before.keys()
    assert max(found.values()) > 1e-3
    assert reference.compare_kl(opened.model) == pytest.approx(0.0, abs=1e-6)


def test_unpacked_modules_answer_as_packed_ones(model: Path, settings: Settings) -> None:
    opened = open_subject(look_at(str(model), settings), working_device(settings))
    pack(opened.model, opened.config, LOW, lambda path: LOW)
    tokens = mx.array([[3, 1, 4, 1, 5]])
    before = opened.model(tokens)

    packed = learnable(opened.model, unpack=True)
    unpacked = opened.model(tokens)
    settle(opened.model, packed)

    assert mx.allclose(before, unpacked, atol=1e-3)
    assert mx.allclose(before, opened.model(tokens), atol=1e-3)


def test_learnt_scales_are_nearer_than_rounding(
    model: Path, data: CalibrationSet, settings: Settings
) -> None:
    packed: dict[str, Any] = {"bits": 3, "group": 32}
    plain = build(order(str(model), "rtn", packed, data, settings), settings)
    learnt = {**packed, "steps": 12, "batch": 4, "learning_rate": 3e-3}
    better = build(order(str(model), "dwq", learnt, data, settings), settings)

    assert better.measures["kl"] < 0.9 * plain.measures["kl"]


def test_rounding_is_that_of_mlx_lm(
    model: Path, data: CalibrationSet, settings: Settings, tmp_path: Path
) -> None:
    from mlx_lm import convert

    from dspy_toolkit.compression.opened import silent

    with silent():
        convert(
            str(model), str(tmp_path / "theirs"), quantize=True, q_group_size=32, q_bits=4,
            dtype="bfloat16",
        )  # fmt: skip
    theirs: Any = mx.load(str(tmp_path / "theirs" / "model.safetensors"))

    ours = build(order(str(model), "rtn", {"bits": 4, "group": 32}, data, settings), settings)

    found: Any = mx.load(str(ours.folder / "model.safetensors"))
    assert found.keys() == theirs.keys()
    assert all(mx.array_equal(found[name], theirs[name]) for name in found)


def test_numbers_outside_layers_are_counted(settings: Settings, tmp_path: Path) -> None:
    model = write_architecture(tmp_path / "mamba", "mamba")

    made = build(order(str(model), "rtn", {"group": 32}, None, settings), settings)

    assert made.measures["parameters"] == look_at(str(model), settings).parameters


def test_gptq_names_the_bits_it_packs(
    model: Path, data: CalibrationSet, settings: Settings
) -> None:
    with pytest.raises(Unsupported, match="2, 4 or 8 bits, not 3"):
        order(str(model), "gptq", {"bits": 3}, data, settings)


def test_gptq_names_the_matrix_it_cannot_pack(settings: Settings, tmp_path: Path) -> None:
    model = write_architecture(tmp_path / "mamba", "mamba")
    text = reading(tmp_path / "text", model, settings)

    with pytest.raises(Unsupported, match=r"dt_proj have 4 numbers"):
        build(order(str(model), "gptq", {"group": 32}, text, settings), settings)


def test_awq_names_the_architectures_it_knows(
    data: CalibrationSet, settings: Settings, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "other", more={"model_type": "olmo"})

    with pytest.raises(Unsupported, match=r"'olmo'; it supports .*llama"):
        order(str(folder), "awq", {"bits": 4}, data, settings)


def test_a_mode_has_its_own_bits(model: Path, settings: Settings) -> None:
    with pytest.raises(InvalidInput, match="mxfp4 has 4 bits and groups of 32"):
        order(str(model), "rtn", {"mode": "mxfp4", "bits": 8}, None, settings)


def test_a_method_without_its_data_says_how_to_give_them(model: Path, settings: Settings) -> None:
    with pytest.raises(InvalidInput, match="name a task with --task"):
        order(str(model), "awq", {}, None, settings)


def test_a_full_disk_is_told_before_starting(
    model: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    wanted = order(str(model), "rtn", {"bits": 6, "group": 32}, None, settings)
    plain = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type(plain(path))(1, 1, 0))

    with pytest.raises(StorageError, match="MB of disk"):
        build(wanted, settings)

    assert not wanted.folder.exists()


def test_too_little_memory_is_told_before_starting(model: Path, settings: Settings) -> None:
    from dataclasses import replace

    wanted = order(str(model), "rtn", {"bits": 6, "group": 32}, None, settings)
    huge = replace(wanted, estimate=replace(wanted.estimate, memory_bytes=10**15))

    with pytest.raises(EngineError, match="GB of memory"):
        build(huge, settings)


def test_a_damaged_model_is_refused(model: Path, settings: Settings, tmp_path: Path) -> None:
    import shutil

    from dspy_toolkit.engine.source import ModelBroken

    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])

    with pytest.raises(ModelBroken, match="cut short"):
        order(str(broken), "rtn", {}, None, settings)


def test_a_kill_leaves_the_original_and_nothing_half(model: Path, tmp_path: Path) -> None:
    import signal
    import subprocess
    import sys

    from tests.conformance.technique_contract import fingerprints

    before = fingerprints(model)
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "import dspy_toolkit.compression.build as build\n"
        "from dspy_toolkit.compression.make import make\n"
        "from dspy_toolkit.config import Settings\n"
        "build.write_manifest = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "home = Settings(home=Path(sys.argv[2]))\n"
        "make(sys.argv[1], 'rtn', {'group': 32}, settings=home)\n"
    )
    command = [sys.executable, "-c", code, str(model), str(tmp_path)]
    ended = subprocess.run(command, check=False)

    assert ended.returncode == -signal.SIGKILL
    assert fingerprints(model) == before
    assert not [each for each in (tmp_path / "models").iterdir() if not each.name.startswith(".")]
    again = build(
        order(str(model), "rtn", {"group": 32}, None, Settings(home=tmp_path)),
        Settings(home=tmp_path),
    )
    assert again.fresh
