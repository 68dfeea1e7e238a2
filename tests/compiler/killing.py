"""A compile run that is killed at a chosen call, in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from dspy_toolkit.compiler.course import Course
from dspy_toolkit.compiler.job import CompileResult
from dspy_toolkit.compiler.run import CompileOptions, compile_task
from dspy_toolkit.config import Settings
from dspy_toolkit.programs.task import load_task
from tests.programs.proposer import Proposer
from tests.programs.tasks import learner, scripted_lm


def compiled(
    folder: Path,
    home: Path,
    log: Path,
    *,
    kill_at: int | None = None,
    threads: int = 1,
    answer: Callable[[str], str] | None = None,
    course: Course | None = None,
    around: Callable[[Any], Any] = lambda engine: engine,
    **options: Any,
) -> CompileResult:
    """Compile a task; every answer leaves a line in `log`. Dies at the start of call `kill_at`."""
    lock = threading.Lock()
    begun = 0

    def watched(answer: Callable[[str], str]) -> Callable[[str], str]:
        def watching(request: str) -> str:
            nonlocal begun
            with lock:
                begun += 1
                if begun == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                said = answer(request)
                with log.open("a") as file:
                    file.write("1\n")
            return said

        return watching

    models = (
        scripted_lm(watched(answer or learner)),
        scripted_lm(watched(Proposer()), name="proposer"),
    )
    lm, prompt_model = (model.copy(engine=around(model.engine)) for model in models)
    chosen = CompileOptions(
        lm=lm,
        prompt_model=prompt_model,
        course=course or Course(),
        **options,
    )
    return compile_task(load_task(folder), chosen, Settings(home=home, threads=threads))


def killed(folder: Path, home: Path, log: Path, **how: Any) -> None:
    """Compile in a new process that dies on the way."""
    process = _context().Process(target=compiled, args=(folder, home, log), kwargs=how)
    process.start()
    process.join()

    assert process.exitcode == -signal.SIGKILL


def answers(log: Path) -> int:
    """How many calls were answered, in all processes."""
    return log.read_text().count("\n") if log.exists() else 0


def _context() -> ForkServerContext:
    # A server that has everything imported forks in milliseconds, and has no threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context
