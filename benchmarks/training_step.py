"""The MLX training step beside the same model in PyTorch, on the CPU in float32.

    python benchmarks/training_step.py --torch /path/to/python-with-torch
    python benchmarks/training_step.py --profile

Both sides start from the same weights and read the same tokens, and their losses are compared, so
that the step timed is the same. Each side runs in a process of its own, one after the other,
several times in turn; the fastest of each counts, since other load only ever adds time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 2
RATE = 1e-3


def main() -> None:
    options = parse()
    if options.side:
        side = {"mlx": mlx_side, "torch": torch_side, "profile": mlx_profile}[options.side]
        sys.stdout.write(json.dumps(side(options)) + "\n")
        return
    if options.profile:
        show_profile(run_side(options, "profile", sys.executable))
        return
    with tempfile.TemporaryDirectory() as folder:
        options.start = f"{folder}/start.npz"
        sides = {"mlx": sys.executable, **({"torch": options.torch} if options.torch else {})}
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for _ in range(options.rounds):
            for side, python in sides.items():
                runs[side].append(run_side(options, side, python))
    show(options, runs)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", help="a Python that can import torch; without it MLX alone")
    parser.add_argument("--profile", action="store_true", help="time the parts of MLX's step")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--inner", type=int, default=384)
    parser.add_argument("--vocabulary", type=int, default=1600)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--answers", type=float, default=1.0, help="share of tokens with a loss")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of either side")
    parser.add_argument("--side", choices=("mlx", "torch", "profile"), help=argparse.SUPPRESS)
    parser.add_argument("--start", help=argparse.SUPPRESS)
    return parser.parse_args()


def run_side(options: argparse.Namespace, side: str, python: str) -> dict[str, Any]:
    given = {key: value for key, value in vars(options).items() if key not in ("torch", "profile")}
    given["side"] = side
    arguments = [f"--{key}={value}" for key, value in given.items() if value is not None]
    ran = subprocess.run([python, __file__, *arguments], stdout=subprocess.PIPE, check=True)
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def draws(options: argparse.Namespace) -> tuple[Any, Any]:
    """Tokens (rows, length + 1), and flat places (n,) after which a token is predicted."""
    import numpy as np

    rng = np.random.default_rng(0)
    tokens = rng.integers(0, options.vocabulary, (options.rows, options.length + 1))
    count = round(options.rows * options.length * options.answers)
    places = np.sort(rng.permutation(options.rows * options.length)[:count])
    return tokens.astype(np.int32), places.astype(np.int32)


def timed(options: argparse.Namespace, step: Callable[[], float]) -> dict[str, Any]:
    losses = [step() for _ in range(WARM_UP)]
    wall, cpu = [], []
    for _ in range(options.steps):
        began, spent = time.perf_counter(), time.process_time()
        losses.append(step())
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - spent)
    return {"seconds": min(wall), "cpu_seconds": min(cpu), "losses": losses}


def mlx_side(options: argparse.Namespace) -> dict[str, Any]:
    """The step that `dspy-tk train` makes."""
    import numpy as np

    sys.path.insert(0, str(ROOT))
    from dspy_toolkit.engine.blas import preload_blas

    report = preload_blas()
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from dspy_toolkit.training.attention import in_blocks
    from dspy_toolkit.training.backbone import Abilities
    from dspy_toolkit.training.batches import rows_batch
    from dspy_toolkit.training.cores import one_blas_thread
    from dspy_toolkit.training.gradients import gradient_maker
    from dspy_toolkit.training.language_loss import answer_loss
    from dspy_toolkit.training.optimizers import make_optimizer
    from dspy_toolkit.training.packing import Row
    from dspy_toolkit.training.recipe import LossRecipe, OptimizerRecipe
    from dspy_toolkit.training.stepping import Stepper

    mx.set_default_device(mx.cpu)
    model = llama(options)
    if not Path(options.start).exists():
        np.savez(
            options.start,
            **{name: np.array(each) for name, each in tree_flatten(model.parameters())},
        )
    model.load_weights([(name, mx.array(each)) for name, each in np.load(options.start).items()])
    tokens, places = draws(options)
    goals = np.zeros((options.rows, options.length + 1), np.float32)
    goals[places // options.length, places % options.length + 1] = 1
    rows = [
        Row(each, goal, np.ones_like(each), ()) for each, goal in zip(tokens, goals, strict=True)
    ]
    batch = rows_batch(rows, False, options.threads)
    recipe = OptimizerRecipe(name="adamw", learning_rate=RATE, weight_decay=0.01)
    loss = answer_loss(LossRecipe(), Abilities(splits=True, masks=True))
    makes = gradient_maker(model, loss, options.threads, compiled=False)
    stepper = Stepper(model, make_optimizer(recipe), makes, 1.0, compiled=False)
    with in_blocks(model), one_blas_thread():
        result = timed(options, lambda: stepper.step([batch], RATE).loss)
    stepper.close()
    parameters = sum(each.size for _, each in tree_flatten(model.parameters()))
    return {**result, "blas": str(report.path), "parameters": parameters}


def llama(options: argparse.Namespace) -> Any:
    import mlx.core as mx
    from mlx_lm.models.llama import Model, ModelArgs

    mx.random.seed(0)
    return Model(
        ModelArgs(
            model_type="llama",
            hidden_size=options.width,
            num_hidden_layers=options.layers,
            intermediate_size=options.inner,
            num_attention_heads=options.heads,
            rms_norm_eps=1e-5,
            vocab_size=options.vocabulary,
        )
    )


def torch_side(options: argparse.Namespace) -> dict[str, Any]:
    """The same llama, written as PyTorch code is: fused attention, fused AdamW."""
    import numpy as np
    import torch
    from torch.nn import functional

    torch.set_num_threads(options.threads)
    start = np.load(options.start)
    weights = {name: torch.nn.Parameter(torch.from_numpy(start[name])) for name in start.files}
    table = weights["model.embed_tokens.weight"]
    size = options.width // options.heads
    angles = torch.outer(
        torch.arange(options.length).float(), 10000.0 ** (-torch.arange(0, size, 2).float() / size)
    )
    cosine, sine = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)

    def rotate(x: Any) -> Any:
        first, second = x.chunk(2, -1)
        return x * cosine + torch.cat([-second, first], -1) * sine

    def norm(x: Any, name: str) -> Any:
        return functional.rms_norm(x, (options.width,), weights[name], 1e-5)

    def block(x: Any, layer: str) -> Any:
        attention, feed = f"{layer}.self_attn", f"{layer}.mlp"
        y = norm(x, f"{layer}.input_layernorm.weight")
        q, k, v = (
            functional.linear(y, weights[f"{attention}.{name}_proj.weight"])
            .view(options.rows, options.length, options.heads, size)
            .transpose(1, 2)
            for name in "qkv"
        )
        z = functional.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
        z = z.transpose(1, 2).reshape(options.rows, options.length, options.width)
        x = x + functional.linear(z, weights[f"{attention}.o_proj.weight"])
        y = norm(x, f"{layer}.post_attention_layernorm.weight")
        gate = functional.silu(functional.linear(y, weights[f"{feed}.gate_proj.weight"]))
        up = functional.linear(y, weights[f"{feed}.up_proj.weight"])
        return x + functional.linear(gate * up, weights[f"{feed}.down_proj.weight"])

    tokens, places = draws(options)
    inputs, where = torch.from_numpy(tokens[:, :-1]).long(), torch.from_numpy(places).long()
    targets = torch.from_numpy(tokens[:, 1:].reshape(-1)[places]).long()
    optimizer = torch.optim.AdamW(weights.values(), lr=RATE, weight_decay=0.01, fused=True)

    def step() -> float:
        x = functional.embedding(inputs, table)
        for i in range(options.layers):
            x = block(x, f"model.layers.{i}")
        x = norm(x, "model.norm.weight").flatten(0, 1)[where]
        loss = functional.cross_entropy(x @ table.T, targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        return float(loss.detach())

    return {**timed(options, step), "torch": torch.__version__}


def mlx_profile(options: argparse.Namespace) -> dict[str, Any]:
    """Forward and backward of each part of a step on its own, times how often a step has it."""
    sys.path.insert(0, str(ROOT))
    from dspy_toolkit.engine.blas import preload_blas

    preload_blas()
    import mlx.core as mx
    import mlx.nn as nn

    from dspy_toolkit.training.cores import one_blas_thread

    mx.set_default_device(mx.cpu)
    tokens, width, inner = options.rows * options.length, options.width, options.inner
    size = width // options.heads
    x, gate = mx.random.normal((tokens, width)), mx.random.normal((tokens, inner))
    square, wide = mx.random.normal((width, width)), mx.random.normal((inner, width))
    table = mx.random.normal((options.vocabulary, width))
    count = round(tokens * options.answers)
    logits = mx.random.normal((count, options.vocabulary))
    targets = mx.zeros((count,), mx.int32)
    heads = mx.random.normal((options.rows, options.heads, options.length, size))
    scores = mx.random.normal((options.rows, options.heads, options.length, options.length))
    layers = options.layers

    def both(function: Callable[..., Any], *arrays: Any) -> Callable[[], Any]:
        graded = mx.value_and_grad(lambda *a: function(*a).sum(), tuple(range(len(arrays))))
        return lambda: graded(*arrays)

    parts: dict[str, tuple[int, Callable[[], Any]]] = {
        "products of width by width": (4 * layers, both(lambda a, b: a @ b.T, x, square)),
        "products of the feed-forward": (3 * layers, both(lambda a, b: a @ b.T, x, wide)),
        "product with the vocabulary": (1, both(lambda a, b: a @ b.T, x[:count], table)),
        "products of attention": (
            layers,
            both(lambda a, b: (a @ b.swapaxes(-1, -2)) @ a, heads, heads),
        ),
        "exp: softmax of attention": (layers, both(lambda a: mx.softmax(a, axis=-1), scores)),
        "exp: SwiGLU": (layers, both(lambda a, b: nn.silu(a) * b, gate, gate)),
        "exp: cross-entropy": (
            1,
            both(lambda a: nn.losses.cross_entropy(a, targets), logits),
        ),
        "norms": (2 * layers + 1, both(lambda a: mx.fast.rms_norm(a, None, 1e-5), x)),
    }
    mx.eval(x, gate, square, wide, table, logits, heads, scores)
    with one_blas_thread():
        return {
            name: times * min(_seconds(part, mx.eval) for _ in range(options.steps))
            for name, (times, part) in parts.items()
        }


def _seconds(part: Callable[[], Any], evaluate: Callable[..., None]) -> float:
    began = time.process_time()
    evaluate(part())
    return time.process_time() - began


def show(options: argparse.Namespace, runs: dict[str, list[dict[str, Any]]]) -> None:
    tokens = options.rows * options.length
    best = {side: min(run["seconds"] for run in each) for side, each in runs.items()}
    cpu = {side: min(run["cpu_seconds"] for run in each) for side, each in runs.items()}
    first = runs["mlx"][0]
    lines = [
        f"{first['parameters']:,} parameters, {options.rows} x {options.length} tokens, "
        f"loss on {options.answers:.0%} of them, {options.threads} thread(s), float32",
        f"BLAS of MLX: {first['blas']}",
        *(
            f"{side:<6} {1e3 * seconds:8.0f} ms a step {tokens / seconds:9,.0f} tokens/s "
            f"{1e3 * cpu[side]:8.0f} ms of processor time"
            for side, seconds in best.items()
        ),
    ]
    if "torch" in runs:
        apart = max(
            abs(a - b) for a, b in zip(first["losses"], runs["torch"][0]["losses"], strict=True)
        )
        lines.append(
            f"MLX takes {best['mlx'] / best['torch']:.2f} times as long as PyTorch, and "
            f"{cpu['mlx'] / cpu['torch']:.2f} times the processor time (steadier under other load)"
        )
        lines.append(f"losses of both differ by at most {apart:.1e}")
    sys.stdout.write("\n".join(lines) + "\n")


def show_profile(seconds: dict[str, float]) -> None:
    total = sum(seconds.values())
    for name, each in sorted(seconds.items(), key=lambda item: -item[1]):
        sys.stdout.write(f"{name:<30} {1e3 * each:8.0f} ms {each / total:6.0%}\n")


if __name__ == "__main__":
    main()
