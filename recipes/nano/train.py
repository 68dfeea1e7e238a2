"""Train on episodes of real text, form after form; stop and go on at any time.

python train.py --warm runs/warm/warm.pt --tokenizer runs/tokenizer --out runs/main --minutes 60
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict, deque
from dataclasses import dataclass
from pathlib import Path
from random import Random

import mixture
import numpy as np
import torch
import torch.nn.functional as F
from embedding import start_table
from episodes import Piece
from model import Decoder, Shape, answer_logits
from tokenizers import Tokenizer
from tokens import PieceEncoder
from torch import Tensor

WHOLE, OTHERS = 4, 1024


@dataclass
class Batch:
    tokens: Tensor
    places: Tensor
    weights: Tensor
    seen: np.ndarray
    field: np.ndarray


class Rows:
    """Packs episodes into rows of one length."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self.encode, self.seed, self.drawn = PieceEncoder(tokenizer), seed, 0

    def batch(self, form: str, length: int, rows: int) -> Batch:
        tokens = np.zeros((rows, length), np.int64)
        answers: list[tuple[int, float, int, int]] = []
        row = 0
        while row < rows:
            self.drawn += 1
            rng = Random(f"{self.seed}:{self.drawn}")
            used = 0

            def room(pieces: list[Piece]) -> bool:
                nonlocal used
                size = sum(len(self.encode(piece.text)) for piece in pieces)
                fits = used + size <= length
                used += size * fits
                return fits

            ids: list[int] = []
            found: list[tuple[int, float, int, int]] = []
            for piece in mixture.draw(form, rng, room):
                encoded = self.encode(piece.text)
                if piece.weight:
                    at = row * length + len(ids)
                    found += [
                        (at + i, piece.weight, piece.seen, piece.field) for i in range(len(encoded))
                    ]
                ids += encoded
            if len(ids) > length:
                continue
            tokens[row, : len(ids)] = ids
            answers += found
            row += 1
        places, weights, seen, field = (np.array(part) for part in zip(*answers, strict=True))
        return Batch(
            torch.from_numpy(tokens),
            torch.from_numpy(places),
            torch.from_numpy(weights).float(),
            seen,
            field,
        )


class State:
    """Everything a run needs to go on: weights, optimizer, step, level of the curriculum."""

    def __init__(self, decoder: Decoder, table: Tensor, rate: float) -> None:
        self.decoder, self.table = decoder, torch.nn.Parameter(table)
        self.params = [*decoder.parameters(), self.table]
        self.optimizer = torch.optim.AdamW(
            self.params, lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )
        self.step, self.level, self.seen = 0, 0, 0

    def save(self, path: Path) -> None:
        part = path.with_suffix(".part")
        torch.save(
            {
                "decoder": self.decoder.state_dict(),
                "table": self.table.detach(),
                "optimizer": self.optimizer.state_dict(),
                "shape": self.decoder.shape.to_dict(),
                "step": self.step,
                "level": self.level,
                "seen": self.seen,
            },
            part,
        )
        part.replace(path)

    def load(self, path: Path) -> None:
        saved = torch.load(path)
        self.decoder.load_state_dict(saved["decoder"])
        self.table.data.copy_(saved["table"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.level, self.seen = saved["step"], saved["level"], saved["seen"]


def begin(args: argparse.Namespace, tokenizer: Tokenizer) -> State:
    warm = torch.load(args.warm)
    vocab = tokenizer.get_vocab_size()
    shape = Shape(**{**warm["shape"], "vocab_size": vocab})
    decoder = Decoder(shape)
    decoder.load_state_dict(warm["decoder"])
    table = start_table(tokenizer, warm["tables"], args.seed)
    if args.init:
        earlier = torch.load(args.init)
        decoder.load_state_dict(earlier["decoder"])
        known = Tokenizer.from_file(str(args.init_tokenizer / "tokenizer.json")).get_vocab()
        for text, row in tokenizer.get_vocab().items():
            if text in known:
                table[row] = earlier["table"][known[text]]
    state = State(decoder, table, args.rate)
    if (args.out / "last.pt").exists():
        state.load(args.out / "last.pt")
    return state


def rivals(tokens: Tensor, vocab: int, whole: bool) -> Tensor:
    """The sorted tokens that answers are told from: all, or those of the batch and some others.

    A softmax over the whole vocabulary costs as much as the rest of a step.
    """
    if whole:
        return torch.arange(vocab)
    return torch.unique(torch.cat([tokens.flatten(), torch.randint(vocab, (OTHERS,))]))


def rate_at(args: argparse.Namespace, steps: int, spent_s: float) -> float:
    """Warm-up over 150 steps, then constant; down to a twentieth in the last `--decay` share."""
    left = 1.0 - spent_s / (args.minutes * 60)
    fall = min(1.0, max(left / args.decay, 0.05)) if args.decay else 1.0
    return args.rate * min(1.0, (steps + 1) / 150) * fall


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--warm", type=Path, required=True)
    parse.add_argument("--tokenizer", type=Path, required=True)
    parse.add_argument("--out", type=Path, required=True)
    parse.add_argument("--init", type=Path, help="checkpoint with another tokenizer")
    parse.add_argument("--init-tokenizer", type=Path)
    parse.add_argument("--minutes", type=float, default=60)
    parse.add_argument("--rate", type=float, default=2e-3)
    parse.add_argument("--decay", type=float, default=0.0)
    parse.add_argument("--tokens", type=int, default=4096, help="tokens a step")
    parse.add_argument("--gate", type=float, default=0.8)
    parse.add_argument("--spans", type=float, default=0.0, help="share of span tasks")
    parse.add_argument("--level", type=int, help="set the level of the curriculum")
    parse.add_argument("--seed", type=int, default=0)
    args = parse.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(args.tokenizer / "tokenizer.json"))
    state = begin(args, tokenizer)
    if args.level is not None:
        state.level = args.level
    rng = Random(f"{args.seed}:{state.step}")
    rows = Rows(tokenizer, args.seed * 1_000_003 + state.step)
    recent: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=25))
    start, first, before = time.monotonic(), state.step, state.seen
    while (spent_s := time.monotonic() - start) < args.minutes * 60:
        form = mixture.choose(state.level, rng, args.spans)
        length = mixture.length(form, rng)
        batch = rows.batch(form, length, max(1, args.tokens // length))
        among = rivals(batch.tokens, len(state.table), whole=state.step % WHOLE == 0)
        logits = answer_logits(state.decoder, state.table, batch.tokens, batch.places, among)
        goal = torch.searchsorted(among, batch.tokens.flatten()[batch.places])
        losses = F.cross_entropy(logits, goal, reduction="none")
        loss = (losses * batch.weights).sum() / batch.weights.sum()
        state.optimizer.param_groups[0]["lr"] = rate_at(args, state.step - first, spent_s)
        state.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(state.params, 1.0)
        state.optimizer.step()
        state.step, state.seen = state.step + 1, state.seen + batch.tokens.numel()
        right = (logits.argmax(-1) == goal).numpy()
        for field in (0, 1):
            late = (batch.seen >= 2) & (batch.field == field)
            if late.any():
                recent[f"{form}.{field}"].append(float(right[late].mean()))
        recent[form].append(loss.item())
        if state.step % 50 == 0:
            line = {
                "step": state.step,
                "s": round(spent_s),
                "tok_s": round((state.seen - before) / max(spent_s, 1)),
                "level": state.level,
                **{name: round(float(np.mean(values)), 3) for name, values in recent.items()},
            }
            sys.stderr.write(json.dumps(line) + "\n")
        name = mixture.ORDER[state.level]
        gate = recent[f"{name}.1"] or recent[f"{name}.0"]
        if len(gate) >= 15 and np.mean(list(gate)[-15:]) > args.gate:
            state.level = min(state.level + 1, len(mixture.ORDER) - 1)
        if state.step % 200 == 0:
            state.save(args.out / "last.pt")
    state.save(args.out / "last.pt")


if __name__ == "__main__":
    main()
