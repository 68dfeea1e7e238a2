"""What `dspy-tk serve` refuses before it loads anything, and what becomes of its processes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.cli.conftest import Command

CODE = "import sys; sys.argv[0] = 'dspy-tk'; from dspy_toolkit.cli.main import main; main()"
PATIENCE_S = 60.0
CHAT = {"model": "embedded", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPY_TK_HOME", str(tmp_path / "home"))


def test_a_name_that_is_nothing_is_told_at_once(dspy_tk: Command) -> None:
    done = dspy_tk("serve", "nope", "--port", "0")

    assert done.code == 3
    assert done.err.startswith("error: model 'nope' does not exist")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("path", ["./a=b", "../x=y/z", "a/b=c"])
def test_a_path_with_an_equals_sign_is_told_whole(dspy_tk: Command, path: str) -> None:
    done = dspy_tk("serve", path, "--port", "0")

    assert done.code == 3
    assert done.err.startswith(f"error: model '{path}' does not exist")


def test_a_folder_without_a_model_is_told_at_once(dspy_tk: Command, tmp_path: Path) -> None:
    done = dspy_tk("serve", tmp_path, "--port", "0")

    assert done.code != 0
    assert "config.json" in done.err
    assert done.err.count("\n") == 1


def test_a_port_that_is_taken_is_told_before_a_model_is_loaded(dspy_tk: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = dspy_tk("serve", "embedded", "--port", taken.getsockname()[1])

    assert done.code == 4
    assert "nothing can listen on" in done.err
    assert "loaded" not in done.err


def test_an_unknown_combiner_is_told_at_once(dspy_tk: Command) -> None:
    done = dspy_tk("serve", "--ensemble", "best=vot:a,b", "--port", "0")

    assert done.code == 4
    assert "did you mean 'vote'?" in done.err


@contextmanager
def serving(*words: str) -> Iterator[tuple[psutil.Process, httpx.Client]]:
    """A server of the command line that is ready, and a client of it."""
    command = [sys.executable, "-c", CODE, "serve", *words, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None

        port = next(filter(None, (re.search(r"127\.0\.0\.1:(\d+)", x) for x in server.stderr)))[1]
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
                while client.get("/health/ready").status_code != 200:
                    pass
                yield psutil.Process(server.pid), client
        finally:
            server.kill()


def child_of(server: psutil.Process) -> psutil.Process:
    return next(each for each in server.children() if any("child" in x for x in each.cmdline()))


@pytest.mark.slow
def test_the_model_runs_in_a_process_of_its_own_that_is_replaced_and_leaves_no_orphan() -> None:
    with serving("embedded", "again=embedded") as (server, client):
        first = child_of(server)
        alone = len(server.children())
        before = client.post("/v1/chat/completions", json=CHAT).json()
        first.kill()
        after = client.post("/v1/chat/completions", json={**CHAT, "model": "again"}).json()
        vector = client.post("/v1/embeddings", json={"model": "embedded", "input": "Hello"}).json()
        deep = client.get("/health/deep").status_code
        metrics = client.get("/metrics").text
        second = child_of(server)
        server.kill()
        gone = second.wait(PATIENCE_S)

    assert alone == 1
    assert second.pid != first.pid
    assert after["choices"][0]["message"] == before["choices"][0]["message"]
    assert len(vector["data"][0]["embedding"]) > 100
    assert deep == 200
    assert 'dspy_tk_child_up{engine="embedded"} 1.0' in metrics
    assert 'dspy_tk_child_restarts_total{engine="embedded",reason="crashed"} 1.0' in metrics
    assert gone is None


@pytest.mark.slow
def test_a_server_that_is_told_to_stop_ends_its_models_process() -> None:
    with serving("embedded") as (server, client):
        child = child_of(server)
        # As a service manager does: everything in the group is told.
        child.send_signal(signal.SIGTERM)
        said = client.post("/v1/chat/completions", json=CHAT).status_code
        served_by = child_of(server).pid
        server.send_signal(signal.SIGTERM)
        code = server.wait(PATIENCE_S)

    assert (said, served_by) == (200, child.pid)
    assert code == 0
    assert not psutil.pid_exists(child.pid)


@pytest.mark.slow
def test_models_run_in_the_servers_process_where_that_is_set() -> None:
    with serving("embedded", "--in-process") as (server, _):
        by_flag = server.children()
    (Path(os.environ["DSPY_TK_HOME"]) / "config.toml").write_text("supervised = false\n")
    with serving("embedded") as (server, _):
        by_setting = server.children()

    assert by_flag == by_setting == []


@pytest.mark.slow
def test_a_second_signal_ends_what_still_runs_with_an_error_that_says_to_try_again() -> None:
    long = {**CHAT, "max_tokens": 900, "stream": True}
    with serving("embedded") as (server, client):
        with client.stream("POST", "/v1/chat/completions", json=long) as reply:
            lines = reply.iter_lines()
            next(lines)
            server.send_signal(signal.SIGINT)
            server.send_signal(signal.SIGTERM)
            rest = list(lines)
        code = server.wait(PATIENCE_S)

    assert code == 0
    assert any("retry" in line or "again" in line for line in rest)
    assert "data: [DONE]" not in rest
