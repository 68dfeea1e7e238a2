"""mlx-lm's own way for the same recipe, each side in a process of its own, in turns.

Rounding runs both commands as users do. mlx-lm's commands for the other recipes fetch their own
calibration text, so its functions are called with ours instead, on float32 weights as here.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.compression_rows import Results

ROUNDS = {"rtn": 5, "awq": 2, "gptq": 2, "dwq": 2, "dynamic": 2}
PACKED = {"group_size": 64, "bits": 4}
DWQ = {"steps": 4, "batch": 2, "learning_rate": 1e-4}
BITS = 5.0
# A small process between: a peak counts what a process had when it was forked off.
WATCH = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
subprocess.run(
    sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
)
seconds = time.perf_counter() - began
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([round(seconds, 2), round(used.ru_utime + used.ru_stime, 2), used.ru_maxrss]))
"""


def peers(home: Path, kept: Results) -> None:
    """Measure what is not measured yet."""
    from dspy_toolkit.compiler.trial import Trial
    from dspy_toolkit.compression.calibration_sources import from_task
    from dspy_toolkit.compression.subject import look_at
    from dspy_toolkit.config import Settings

    settings = Settings(home=home)
    subject = look_at("embedded", settings)
    data = from_task(Trial(Path(kept.get("program")), settings=settings), subject, settings)
    place = settings.home / "calibration" / data.digest[:16]
    found: dict[str, list[dict[str, Any]]] = kept.get("peers") or {}
    turns = [
        (recipe, number)
        for number in range(max(ROUNDS.values()))
        for recipe, rounds in ROUNDS.items()
        if number < rounds
    ]
    for recipe, number in turns:
        for side in ("ours", "mlx-lm"):
            name = f"{recipe} {side}"
            if len(found.get(name, ())) > number:
                continue
            with tempfile.TemporaryDirectory() as folder:
                facts, made = ran(_command(recipe, side, subject.folder, place), Path(folder))
                facts.update(_judged(made, data, settings))
            found.setdefault(name, []).append(facts)
            kept.put("peers", found)


def ran(command: Sequence[str], folder: Path) -> tuple[dict[str, Any], Path]:
    """Run a side; seconds, those on processors, peak memory, and where its model lies."""
    out = folder / "model"
    done = subprocess.run(
        [sys.executable, "-c", WATCH, *(each.replace("OUT", str(out)) for each in command)],
        env={**os.environ, "DSPY_TK_HOME": str(folder / "home")},
        stdout=subprocess.PIPE,
        check=True,
    )
    seconds, processors, peak = json.loads(done.stdout)
    scale = 1e6 if sys.platform == "darwin" else 1e3
    facts = {"seconds": seconds, "cpu_s": processors, "peak_mb": round(peak / scale)}
    return facts, out


def _command(recipe: str, side: str, source: Path, calibration: Path) -> list[str]:
    if recipe == "rtn" and side == "ours":
        tool = str(Path(sys.executable).with_name("dspy-tk"))
        return [tool, "compress", "quantize", str(source), "--bits", "4", "--output", "OUT"]
    if recipe == "rtn":
        return [
            sys.executable, "-m", "mlx_lm", "convert", "--hf-path", str(source), "--mlx-path",
            "OUT", "-q", "--q-bits", "4", "--q-group-size", "64", "--dtype", "float16",
        ]  # fmt: skip
    return [
        sys.executable, "-m", "benchmarks.compression_peers", recipe, side, str(source),
        str(calibration), "OUT",
    ]  # fmt: skip


def _judged(made: Path, data: Any, settings: Any) -> dict[str, Any]:
    """Size, divergence on held-out answers, and a digest of the first numbers of every tensor."""
    import mlx.core as mx

    from dspy_toolkit.compression.divergence import Reference
    from dspy_toolkit.compression.opened import open_subject, working_device
    from dspy_toolkit.compression.subject import look_at
    from dspy_toolkit.store.files import sha256_json

    weights: Any = mx.load(str(made / "model.safetensors"))
    start = {
        name: weights[name].astype(mx.float32).flatten().tolist()[:512] for name in sorted(weights)
    }
    device = working_device(settings)
    with mx.stream(device.kind):
        original = open_subject(look_at("embedded", settings), device)
        reference = Reference(original.model, data.held, int(original.config["vocab_size"]))
        found = open_subject(look_at(str(made), settings), device)
        kl = reference.compare_kl(found.model)
    manifest = made / "manifest.json"
    measures = json.loads(manifest.read_text())["measures"] if manifest.is_file() else {}
    return {
        "measuring_s": measures.get("measuring_s"),
        "kl": round(kl, 6),
        "bytes": sum(array.nbytes for array in weights.values()),
        "digest": sha256_json(start)[:16],
    }


def one_side(recipe: str, side: str, source: Path, calibration: Path, out: Path) -> None:
    """One recipe by one side, model and data loaded."""
    from dspy_toolkit.engine.blas import preload_blas

    preload_blas()
    from dspy_toolkit.compression.calibration import load_calibration
    from dspy_toolkit.compression.opened import silent

    data = load_calibration(calibration)
    if side == "ours":
        ours(recipe, source, data, out)
        return
    with silent():
        THEIRS[recipe](source, data, out)


def ours(recipe: str, source: Path, data: Any, out: Path) -> None:
    """By this toolkit."""
    from dspy_toolkit.compression.build import build, order

    technique, options = {
        "awq": ("awq", {"bits": 4}),
        "gptq": ("gptq", {"bits": 4}),
        "dwq": ("dwq", {"bits": 4, **DWQ}),
        "dynamic": ("mixed", {"target": BITS}),
    }[recipe]
    build(order(str(source), technique, options, data), output=out)


def _loaded(source: Path) -> tuple[Any, Any, Any]:
    import mlx.core as mx
    from mlx_lm.utils import load

    model, tokenizer, config = load(str(source), return_config=True)
    model.set_dtype(mx.float32)
    return model, tokenizer, config


def _saved(source: Path, out: Path, model: Any, tokenizer: Any, config: Any) -> None:
    import mlx.core as mx
    from mlx_lm.utils import save

    model.set_dtype(mx.float16)
    save(out, str(source), model, tokenizer, config)


def their_awq(source: Path, data: Any, out: Path) -> None:
    """mlx-lm's awq on the windows that ours reads."""
    import mlx.core as mx
    from mlx_lm.quant.awq import AWQ_MODEL_CONFIGS, awq_quantize, update_config

    model, tokenizer, config = _loaded(source)
    windows = mx.array(data.windows(256, 8))
    awq_quantize(
        model, windows, AWQ_MODEL_CONFIGS[config["model_type"]], **PACKED,
        embed_bits=4, embed_group_size=64,
    )  # fmt: skip
    _saved(source, out, model, tokenizer, update_config(model, config))


def their_gptq(source: Path, data: Any, out: Path) -> None:
    """mlx-lm's gptq on the windows that ours reads."""
    import mlx.core as mx
    from mlx_lm.quant.gptq import gptq_quantize

    model, tokenizer, config = _loaded(source)
    windows = mx.array(data.windows(512, 32))
    model, quantization = gptq_quantize(
        model, windows, 4, 64, fallback_bits=4, fallback_group_size=64
    )
    config = {**config, "quantization": quantization}
    _saved(source, out, model, tokenizer, config)


def their_dwq(source: Path, data: Any, out: Path) -> None:
    """mlx-lm's dwq on the same rows, through packed products."""
    import mlx.core as mx
    import mlx.optimizers as optimizers
    from mlx_lm.quant.dwq import dwq_quantize
    from mlx_lm.utils import quantize_model

    model, tokenizer, config = _loaded(source)
    student = copy.deepcopy(model)
    _, config = quantize_model(student, config, **PACKED)
    rows = [(row.tokens.tolist(), int(row.goals.argmax())) for row in data.fit]
    count = DWQ["steps"] * DWQ["batch"]
    dwq_quantize(
        student,
        lambda batch, index, split: model(batch),
        optimizers.Adam(learning_rate=DWQ["learning_rate"], bias_correction=True),
        rows[: int(count)],
        rows[int(count) : int(count) + 2],
        batch_size=int(DWQ["batch"]),
        max_seq_length=1024,
        seed=0,
        dtype=mx.float32,
    )
    _saved(source, out, student, tokenizer, config)


def their_dynamic(source: Path, data: Any, out: Path) -> None:
    """mlx-lm's dynamic quantization at the same bits a weight."""
    import mlx.core as mx
    from mlx_lm.quant.dynamic_quant import estimate_sensitivities, estimate_threshold
    from mlx_lm.utils import quantize_model

    model, tokenizer, config = _loaded(source)
    low, high = {"bits": 4, "group_size": 64}, {"bits": 8, "group_size": 64}
    windows = mx.array(data.windows(256, 8))
    found = dict(estimate_sensitivities(model, windows, 4, 64, 8, 64))
    threshold = estimate_threshold(model, found, BITS, 4, 64, 8, 64)

    def predicate(path: str, module: Any) -> Any:
        if not hasattr(module, "to_quantized"):
            return False
        return high if found.get(path, 0.0) > threshold else low

    model, config = quantize_model(model, config, **PACKED, quant_predicate=predicate)
    _saved(source, out, model, tokenizer, config)


THEIRS = {"awq": their_awq, "gptq": their_gptq, "dwq": their_dwq, "dynamic": their_dynamic}

if __name__ == "__main__":
    one_side(sys.argv[1], sys.argv[2], *(Path(each) for each in sys.argv[3:6]))
