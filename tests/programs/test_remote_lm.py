from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dspy_toolkit.compiler.run import CompileOptions, compile_task
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.programs.opening import local_lm
from dspy_toolkit.programs.task import load_task
from tests.programs.tasks import TASK, learner, right, scripted_lm, write_task

KEY = "sk-not-to-be-kept"


class Endpoint(BaseHTTPRequestHandler):
    """Answers routing questions rightly, in OpenAI's format."""

    keys: ClassVar[list[str | None]] = []

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.keys.append(self.headers["Authorization"])
        text = "\n".join(str(turn["content"]) for turn in asked["messages"])
        message = {"role": "assistant", "content": right(text)}
        reply: dict[str, Any] = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": asked["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
        body = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is written to stderr."""


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    Endpoint.keys.clear()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


def test_a_remote_teacher_makes_the_demonstrations_and_its_key_is_nowhere(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUTING_KEY", KEY)
    settings = Settings(home=tmp_path / "home", threads=2)
    task = load_task(write_task(tmp_path / "task"))
    options = CompileOptions(
        optimizer="bootstrap_few_shot",
        options={"max_bootstrapped_demos": 3, "max_labeled_demos": 0},
        lm=scripted_lm(learner),
        teacher=f"remote/big@{url}?key_env=ROUTING_KEY",
    )
    result = compile_task(task, options, settings)
    written = [file for file in result.folder.rglob("*") if file.is_file()]

    assert result.report["compiled"]["score"] > result.report["baseline"]["score"]
    assert set(Endpoint.keys) == {f"Bearer {KEY}"}
    assert len(Endpoint.keys) == 3
    assert written
    assert not any(KEY.encode() in file.read_bytes() for file in written)


def test_a_task_names_its_teacher_and_its_prompt_model(tmp_path: Path) -> None:
    text = 'teacher = "remote/a@http://x/v1"\nprompt_model = "b"\n' + TASK
    task = load_task(write_task(tmp_path / "task", text))

    assert (task.teacher, task.prompt_model) == ("remote/a@http://x/v1", "b")


def test_a_key_that_is_not_set_is_named(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)

    with pytest.raises(InvalidInput, match="variable NO_SUCH_KEY is not set; put the key into it"):
        local_lm("remote/a@http://localhost/v1?key_env=NO_SUCH_KEY", settings=settings)


@pytest.mark.parametrize(
    "reference",
    [
        "remote/",
        "remote/model",
        "remote/m@ftp://x",
        "remote/m@http://x?key=abc",
        "remote/@http://x",
    ],
)
def test_a_reference_of_another_form_shows_the_right_one(reference: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="write remote/MODEL@https://HOST/v1"):
        local_lm(reference, settings=Settings(home=tmp_path))


def test_a_remote_model_takes_no_engine_options(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no engine options"):
        local_lm("remote/a@http://x/v1", settings=Settings(home=tmp_path), min_p=0.1)
