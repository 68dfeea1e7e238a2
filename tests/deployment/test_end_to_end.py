"""From `compile` to `deploy push` to `serve` to a client's call to `rollback`, by the commands."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from dspy_toolkit.cli.main import app
from tests.programs.tasks import TASK, rows, write_lines, write_task

CODE = "import sys; sys.argv[0] = 'dspy-tk'; from dspy_toolkit.cli.main import main; main()"
PATIENCE_S = 60.0
Command = Callable[..., Any]


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs a command with --json in this process; gives what it prints."""
    monkeypatch.setenv("DSPY_TK_HOME", str(tmp_path / "home"))

    def run(*arguments: str) -> Any:
        capsys.readouterr()
        app([*arguments, "--json"], standalone_mode=False)
        return json.loads(capsys.readouterr().out)

    return run


class Lines:
    """What a server tells the terminal."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        assert server.stderr is not None

        self._stream: Iterator[str] = iter(server.stderr)
        self.seen: list[str] = []

    def until(self, pattern: str) -> re.Match[str]:
        for line in self._stream:
            self.seen.append(line)
            found = re.search(pattern, line)
            if found:
                return found
        raise AssertionError(f"{pattern!r} never came: {self.seen}")


def test_a_program_goes_from_compile_to_a_clients_call_and_back(
    command: Command, tmp_path: Path
) -> None:
    versions = []
    for k in (2, 4):
        task = TASK.replace("k = 4", f"k = {k}").replace("[metric]", 'format = "guided"\n[metric]')
        folder = write_task(tmp_path / f"task{k}", task)
        write_lines(folder / "data" / "test.jsonl", rows("test", 4))
        compiled = command("compile", str(folder), "--model", "embedded")
        artifact = compiled["artifact"] or str(tmp_path / "none")
        pushed = command("deploy", "push", artifact, "--name", "routing")
        versions.append(pushed["version"])
    first, second = versions
    command("deploy", "promote", "routing", first, "--anyway", "the first one")

    server = subprocess.Popen(
        [sys.executable, "-c", CODE, "serve", "routing", "--port", "0"],
        env={**os.environ, "COLUMNS": "200"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = Lines(server)
        port = lines.until(r"127\.0\.0\.1:(\d+)")[1]
        lines.until(f"version {first} answers")
        with openai.OpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=PATIENCE_S
        ) as client:

            def ask() -> tuple[str, Any]:
                answer = client.chat.completions.with_raw_response.create(
                    model="routing", messages=[{"role": "user", "content": "message 3"}]
                )
                said = json.loads(answer.parse().choices[0].message.content or "")
                return answer.headers["x-program-version"], said

            before = ask()
            command("deploy", "promote", "routing", second, "--anyway", "trying it")
            lines.until(f"version {second} answers")
            after = ask()
            command("deploy", "rollback", "routing")
            lines.until(f"version {first} answers")
            back = ask()
        server.send_signal(signal.SIGTERM)
        lines.until("stopped")
        code = server.wait(PATIENCE_S)
    finally:
        server.kill()
        server.communicate()

    assert [before[0], after[0], back[0]] == [first, second, first]
    assert before == back
    assert after[1]["team"] in ("atlas", "comet")
    assert code == 0
