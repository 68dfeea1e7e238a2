"""The engine beside what users would take instead, in one run, on the same weights and prompts.

    python -m benchmarks.engine [--models embedded,50m] [--workloads w1,w2,w3,w4,w5]
        [--concurrent 16,32] [--calls 64] [--warm 2] [--rounds 3] [--json FILE]

A model is "embedded", random weights of a size, or `NAME=FOLDER`: weights of one's own.

Opponents: (a) `dspy.LM` over HTTP to `mlx_lm.server`, (b) mlx-lm's `BatchGenerator` in this
process, its caches seeded with the prefix. All use the same fast BLAS and float32 on a CPU. They
take turns, so that a busy machine slows all; of each the median round counts. Opponents generate
as many tokens as a right answer has; ours is held to the signature, which is the difference.
Warm calls share their demonstrations with earlier ones, a burst of them on each side before the
clock, and have inputs of their own. Of each model it is also said how near ours comes to the
machine: decoding to the speed of memory, reading to the speed of matrix products, both measured in
the same run. Prints a Markdown table; FILE keeps the figures of earlier runs that this one does not
make anew. Numbers for the documentation are made on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from dspy_toolkit.engine.blas import preload_blas

BLAS = preload_blas()

import dspy  # noqa: E402 - the BLAS comes before anything that imports MLX
import mlx.core as mx  # noqa: E402
from dspy import lm15  # noqa: E402
from mlx.utils import tree_flatten, tree_map  # noqa: E402
from mlx_lm.generate import BatchGenerator, stream_generate  # noqa: E402
from mlx_lm.models.cache import make_prompt_cache  # noqa: E402
from mlx_lm.models.llama import Model, ModelArgs  # noqa: E402
from mlx_lm.utils import load  # noqa: E402

from benchmarks.engine_table import table_head, table_row  # noqa: E402
from benchmarks.workloads import CLASSIFY, EXTRACT, REASON, Workload  # noqa: E402
from dspy_toolkit.config import Settings  # noqa: E402
from dspy_toolkit.engine import EngineOptions, open_engine  # noqa: E402
from dspy_toolkit.engine.prefix_tree import common_length  # noqa: E402
from dspy_toolkit.engine.source import EMBEDDED_FOLDER  # noqa: E402

CONTEXT = 8192
SHAPES = {
    "50m": {"hidden_size": 640, "intermediate_size": 1728, "layers": 10, "heads": 10},
    "500m": {"hidden_size": 1280, "intermediate_size": 3456, "layers": 26, "heads": 20},
}
SERVER = (
    "from dspy_toolkit.engine.blas import preload_blas; preload_blas(); "
    "from mlx_lm.server import main; main()"
)
WORKS = {
    "w1": (CLASSIFY, False),
    "w2": (REASON, False),
    "w3": (EXTRACT, False),
    "w4": (CLASSIFY, True),
}
BARS = {"w1": 10.0, "w2": 3.0, "w3": 5.0, "w4": 5.0, "w5": 0.97}


@dataclass(frozen=True)
class Result:
    """Calls a second (W5: tokens a second) of each side, and ours over the server's.

    `limit` is how near ours comes to what the machine can do, in W5 and in "reading", which is one
    long prompt read by one caller, in tokens a second.

    `tokens` are those of an answer on average, ours and the server's: a real model may end an
    unheld answer early, which no speed makes up for.

    In W5 the opponent is `mlx_lm.generate`, shown as the server is in the others.
    """

    model: str
    workload: str
    ours: float
    server: float
    seeded: float | None
    bar: float
    tokens: tuple[float, float] | None = None
    concurrent: int = 1
    limit: float | None = None

    @property
    def ratio(self) -> float:
        return self.ours / self.server

    @property
    def key(self) -> str:
        return f"{self.model} {self.workload} {self.concurrent}"


def write_float32(model: str, folder: Path) -> Path:
    """Write a model that all sides load alike: float32 on a CPU, room for long prompts."""
    name, _, given = model.partition("=")
    shutil.copytree(given or EMBEDDED_FOLDER, folder)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = CONTEXT
    if given or name == "embedded":
        weights = mx.load(str(folder / "model.safetensors"))
        weights = {key: value.astype(mx.float32) for key, value in weights.items()}
    else:
        shape = SHAPES[name]
        config |= {
            "hidden_size": shape["hidden_size"],
            "intermediate_size": shape["intermediate_size"],
            "num_hidden_layers": shape["layers"],
            "num_attention_heads": shape["heads"],
            "num_key_value_heads": shape["heads"] // 2,
            "head_dim": 64,
        }
        model = Model(ModelArgs.from_dict(config))
        key = iter(mx.random.split(mx.random.key(0), 4096))
        draw = tree_map(
            lambda p: p if p.ndim == 1 else 0.05 * mx.random.normal(p.shape, key=next(key)),
            model.parameters(),
        )
        weights = dict(tree_flatten(draw))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """`mlx_lm.server` over a model; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", SERVER, "--model", str(folder), "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet)
    try:
        address = f"http://127.0.0.1:{port}/v1"
        deadline = time.monotonic() + 120
        while not _answers(f"{address}/models"):
            if time.monotonic() > deadline or server.poll() is not None:
                raise SystemExit("mlx_lm.server does not start")
            time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


class Sides:
    """The three ways to answer the same calls."""

    def __init__(self, folder: Path, address: str) -> None:
        self.engine = open_engine(
            str(folder), EngineOptions(), Settings(home=folder.parent / "home")
        )
        self._local = dspy.LM(
            self.engine.model_string,
            engine=self.engine,
            async_engine=self.engine.async_twin,
            cache=False,
            num_retries=0,
        )
        self._remote = dspy.LM(
            f"openai/{folder}", api_base=address, api_key="none", cache=False, num_retries=0
        )
        self.concurrent = 1
        self.model, self.tokenizer = load(str(folder))[:2]

    def ours(self, requests: list[lm15.Request]) -> tuple[float, float]:
        """Calls a second, and tokens of an answer on average."""
        return self._timed(self._local, requests)

    def server(self, requests: list[lm15.Request]) -> tuple[float, float]:
        """The same over HTTP."""
        return self._timed(self._remote, requests)

    def seeded(self, requests: list[lm15.Request], cold: bool) -> float:
        """BatchGenerator with the common prefix computed once, before the clock unless cold."""
        prompts = [self.prompt(request) for request in requests]
        shared = min(common_length(prompts[0], other) for other in prompts[1:])
        began = time.perf_counter()
        prefix = make_prompt_cache(self.model)
        for start in range(0, shared, 256):
            slice_ = prompts[0][start : min(shared, start + 256)]
            self.model(mx.array([slice_]), cache=prefix)
            mx.eval([c.state for c in prefix])
        if not cold:
            began = time.perf_counter()
        generator = BatchGenerator(
            self.model,
            max_tokens=requests[0].config.max_tokens,
            stop_tokens=[[token] for token in self.tokenizer.eos_token_ids],
            completion_batch_size=self.concurrent,
        )
        generator.insert(
            [prompt[shared:] for prompt in prompts],
            caches=[copy.deepcopy(prefix) for _ in prompts],
            all_tokens=[prompt[:shared] for prompt in prompts],
        )
        left = len(prompts)
        while left:
            left -= sum(r.finish_reason is not None for r in generator.next_generated())
        generator.close()
        return len(prompts) / (time.perf_counter() - began)

    def prompt(self, request: lm15.Request) -> list[int]:
        turns = [{"role": "system", "content": request.system}]
        turns += [{"role": turn.role, "content": turn.text} for turn in request.messages]
        tokens: list[int] = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True)
        return tokens

    def tokens_per_second(self, request: lm15.Request) -> tuple[float, float]:
        """One caller: ours and `mlx_lm.generate`."""
        began = time.perf_counter()
        usage = self.engine.complete(request).usage
        ours = usage.output_tokens / (time.perf_counter() - began)
        began = time.perf_counter()
        steps = stream_generate(
            self.model, self.tokenizer, self.prompt(request), max_tokens=request.config.max_tokens
        )
        count = sum(1 for _ in steps)
        return ours, count / (time.perf_counter() - began)

    def _timed(self, lm: dspy.LM, requests: list[lm15.Request]) -> tuple[float, float]:
        named = [replace(request, model=lm.model) for request in requests]
        began = time.perf_counter()
        with ThreadPoolExecutor(self.concurrent) as threads:
            answers = list(threads.map(lm, named))
        seconds = time.perf_counter() - began
        return len(requests) / seconds, statistics.fmean(a.usage.output_tokens for a in answers)


def measure(
    sides: Sides, work: Workload, calls: int, rounds: int, warm: int
) -> tuple[list[float], tuple[float, float]]:
    """Medians of ours, the server and the seeded generator, in calls a second; tokens.

    `warm` calls go before the clock on each side; without any, each round has its own prefix.
    """
    room = len(sides.tokenizer.encode(work.answer()))
    whole = warm + calls * (rounds if warm else 1)
    figures: list[tuple[float, float, float]] = []
    tokens = (0.0, 0.0)
    for number in range(rounds):
        seed = 100 if warm else 1000 * sides.concurrent + number
        held = work.requests(whole, seed, held=True, max_tokens=4 * room)
        free = work.requests(whole, seed, held=False, max_tokens=room)
        if warm:
            sides.ours(held[:warm])
            sides.server(free[:warm])
        begin = warm + number * calls if warm else 0
        chosen = slice(begin, begin + calls)
        ours, server = sides.ours(held[chosen]), sides.server(free[chosen])
        figures.append((ours[0], server[0], sides.seeded(free[chosen], cold=not warm)))
        tokens = (ours[1], server[1])
    return [statistics.median(each) for each in zip(*figures, strict=True)], tokens


def alone(sides: Sides, rounds: int) -> tuple[float, float]:
    """Medians of tokens a second with one caller."""
    request = CLASSIFY.requests(1, 7, held=False, max_tokens=128)[0]
    short = replace(request, messages=request.messages[-1:])
    figures = [sides.tokens_per_second(short) for _ in range(rounds + 1)][1:]
    return statistics.median(o for o, _ in figures), statistics.median(t for _, t in figures)


def reading(sides: Sides, rounds: int) -> float:
    """Median of tokens a second with which ours reads one prompt that it has not met before."""
    rates = []
    for number in range(rounds + 1):
        request = CLASSIFY.requests(1, 900 + number, held=False, max_tokens=1)[0]
        began = time.perf_counter()
        usage = sides.engine.complete(request).usage
        fresh = usage.input_tokens - (usage.cache_read_tokens or 0)
        rates.append(fresh / (time.perf_counter() - began))
    return statistics.median(rates[1:])


def limits(sides: Sides) -> tuple[float, float]:
    """Most tokens a second this machine could decode for one caller, and read, by arithmetic.

    Decoding takes every weight from memory once a token, and reading takes two operations a weight
    and token; the table of embeddings is only looked up, and its scores are taken once.
    """
    weights = dict(tree_flatten(sides.model.parameters()))
    table = sum(a.size for name, a in weights.items() if "embed_tokens" in name)
    every = sum(a.size for a in weights.values())
    return _bytes_per_second() / (4 * every), _products_per_second() / (2 * (every - table))


def _bytes_per_second() -> float:
    large, vector = mx.ones((1 << 13, 1 << 14)), mx.ones((1 << 14, 1))
    return large.nbytes / _fastest(lambda: large @ vector)


def _products_per_second() -> float:
    left, right = mx.ones((1024, 1024)), mx.ones((1024, 2048))
    return 2 * 1024 * 1024 * 2048 / _fastest(lambda: left @ right)


def _fastest(work: Callable[[], mx.array]) -> float:
    with mx.stream(mx.default_device()):
        times = []
        for _ in range(6):
            began = time.perf_counter()
            mx.eval(work())
            times.append(time.perf_counter() - began)
    return min(times[1:])


def run(arguments: argparse.Namespace) -> Iterator[Result]:
    for model in arguments.models.split(","):
        name = model.partition("=")[0]
        with tempfile.TemporaryDirectory() as scratch:
            folder = write_float32(model, Path(scratch) / name)
            with serving(folder) as address:
                sides = Sides(folder, address)
                for key in arguments.workloads.split(","):
                    if key in WORKS:
                        yield from _at_once(sides, name, key, arguments)
                    elif key == "w5":
                        yield from _one_by_one(sides, name, arguments.rounds)
                sides.engine.close()


def _at_once(sides: Sides, model: str, key: str, arguments: argparse.Namespace) -> Iterator[Result]:
    work, cold = WORKS[key]
    for concurrent in map(int, arguments.concurrent.split(",")):
        sides.concurrent = concurrent
        calls = 32 if cold else arguments.calls
        # The first burst makes what later ones find, on any side.
        warm = 0 if cold else arguments.warm or concurrent
        (ours, server, seeded), tokens = measure(sides, work, calls, arguments.rounds, warm)
        yield Result(model, key, ours, server, seeded, BARS[key], tokens, concurrent)


def _one_by_one(sides: Sides, model: str, rounds: int) -> Iterator[Result]:
    decode, read = limits(sides)
    ours, other = alone(sides, rounds)
    yield Result(model, "w5", ours, other, None, BARS["w5"], limit=ours / decode)
    rate = reading(sides, rounds)
    yield Result(model, "reading", rate, read, None, 0.0, limit=rate / read)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="embedded,50m")
    parser.add_argument("--workloads", default="w1,w2,w3,w4,w5")
    parser.add_argument("--concurrent", default="16,32")
    parser.add_argument("--calls", type=int, default=64)
    parser.add_argument("--warm", type=int, help="calls before the clock, if not a whole burst")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    # It warns of every answer that max_tokens ends; all of the opponents' are meant to end so.
    logging.getLogger("dspy").setLevel(logging.ERROR)
    say = sys.stdout.write
    say(f"{platform.machine()}, {os.cpu_count()} cores, BLAS {BLAS.path or BLAS.note}\n\n")
    for line in table_head():
        say(f"{line}\n")
    kept = json.loads(arguments.json.read_text()) if _exists(arguments.json) else {}
    for result in run(arguments):
        kept[result.key] = asdict(result) | {"ratio": result.ratio}
        say(f"{table_row(kept[result.key])}\n")
        sys.stdout.flush()
        if arguments.json:
            arguments.json.write_text(json.dumps(kept, indent=2) + "\n")


def _exists(path: Path | None) -> bool:
    return path is not None and path.exists()


if __name__ == "__main__":
    main()
