"""Guessing ahead on and off, where answers repeat what was read and where they do not.

    python benchmarks/guesses.py [--model embedded] [--tokens 120] [--rounds 3] [--json FILE]

One model, greedy, the same requests for both; they take turns, and the fastest round counts.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dspy import lm15

sys.path.insert(0, str(Path(__file__).parents[1]))

from dspy_toolkit.engine import EngineOptions, open_engine

_WORDS = (
    "order ticket policy refund late team parcel urgent invoice account driver broken screen "
    "warehouse yesterday street question answer support customer payment email letter number"
).split()


def requests(repeat: bool, count: int, tokens: int) -> list[lm15.Request]:
    """Prompts whose text is written down again, or talk that has no pattern."""
    chance = random.Random(5)
    found = []
    for _ in range(count):
        words = " ".join(chance.choices(_WORDS, k=40))
        line = f"{words}.\n" * 3 if repeat else f"{words}?"
        found.append(
            lm15.Request(
                "under-test",
                (lm15.Message.user(f"Copy this: {line}" if repeat else line),),
                config=lm15.Config(max_tokens=tokens),
            )
        )
    return found


def timed(engine: Any, asked: list[lm15.Request], at_once: int) -> tuple[float, list[str]]:
    """Seconds, and the answers."""
    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as threads:
        said = [response.text or "" for response in threads.map(engine.complete, asked)]
    return time.perf_counter() - began, said


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--tokens", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    engines = {most: open_engine(chosen.model, EngineOptions(guesses=most)) for most in (0, 8)}
    rows = []
    for repeat in (True, False):
        for at_once in (1, 4, 16):
            asked = requests(repeat, max(4, at_once), chosen.tokens)
            seconds: dict[int, list[float]] = {0: [], 8: []}
            before = engines[8].stats()
            for _ in range(chosen.rounds):
                found = {most: timed(each, asked, at_once) for most, each in engines.items()}
                if found[0][1] != found[8][1]:
                    raise SystemExit("guessing has changed an answer")
                for most, (spent, _) in found.items():
                    seconds[most].append(spent)
            after = engines[8].stats()
            row = {
                "text": "repeated" if repeat else "free",
                "at_once": at_once,
                "off_s": round(min(seconds[0]), 3),
                "on_s": round(min(seconds[8]), 3),
                "times": round(min(seconds[0]) / min(seconds[8]), 2),
                "guessed": after.guessed - before.guessed,
                "right": after.right - before.right,
            }
            rows.append(row)
            sys.stdout.write(
                "{text:9} {at_once:3} at once: off {off_s:7.3f} s, on {on_s:7.3f} s, "
                "{times:5.2f} times; {right} of {guessed} guesses right\n".format(**row)
            )
    for engine in engines.values():
        engine.close()
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
