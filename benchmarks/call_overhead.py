"""What the toolkit's layers add to a call, in CPU time, beside bare DSPy.

Both sides ask an engine that answers at once, in one process and in turns: bare DSPy with `dspy.LM`
and `ChatAdapter`, the toolkit with `LocalLM`, the guided adapter and a listener for events.

    python benchmarks/call_overhead.py --json overhead.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
from dspy import lm15

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.workloads import Classify
from dspy_toolkit.events import Event, subscribed
from dspy_toolkit.programs.formats import prompt_format
from dspy_toolkit.programs.lm import LocalLM

_ANSWER = "[[ ## urgency ## ]]\nlow\n\n[[ ## completed ## ]]"
_MODEL = "mlx/instant#1"
_DEMOS = 12


class Instant:
    """An engine that answers at once, and takes schemas as a local one does."""

    supports_function_calling = False
    supports_reasoning = False
    supports_response_schema = True
    supported_params = frozenset({"temperature", "max_tokens", "response_format"})

    def complete(self, request: lm15.Request) -> lm15.Response:
        """The same answer to everything."""
        return lm15.Response(
            id=None,
            model=request.model,
            message=lm15.Message.assistant(_ANSWER),
            finish_reason="stop",
            usage=lm15.Usage(input_tokens=1400, output_tokens=12),
        )


def side(lm: Any, adapter: Any) -> Callable[[int], None]:
    """A function that makes so many calls, no two alike."""
    predict = dspy.Predict(Classify)
    predict.demos = [{"ticket": f"Ticket {n} came late", "urgency": "low"} for n in range(_DEMOS)]
    calls = 0

    def make(count: int) -> None:
        nonlocal calls
        with dspy.context(lm=lm, adapter=adapter):
            for _ in range(count):
                calls += 1
                predict(ticket=f"Ticket {calls} is late")

    return make


def measure(cache: bool, rounds: int, calls: int) -> dict[str, float]:
    """Milliseconds of CPU a call of each side, and by how much the toolkit's is longer.

    Medians over rounds, in which the sides take turns.
    """
    heard: list[Event] = []
    bare = side(dspy.LM(_MODEL, engine=Instant(), cache=cache), dspy.ChatAdapter())
    ours = side(LocalLM(_MODEL, engine=Instant(), cache=cache), prompt_format("guided"))
    spent: dict[str, list[float]] = {"bare": [], "ours": []}
    with subscribed(heard.append):
        for number in range(rounds + 1):
            for name, make in (("bare", bare), ("ours", ours)):
                began = time.process_time()
                make(calls)
                if number:
                    spent[name].append(1000 * (time.process_time() - began) / calls)
            heard.clear()
    added = [our - own for our, own in zip(spent["ours"], spent["bare"], strict=True)]
    return {
        "bare_ms": round(statistics.median(spent["bare"]), 4),
        "ours_ms": round(statistics.median(spent["ours"]), 4),
        "added_ms": round(statistics.median(added), 4),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    found = {
        "cache off": measure(False, chosen.rounds, chosen.calls),
        "cache on, no hit": measure(True, chosen.rounds, chosen.calls),
    }
    for name, each in found.items():
        sys.stdout.write(
            f"{name}: bare DSPy {each['bare_ms']:.3f} ms, with the toolkit {each['ours_ms']:.3f} "
            f"ms, added {each['added_ms']:.3f} ms of CPU a call\n"
        )
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
