"""Make the embedded model again, on MLX; stop it at any time and call it again to go on.

python recipes/nano/make.py --out recipes/nano/runs --tokens 50000000
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dspy_toolkit.cli.training_progress import TrainingProgress
from dspy_toolkit.config import load_settings
from dspy_toolkit.engine.blas import preload_blas
from dspy_toolkit.errors import ToolkitError
from dspy_toolkit.events import subscribed
from dspy_toolkit.training import load_recipe, resume, train

HERE = Path(__file__).parent
TOKENS_A_STEP = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "runs", help="where it works")
    parser.add_argument("--tokens", type=int, default=50_000_000, help="in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", choices=("auto", "gpu", "cpu"), default="auto")
    asked = parser.parse_args()
    preload_blas()
    steps = max(2, asked.tokens // TOKENS_A_STEP)
    warm_steps = max(1, round(0.28 * steps))
    asked.out.mkdir(parents=True, exist_ok=True)
    start = asked.out / "start"
    if not start.exists():
        lay_down(start, asked.out / "warm", warm_steps, asked.seed, asked.device)
    report = trained(start, steps - warm_steps, asked)
    sys.stdout.write(f"{report['result']}\n")


def lay_down(start: Path, warm: Path, steps: int, seed: int, device: str) -> None:
    """Warm up, and write the model that real text is begun with."""
    import mlx.core as mx
    import numpy as np
    import pretrain
    import shape
    import tokens
    from embedding import start_table

    from dspy_toolkit.engine.device import choose_device
    from dspy_toolkit.store.files import new_folder, write_json

    with shown():
        model = pretrain.warm(warm, steps, seed, choose_device(device, "float32"))
    told = {name: round(share, 2) for name, share in pretrain.accuracies(model).items()}
    sys.stderr.write(f"right after the warm-up: {json.dumps(told)}\n")
    tokenizer = tokens.build()
    decoder, vectors = pretrain.parts(model)
    table = mx.array(np.ascontiguousarray(start_table(tokenizer, vectors, seed)))
    ends = {"eos_token_id": tokenizer.token_to_id("<|im_end|>"), "pad_token_id": 0}
    with new_folder(start) as folder:
        tokens.save(tokenizer, folder)
        weights = {**decoder, "model.embed_tokens.weight": table}
        mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
        write_json(folder / "config.json", {**shape.config(len(table)), **ends})
        write_json(folder / "generation_config.json", {"eos_token_id": ends["eos_token_id"]})


def trained(start: Path, steps: int, asked: argparse.Namespace) -> dict[str, Any]:
    """Train on the curriculum; the report says where the model is."""
    settings = load_settings({"home": asked.out / "home"})
    begun = sorted(settings.runs.glob("*/run.json"))
    with shown():
        if begun:
            return resume(str(begun[-1].parent), settings)
        recipe = load_recipe(HERE / "nano.toml")
        schedule = dataclasses.replace(recipe.schedule, warmup_steps=min(150, steps // 2))
        return train(
            dataclasses.replace(
                recipe,
                seed=asked.seed,
                model=dataclasses.replace(
                    recipe.model, base=str(start.absolute()), device=asked.device
                ),
                training=dataclasses.replace(recipe.training, steps=steps),
                schedule=schedule,
            ),
            settings,
        )


@contextmanager
def shown() -> Iterator[None]:
    progress = TrainingProgress(shown=sys.stderr.isatty())
    with progress, subscribed(progress):
        yield


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped and saved; the same command goes on")
    except ToolkitError as error:
        sys.exit(f"error: {error}")
