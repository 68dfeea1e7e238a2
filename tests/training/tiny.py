"""A tokenizer and a llama small enough to train inside a test, and data it can learn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOPICS = {
    "parcel": ("box", "courier", "delivery", "address"),
    "billing": ("invoice", "refund", "card", "charge"),
    "device": ("screen", "battery", "charger", "cable"),
}
OPENINGS = ("my {} is wrong", "please look at the {}", "what about the {} today", "the {} broke")
CONFIG = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 2,
}


def make_tokenizer(folder: Path) -> Path:
    """Write a byte-level BPE tokenizer with a ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([json.dumps(example(i)) for i in range(60)], trainer)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": "<|im_end|>",
                "pad_token": "<|pad|>",
                "chat_template": CHATML,
            }
        )
    )
    return folder


def example(index: int) -> dict[str, Any]:
    """A conversation whose answer names the topic of the word in the question."""
    topic = sorted(TOPICS)[index % 3]
    words = TOPICS[topic]
    text = OPENINGS[index // 3 % 4].format(words[index // 12 % 4])
    return {
        "messages": [
            {"role": "user", "content": text},
            {"role": "assistant", "content": topic},
        ]
    }


def write_lines(path: Path, values: Sequence[Mapping[str, Any]]) -> Path:
    """Write JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def write_toml(path: Path, values: Mapping[str, Any]) -> Path:
    """Write nested tables as TOML, enough of it for recipes."""
    plain = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    lines += _tables(values, "")
    path.write_text("\n".join(lines) + "\n")
    return path


def _tables(values: Mapping[str, Any], prefix: str) -> list[str]:
    lines: list[str] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines.append(f"[{prefix}{key}]")
            inner = {k: v for k, v in value.items() if not isinstance(v, Mapping)}
            lines += [f"{k} = {json.dumps(v)}" for k, v in inner.items()]
            lines += _tables(value, f"{prefix}{key}.")
    return lines
