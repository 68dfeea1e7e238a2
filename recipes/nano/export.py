"""Write a checkpoint as a folder that mlx-lm and transformers load.

python export.py --checkpoint runs/main/last.pt --tokenizer runs/tokenizer --out embedded
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from model import Shape
from safetensors.torch import save_file
from tokenizers import Tokenizer

END = "<|im_end|>"
CONTEXT = 1024


def config(shape: Shape, tokenizer: Tokenizer) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_attention_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_theta": shape.rope_theta,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "float16",
        "eos_token_id": tokenizer.token_to_id(END),
        "pad_token_id": tokenizer.token_to_id("<|pad|>"),
    }


def write(folder: Path, name: str, content: dict[str, object]) -> None:
    (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def export(checkpoint: Path, tokenizer_folder: Path, out: Path) -> None:
    """Write weights in float16, the configuration and the tokenizer.

    The files are written aside and then moved, so that no reader meets a half-written one.
    """
    saved = torch.load(checkpoint)
    shape = Shape(**saved["shape"])
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    aside = out.with_name(out.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    tensors = {"model.embed_tokens.weight": saved["table"]}
    tensors |= {f"model.{name}": value for name, value in saved["decoder"].items()}
    halves = {name: value.half().contiguous() for name, value in tensors.items()}
    save_file(halves, aside / "model.safetensors", metadata={"format": "pt"})
    settings = config(shape, tokenizer)
    write(aside, "config.json", settings)
    write(aside, "generation_config.json", {"eos_token_id": settings["eos_token_id"]})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_folder / name, aside / name)
    out.mkdir(parents=True, exist_ok=True)
    for file in aside.iterdir():
        file.chmod(0o644)
        file.replace(out / file.name)
    aside.rmdir()


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--checkpoint", type=Path, required=True)
    parse.add_argument("--tokenizer", type=Path, required=True)
    parse.add_argument("--out", type=Path, required=True)
    args = parse.parse_args()
    export(args.checkpoint, args.tokenizer, args.out)


if __name__ == "__main__":
    main()
