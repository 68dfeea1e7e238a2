from __future__ import annotations

import json
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from dspy import lm15

from dspy_toolkit.config import Settings
from dspy_toolkit.engine import EngineOptions, open_engine
from dspy_toolkit.engine.output import Piece
from dspy_toolkit.engine.sequence import Finished, Message
from dspy_toolkit.engine.tools import read_calls
from tests.engine.test_chat import TOOLS, chat
from tests.engine.tiny import write_model

FIND = {"type": "function", "function": {"name": "find", "parameters": {}}}
CALL = '{"name": "find", "arguments": {"q": "x"}}'
SAID = (Piece("text", "Let me look."), Piece("tool", CALL))


@pytest.mark.parametrize(
    ("inside", "calls"),
    [
        (CALL, [("find", {"q": "x"})]),
        ('{"name": "find"}', [("find", {})]),
        ('{"name": "find", "arguments": "{\\"q\\": 1}"}', [("find", {"q": 1})]),
        (f"[{CALL}, {CALL}]", [("find", {"q": "x"}), ("find", {"q": "x"})]),
    ],
)
def test_a_call_is_read(tmp_path: Path, inside: str, calls: list[Any]) -> None:
    spoken = read_calls([Piece("tool", inside)], [FIND], chat(tmp_path, TOOLS))

    assert spoken.calls == calls
    assert spoken.pieces == []


@pytest.mark.parametrize(
    "inside",
    [
        "",
        "{",
        "3",
        '{"arguments": {}}',
        CALL.replace("find", "fly"),
        '{"name": "find", "arguments": [1]}',
    ],
)
def test_what_is_no_call_of_a_tool_offered_stays_in_the_text(tmp_path: Path, inside: str) -> None:
    spoken = read_calls([Piece("text", "a"), Piece("tool", inside)], [FIND], chat(tmp_path, TOOLS))

    assert spoken.calls == []
    assert [piece.text for piece in spoken.pieces] == ["a", f"<tool_call>{inside}</tool_call>"]
    assert spoken.broken == spoken.pieces[1:]


def request() -> lm15.Request:
    tool = lm15.FunctionTool("find", "Finds.")
    return lm15.Request(model="m", messages=(lm15.Message.user("Where?"),), tools=(tool,))


def test_an_answer_with_calls_ends_for_them_whole_and_in_a_stream(
    tmp_path: Path, settings: Settings
) -> None:
    engine = open_engine(str(write_model(tmp_path / "m", TOOLS)), EngineOptions(), settings)
    finished = Finished("stop", SAID, 5, 0, 7, 0.1, 0.2)
    inbox: SimpleQueue[Message] = SimpleQueue()
    prepared = [engine.prepare(request(), inbox.put, streaming=s) for s in (False, True)]
    whole = prepared[0].response(finished)
    stream = prepared[1]
    events = [stream.translator.start(), *stream.events(SAID[0]), *stream.events(finished)]
    engine.close()

    assert engine.supports_function_calling
    assert "tools" in engine.supported_params
    assert whole.finish_reason == "tool_call"
    assert [(call.name, call.input) for call in whole.tool_calls] == [("find", {"q": "x"})]
    assert lm15.materialize_response(iter(events), request()) == whole


def test_a_model_whose_template_knows_no_tools_refuses_them(engine: Any) -> None:
    assert not engine.supports_function_calling
    with pytest.raises(lm15.UnsupportedFeatureError, match="tools with this model"):
        engine.complete(request())


def test_what_a_parser_returns_is_json(tmp_path: Path) -> None:
    spoken = read_calls([SAID[1]], [FIND], chat(tmp_path, TOOLS))

    assert json.loads(json.dumps(spoken.calls[0][1])) == spoken.calls[0][1]
