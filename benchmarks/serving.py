"""The server beside `mlx_lm.server`, in one run, on the same weights, with the same fast BLAS.

    python benchmarks/serving.py [--workloads chat,w1,w2,w3] [--callers 1,8,32,64]
    python benchmarks/serving.py --only overhead      # HTTP over the bare engine
    python benchmarks/serving.py --only cache         # half the requests repeated, 8 callers

Both servers are processes of their own; the callers are coroutines here, each on one connection
that it keeps where the server lets it. The sides take turns. `chat` asks both the same. In W1 to
W3 (see `workloads.py`) ours is held to the signature's grammar, and the other draws as many tokens
as a right answer has. Prints Markdown tables, and with `--json FILE` keeps the results, those of
other runs beside them, for `serving_table.py`; numbers for the documentation are made on a machine
that does nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.engine import BLAS, serving, write_float32
from benchmarks.serving_table import head, row
from benchmarks.workloads import CLASSIFY, EXTRACT, REASON, Workload
from dspy_toolkit.config import Settings
from dspy_toolkit.contract import Config, Message, Request
from dspy_toolkit.engine import EngineOptions, open_engine
from dspy_toolkit.programs.artifact import save_artifact
from dspy_toolkit.programs.opening import local_lm
from dspy_toolkit.programs.task import load_task

ROOT = Path(__file__).parents[1]
CALLS = {1: 10, 8: 40, 32: 96, 64: 128}
WORKLOADS: dict[str, Workload | None] = {
    "chat": None,
    "w1": CLASSIFY,
    "w2": REASON,
    "w3": EXTRACT,
}
CHAT_TOKENS = 32
Results = Iterator[tuple[str, dict[str, Any]]]
say = sys.stdout.write


@dataclass(frozen=True)
class Times:
    """What callers saw: requests a second, and milliseconds each."""

    rate: float
    each_ms: Sequence[float]

    def quantile(self, share: float) -> float:
        """Milliseconds that this share of requests took at most."""
        ordered = sorted(self.each_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def to_dict(self) -> dict[str, Any]:
        """As results are kept: the milliseconds are p50, p95 and p99."""
        return {"rate": self.rate, "ms": [self.quantile(q) for q in (0.5, 0.95, 0.99)]}


class Caller:
    """One caller with one connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._line: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> dict[str, Any]:
        """Send a request; the answer's JSON."""
        if self._line is None:
            self._line = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._line
        writer.write(
            b"POST " + path.encode() + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            b"content-type: application/json\r\ncontent-length: "
            + str(len(body)).encode()
            + b"\r\n\r\n"
            + body
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(
            (int(x.partition(":")[2]) for x in head.splitlines() if x.startswith("content-length")),
            None,
        )
        content = await (reader.read() if length is None else reader.readexactly(length))
        if length is None or head.startswith("http/1.0") or "connection: close" in head:
            self.close()
        if " 200 " not in head.splitlines()[0]:
            raise SystemExit(f"{path}: {head.splitlines()[0]}: {content[:300]!r}")
        answer: dict[str, Any] = json.loads(content)
        return answer

    def close(self) -> None:
        """Hang up."""
        if self._line is not None:
            self._line[1].close()
            self._line = None


async def timed(port: int, path: str, bodies: Sequence[bytes], callers: int) -> Times:
    """Have callers ask everything once, each the next as soon as it is answered."""
    left = iter(bodies)
    took: list[float] = []

    async def ask() -> None:
        caller = Caller(port)
        for body in left:
            began = time.perf_counter()
            await caller.post(path, body)
            took.append(1000 * (time.perf_counter() - began))
        caller.close()

    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(callers)))
    return Times(len(bodies) / (time.perf_counter() - began), took)


@contextmanager
def ours(home: Path, *what: str) -> Iterator[int]:
    """`dspy-tk serve`; yields its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    code = "import sys; sys.argv[0] = 'dspy-tk'; from dspy_toolkit.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve", *what, "--port", str(port)]
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "DSPY_TK_HOME": str(home)}
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet)
    try:
        deadline = time.monotonic() + 60
        while not _ready(port):
            if time.monotonic() > deadline or server.poll() is not None:
                raise SystemExit("dspy-tk serve does not start")
            time.sleep(0.1)
        yield port
    finally:
        server.terminate()
        server.wait()


def _ready(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as line:
            line.sendall(b"GET /health/ready HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            return b" 200 " in line.recv(64)
    except OSError:
        return False


def messages_of(request: Request) -> list[dict[str, str]]:
    turns = [{"role": each.role, "content": each.text or ""} for each in request.messages]
    system = [{"role": "system", "content": request.system}] if request.system else []
    return [*system, *turns]  # type: ignore[list-item]


def bodies(work: Workload | None, model: str, count: int, seed: int, held: bool) -> list[bytes]:
    """The requests of a workload; `held` is our side."""
    if work is None:
        chance = random.Random(seed)
        told = [f"Tell me about order {chance.randint(0, 10**6)}." for _ in range(count)]
        requests = [{"messages": [{"role": "user", "content": t}]} for t in told]
        return [
            json.dumps({"model": model, "max_tokens": CHAT_TOKENS, **each}).encode()
            for each in requests
        ]
    room = len(work.answer().split()) * 3
    found = work.requests(count, seed, held=held, max_tokens=4 * room if held else room)
    made = []
    for each in found:
        form = each.config.response_format
        more = (
            {}
            if form is None
            else {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": form["schema"]},
                }
            }
        )
        body = {
            "model": model,
            "messages": messages_of(each),
            "max_tokens": each.config.max_tokens,
            "temperature": 0,
            **more,
        }
        made.append(json.dumps(body).encode())
    return made


def beside(arguments: argparse.Namespace, scratch: Path) -> Results:
    """Both servers at every point."""
    folder = write_float32("embedded", scratch / "nano")
    path = "/v1/chat/completions"
    with ours(scratch / "home", f"nano={folder}", "--no-cache") as own, serving(folder) as address:
        other = int(address.rpartition(":")[2].partition("/")[0])
        for name in arguments.workloads.split(","):
            work = WORKLOADS[name]
            for callers in map(int, arguments.callers.split(",")):
                count = CALLS.get(callers, 2 * callers)
                sides = []
                for port, model, held in ((own, "nano", True), (other, str(folder), False)):
                    # One request first, so that the shared prefix is known to both.
                    first, *rest = bodies(work, model, count + 1, 7, held)
                    asyncio.run(timed(port, path, [first], 1))
                    sides.append(asyncio.run(timed(port, path, rest, callers)).to_dict())
                found = {"workload": name, "callers": callers}
                yield f"{name} {callers}", {**found, "ours": sides[0], "theirs": sides[1]}


def overhead(arguments: argparse.Namespace, scratch: Path) -> Results:
    """HTTP over the bare engine: answers of one token, then W1. The sides take turns."""
    folder = write_float32("embedded", scratch / "nano")
    engine = open_engine(str(folder), EngineOptions(), Settings(home=scratch / "home"))
    twin = engine.async_twin

    async def direct(requests: Sequence[Request], callers: int) -> Times:
        left, took = iter(requests), list[float]()

        async def ask() -> None:
            for request in left:
                began = time.perf_counter()
                await twin.complete(request)
                took.append(1000 * (time.perf_counter() - began))

        began = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(callers)))
        return Times(len(requests) / (time.perf_counter() - began), took)

    told = [f"Order {n}?" for n in range(200)]
    works: dict[str, tuple[list[Request], list[bytes]]] = {
        "one token": (
            [Request("m", (Message.user(each),), config=Config(max_tokens=1)) for each in told],
            [_short_body(each) for each in told],
        ),
        "W1": (
            CLASSIFY.requests(121, 7, held=True, max_tokens=48),
            bodies(CLASSIFY, "nano", 121, 7, True),
        ),
    }
    path = "/v1/chat/completions"
    with ours(scratch / "home", f"nano={folder}", "--no-cache") as port:
        for name, (requests, sent) in works.items():
            asyncio.run(direct(requests[:1], 1))
            asyncio.run(timed(port, path, sent[:1], 1))
            for callers in (1, 8):
                share = len(sent) if callers > 1 else len(sent) // 4
                bare, over = list[float](), list[float]()
                for _ in range(3):
                    bare.append(asyncio.run(direct(requests[1:share], callers)).quantile(0.5))
                    over.append(
                        asyncio.run(timed(port, path, sent[1:share], callers)).quantile(0.5)
                    )
                found = {"asked": name, "callers": callers}
                times = {"engine_ms": statistics.median(bare), "server_ms": statistics.median(over)}
                yield f"{name} {callers}", {**found, **times}
    engine.close()


def _short_body(text: str) -> bytes:
    messages = [{"role": "user", "content": text}]
    return json.dumps({"model": "nano", "messages": messages, "max_tokens": 1}).encode()


def cache(arguments: argparse.Namespace, scratch: Path) -> Results:
    """A program at 8 callers, half of whose requests were asked before."""
    settings = Settings(home=scratch / "home", cache=False)
    task = load_task(ROOT / "examples/ticket_triage", settings)
    program = task.program()
    program.demos = list(task.data.train.examples[:8])
    lm = local_lm("embedded", max_tokens=64, settings=settings)
    facts = {"inputs": ["ticket"], "seed": 0, "prompt_format": "guided", "task": "triage"}
    save_artifact(scratch / "artifact", program, task.plan, lm, facts)
    lm.release()
    tickets = [each.inputs().toDict() for each in task.data.test.examples]
    chance = random.Random(1)
    asked: list[dict[str, Any]] = []
    for number in range(400):
        again = number > 20 and number % 2 == 1
        asked.append(chance.choice(asked[: number - 16]) if again else tickets[number // 2])
    sent = [json.dumps({"inputs": each}).encode() for each in asked]
    took: dict[bool, list[float]] = {True: [], False: []}

    async def run(port: int) -> None:
        left = iter(sent)

        async def ask() -> None:
            caller = Caller(port)
            for body in left:
                began = time.perf_counter()
                answer = await caller.post("/v1/programs/triage", body)
                took[answer["cached"]].append(1000 * (time.perf_counter() - began))
            caller.close()

        await asyncio.gather(*(ask() for _ in range(8)))

    with ours(scratch / "home", f"triage={scratch / 'artifact'}") as port:
        first = [json.dumps({"inputs": tickets[-1]}).encode()]
        asyncio.run(timed(port, "/v1/programs/triage", first, 1))
        asyncio.run(run(port))
    every = [*took[True], *took[False]]
    for name, times in (("repeated", took[True]), ("fresh", took[False]), ("all", every)):
        shown = Times(0.0, times)
        tail = [shown.quantile(0.5), shown.quantile(0.95)]
        yield name, {"requests": name, "count": len(times), "ms": tail}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=("beside", "overhead", "cache"), default="beside")
    parser.add_argument("--workloads", default="chat,w1,w2,w3")
    parser.add_argument("--callers", default="1,8,32,64")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    say(f"{platform.machine()}, {os.cpu_count()} cores, BLAS {BLAS.path or BLAS.note}\n\n")
    measure = {"beside": beside, "overhead": overhead, "cache": cache}[arguments.only]
    say("\n".join([*head(arguments.only), ""]))
    kept: dict[str, dict[str, Any]] = {}
    if arguments.json is not None and arguments.json.exists():
        kept = json.loads(arguments.json.read_text())
    with tempfile.TemporaryDirectory() as scratch:
        for key, result in measure(arguments, Path(scratch)):
            kept.setdefault(arguments.only, {})[key] = result
            say(row(arguments.only, result) + "\n")
            sys.stdout.flush()
            if arguments.json is not None:
                arguments.json.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
