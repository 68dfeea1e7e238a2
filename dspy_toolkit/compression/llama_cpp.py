"""What llama.cpp itself makes of a GGUF file, through the package xllamacpp."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dspy_toolkit.compression.plain import PlainModel, Probe
from dspy_toolkit.errors import IntegrityError

PACKAGE = "xllamacpp"
_CONTEXT = 512
_TIMEOUT_S = 600
_LIKELIEST = 256
# Where tokenizers of different makers part: accents, digits, spaces, contractions, other scripts.
_TEXTS = (
    "Héllo wörld, 12345 tickets:  don't\n\n  break ☃ naïve 東京 🙂",
    "def f(x):\n\treturn x**2  # 3.14159",
    "I'LL say we're 1,000,000.50 $$$ ...   end \n",
)


@dataclass(frozen=True)
class Reading:
    """One prompt as llama.cpp continues it.

    Attributes:
        tokens: likeliest ones after it, one after the other; one that ends an answer is the last.
        logprobs: natural logarithms by token, of the likeliest first tokens; empty where the first
            token is no whole character, of which llama.cpp tells none.
    """

    tokens: list[int]
    logprobs: dict[int, float]

    def into(self, logits: np.ndarray) -> np.ndarray:
        """Another model's logits (vocabulary,), those of the likeliest tokens replaced."""
        top = logits.max()
        replaced = logits.astype(np.float64)
        total = top + np.log(np.exp(replaced - top).sum())
        for token, logprob in self.logprobs.items():
            replaced[token] = logprob + total
        return replaced


def installed() -> bool:
    """Whether llama.cpp can be asked."""
    return importlib.util.find_spec(PACKAGE) is not None


def version() -> str:
    """What a report calls it."""
    return f"llama.cpp ({PACKAGE} {importlib.metadata.version(PACKAGE)})"


class LlamaCpp:
    """A GGUF file opened by llama.cpp, on the CPU, with keys and values in float32.

    Raises:
        IntegrityError: it does not load the file.
    """

    def __init__(self, file: Path) -> None:
        runtime: Any = importlib.import_module(PACKAGE)
        how = runtime.CommonParams()
        how.model.path = str(file)
        how.n_ctx, how.n_parallel, how.n_gpu_layers = _CONTEXT, 1, 0
        how.warmup, how.fit_params, how.verbosity = False, False, -1
        how.cache_type_k = how.cache_type_v = runtime.ggml_type.GGML_TYPE_F32
        how.flash_attn_type = runtime.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        try:
            self._server = runtime.Server(how)
        except RuntimeError as error:
            raise IntegrityError(f"llama.cpp does not load {file.name} ({error})") from None
        # It listens on this machine only, which no proxy may come between.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def tokens(self, text: str, special: bool = False) -> list[int]:
        """How it divides a text; `special` adds what a prompt begins with."""
        asked = {"content": text, "add_special": special, "parse_special": True}
        found: list[int] = self._ask("tokenize", asked)["tokens"]
        return found

    def prompt(self, question: str) -> str:
        """A question through the file's own chat template."""
        turns = [{"role": "user", "content": question}]
        return str(self._ask("apply-template", {"messages": turns})["prompt"])

    def read(self, tokens: Sequence[int], new: int) -> Reading:
        """Continue a prompt."""
        asked = {"prompt": list(tokens), "n_predict": new, "n_probs": _LIKELIEST}
        greedy = {"temperature": 0.0, "return_tokens": True, "cache_prompt": False}
        reply = self._ask("completion", {**asked, **greedy})
        said: list[int] = reply["tokens"]
        places = reply["completion_probabilities"]
        first = places[0]["top_logprobs"] if said and places and places[0]["id"] == said[0] else []
        return Reading(said, {int(each["id"]): float(each["logprob"]) for each in first})

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{self._server.listening_address}/{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as reply:
                return json.load(reply)
        except OSError as error:
            raise IntegrityError(f"llama.cpp does not answer ({path}: {error})") from None


def readings(file: Path, plain: PlainModel, probes: Sequence[Probe], new: int) -> list[Reading]:
    """What llama.cpp says to each probe.

    Args:
        plain: the original.
        new: tokens after each probe.

    Raises:
        IntegrityError: it does not load the file, divides a text or renders a question otherwise
            than the original does, or tells no probabilities.
    """
    runtime, tokenizer = LlamaCpp(file), plain.opened.tokenizer
    for text in _TEXTS:
        if runtime.tokens(text) != list(tokenizer.encode(text, add_special_tokens=False)):
            raise IntegrityError(
                f"llama.cpp divides the text {text!r} otherwise than the model's tokenizer; use "
                "--to safetensors and llama.cpp's own convert_hf_to_gguf.py"
            )
    for probe in probes:
        said = runtime.prompt(probe.question) if tokenizer.has_chat_template else probe.text
        if runtime.tokens(said, special=True) != probe.tokens:
            raise IntegrityError(
                f"llama.cpp reads the question {probe.question!r} as {said!r}, the model itself as "
                f"{probe.text!r}; use --to safetensors or onnx"
            )
    found = [runtime.read(probe.tokens, new) for probe in probes]
    if not any(each.logprobs for each in found):
        raise IntegrityError(
            f"llama.cpp tells no probabilities of {file.name}, so nothing shows that it answers "
            "alike; use --to safetensors or onnx"
        )
    return found
