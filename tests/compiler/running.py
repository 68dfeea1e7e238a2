"""A compile run of the routing task in this process, and what it leaves."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest

from dspy_toolkit.compiler.job import CompileResult
from dspy_toolkit.compiler.run import CompileOptions, compile_task
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput, NotFound
from dspy_toolkit.events import Event, subscribed
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.task import load_task
from dspy_toolkit.store.history import History, RunRow
from tests.programs.tasks import TASK, chat, learner, rows, scripted_lm, write_task

SEARCH = {"max_bootstrapped_demos": 2, "max_labeled_demos": 4, "num_candidate_programs": 1}
SEARCHED = TASK.split("[optimizer]")[0] + (
    '[optimizer]\nname = "bootstrap_few_shot_with_random_search"\n'
    + "\n".join(f"{key} = {value}" for key, value in SEARCH.items())
)


def compiled(
    folder: Path, settings: Settings, lm: LocalLM | None = None, text: str = TASK, **options: Any
) -> CompileResult:
    task = load_task(write_task(folder, text))
    return compile_task(task, CompileOptions(lm=lm or scripted_lm(learner), **options), settings)


def made(result: CompileResult) -> Path:
    assert result.artifact is not None

    return result.artifact


def history(settings: Settings) -> list[RunRow]:
    book = History(settings.database)
    found = book.latest()
    book.close()
    return found


def only_run(settings: Settings) -> tuple[RunRow, Path]:
    (row,) = history(settings)
    return row, settings.runs / row.id


TOOLS = """
def team_of(number: int) -> str:
    \"\"\"The team that takes a message.\"\"\"
    return "atlas" if number % 2 == 0 else "comet"
"""


def agent(request: str) -> str:
    """Looks the team up with the tool, finishes, and answers with what it found."""
    n = int(re.findall(r"## text ## \]\]\n.*message (\d+)", request)[-1])
    trajectory = request.split("[[ ## trajectory ## ]]")[-1]
    if (
        "Respond with the corresponding output fields, starting with the field `[[ ## reasoning"
        in request
    ):
        found = re.findall(r"observation_0 ## \]\]\n(\w+)", trajectory)[-1]
        return chat(reasoning="The tool says so.", team=found, urgent=n % 3 == 0)
    if "observation_0" in trajectory:
        return chat(next_thought="Done.", next_tool_name="finish", next_tool_args="{}")
    return chat(next_thought="Ask.", next_tool_name="team_of", next_tool_args=f'{{"number": {n}}}')


def examples(split: str, count: int) -> list[dspy.Example]:
    return [dspy.Example(**row).with_inputs("text") for row in rows(split, count)]


def check_refused(begun: Callable[[], object], message: str) -> None:
    """Nothing is loaded, nothing happens, and one line says why."""
    events: list[Event] = []
    with subscribed(events.append), pytest.raises((NotFound, InvalidInput), match=message) as told:
        begun()

    assert events == []
    assert "\n" not in str(told.value)
