"""Every optimizer at a size that takes a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dspy_toolkit.compiler.optimizers import OPTIMIZERS
from tests.compiler.running import TOOLS, agent
from tests.programs.tasks import DESCRIBED, TASK, learner, unsure, write_task

_DEMOS = {"max_bootstrapped_demos": 2, "max_labeled_demos": 4}
_SEARCH = {**_DEMOS, "num_candidate_programs": 2}
_OPTIONS: dict[str, dict[str, Any]] = {
    "labeled_few_shot": {"k": 4},
    "bootstrap_few_shot": _DEMOS,
    "bootstrap_few_shot_with_random_search": _SEARCH,
    "bootstrap_few_shot_with_optuna": _SEARCH,
    "race": {"num_candidate_programs": 6, "max_demos": 4, "share": 0.6},
    "knn_few_shot": {"k": 3},
    "copro": {"breadth": 3, "depth": 2},
    "miprov2": {
        "auto": "off",
        "num_candidates": 3,
        "num_trials": 4,
        "max_bootstrapped_demos": 2,
        "max_labeled_demos": 2,
        "minibatch_size": 4,
    },
    "gepa": {"max_metric_calls": 40},
    "simba": {"bsize": 4, "num_candidates": 2, "max_steps": 2, "max_demos": 2},
    "infer_rules": {**_DEMOS, "num_candidates": 2, "num_rules": 2},
    "avatar_optimizer": {"max_iters": 2},
    "ensemble": {**_SEARCH, "size": 2},
}
_AGENT = 'module = "react"\n[tools]\nfunctions = ["team_of"]\n[metric]'

USABLE = [name for name, row in OPTIMIZERS.items() if not row.refused and not row.not_durable]
"""Those that train no model."""


def options(optimizer: str) -> dict[str, Any]:
    """Its options for `write_small`."""
    return {"optimizer": optimizer, "options": _OPTIONS.get(optimizer, {})}


def at_once(optimizer: str, threads: int) -> int:
    """Most calls that are under way together: COPRO asks for its proposals all at once."""
    return max(threads, int(_OPTIONS.get(optimizer, {}).get("breadth", 1)))


def answering(optimizer: str) -> Any:
    """What answers for the task's model: an agent where the optimizer wants one, or one unsure."""
    if _wants_decisions(optimizer):
        return unsure
    return agent if _wants_tools(optimizer) else learner


def write_small(folder: Path, optimizer: str) -> Path:
    """A task that the optimizer can work on."""
    if not _wants_tools(optimizer):
        return write_task(folder, TASK, DESCRIBED)
    place = write_task(folder, TASK.replace("[metric]", _AGENT))
    (place / "tools.py").write_text(TOOLS)
    return place


def _wants_tools(optimizer: str) -> bool:
    return "agent" in OPTIMIZERS[optimizer].needs.program


def _wants_decisions(optimizer: str) -> bool:
    return "decisions" in OPTIMIZERS[optimizer].needs.program
