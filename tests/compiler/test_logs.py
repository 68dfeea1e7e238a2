from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dspy_toolkit.compiler.logs import RunLogs
from dspy_toolkit.events import FallbackUsed, ModelLoaded, emit, subscribed
from dspy_toolkit.programs.calls import CallTally, counted
from dspy_toolkit.programs.lm import LocalLM
from tests.programs.tasks import scripted_lm


def events_in(folder: Path) -> list[str]:
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [json.loads(line)["event"] for line in lines]


def test_what_happens_in_a_call_is_logged_in_its_own_run_only(tmp_path: Path) -> None:
    def told(request: str) -> str:
        emit(FallbackUsed("local", "spare", "down"))
        return "yes"

    lm: LocalLM = scripted_lm(told)

    def ask(run: str) -> None:
        with counted(CallTally(run)):
            lm("hello")

    for run in ("a", "b"):
        (tmp_path / run).mkdir()
    logs = {run: RunLogs(tmp_path / run, run) for run in ("a", "b")}
    with subscribed(logs["a"]), subscribed(logs["b"]):
        emit(ModelLoaded("m", "cpu", 1.0))
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(ask, ["a", "a", "b"]))
    for log in logs.values():
        log.close()
    once = ["CallFinished", "FallbackUsed"]

    assert sorted(events_in(tmp_path / "a")) == sorted([*once, *once, "ModelLoaded"])
    assert sorted(events_in(tmp_path / "b")) == sorted([*once, "ModelLoaded"])
