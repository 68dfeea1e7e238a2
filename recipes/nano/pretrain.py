"""Train the decoder on abstract episodes, one level after the other.

python -m pretrain --out runs/warm --minutes 20
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from model import Decoder, Shape, answer_logits, start_structured
from warmup import LEVELS, VOCAB, AbstractTable, abstract_batch

LENGTHS = {"copy": 64, "pair": 48, "pair_mark": 64, "fields": 112, "few_words": 144}


def save(
    path: Path,
    decoder: Decoder,
    tables: AbstractTable,
    optimizer: torch.optim.Optimizer,
    step: int,
    level: int,
) -> None:
    state = {
        "decoder": decoder.state_dict(),
        "tables": tables.state_dict(),
        "optimizer": optimizer.state_dict(),
        "shape": decoder.shape.to_dict(),
        "step": step,
        "level": level,
    }
    torch.save(state, path)


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--out", type=Path, required=True)
    parse.add_argument("--minutes", type=float, default=20)
    parse.add_argument("--width", type=int, default=128)
    parse.add_argument("--layers", type=int, default=4)
    parse.add_argument("--inner", type=int, default=384)
    parse.add_argument("--rate", type=float, default=2e-3)
    parse.add_argument("--gate", type=float, default=0.75)
    parse.add_argument("--tokens", type=int, default=4096, help="tokens a step")
    parse.add_argument("--seed", type=int, default=0)
    args = parse.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng, gen = np.random.default_rng(args.seed), torch.Generator().manual_seed(args.seed)
    shape = Shape(VOCAB, args.width, args.layers, args.width // 32, args.inner)
    decoder, tables = Decoder(shape), AbstractTable(args.width, args.seed)
    start_structured(decoder, tables.base.detach()[0], args.seed)
    params = [*decoder.parameters(), *tables.parameters()]
    optimizer = torch.optim.AdamW(
        params, lr=args.rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    args.out.mkdir(parents=True, exist_ok=True)
    level, step, seen, start = 0, 0, 0, time.monotonic()
    if (args.out / "warm.pt").exists():
        saved = torch.load(args.out / "warm.pt")
        decoder.load_state_dict(saved["decoder"])
        tables.load_state_dict(saved["tables"])
        level, step = saved.get("level", 0), saved.get("step", 0)
        rng, gen = np.random.default_rng(step), torch.Generator().manual_seed(step)
        if "optimizer" in saved:
            optimizer.load_state_dict(saved["optimizer"])
    scores = {name: deque(maxlen=12) for name in LEVELS}
    losses = {name: deque(maxlen=12) for name in LEVELS}
    first = step
    while time.monotonic() - start < args.minutes * 60:
        earlier = level > 0 and rng.random() < 0.3
        name = LEVELS[int(rng.integers(level))] if earlier else LEVELS[level]
        length = LENGTHS.get(name, 256)
        batch = abstract_batch(rng, name, args.tokens // length, length)
        table = tables(gen, share=float(rng.uniform(0.35, 0.8)))
        tokens, places = torch.from_numpy(batch.tokens), torch.from_numpy(batch.places)
        logits = answer_logits(decoder, table, tokens, places)
        goal = tokens.flatten()[places]
        loss = F.cross_entropy(logits, goal)
        optimizer.param_groups[0]["lr"] = args.rate * min(1.0, (step - first + 1) / 150)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        right = (logits.argmax(-1) == goal).numpy()[batch.late].mean()
        scores[name].append(float(right))
        losses[name].append(loss.item())
        step, seen = step + 1, seen + tokens.numel()
        if step % 50 == 0:
            mean = {n: f"{np.mean(s):.2f}/{np.mean(losses[n]):.2f}" for n, s in scores.items() if s}
            spent = time.monotonic() - start
            sys.stderr.write(
                f"{step} {spent:.0f}s {seen / spent:.0f}tok/s {LEVELS[level]} {mean}\n"
            )
        done = scores[LEVELS[level]]
        if len(done) == done.maxlen and np.mean(done) > args.gate and level + 1 < len(LEVELS):
            level += 1
        if step % 250 == 0:
            save(args.out / "warm.pt", decoder, tables, optimizer, step, level)
    save(args.out / "warm.pt", decoder, tables, optimizer, step, level)


if __name__ == "__main__":
    main()
