from __future__ import annotations

import pytest

from dspy_toolkit.cli.progress import live_progress
from dspy_toolkit.events import (
    CallFinished,
    CandidateScored,
    JournalOpened,
    PhaseAdvanced,
    PhaseStarted,
    emit,
)


def test_a_log_shows_trial_best_interval_calls_speed_and_time_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with live_progress():
        emit(JournalOpened("run-1", 7, 1, 0))
        emit(PhaseStarted("run-1", "optimize", 10))
        emit(CallFinished("m", 0.1, 30, 10, cached=False))
        emit(CandidateScored("run-1", 1, 0.5, (1.0, 0.0, 1.0, 0.0), 4, 0))
        emit(CandidateScored("run-1", 2, 0.25, (1.0, 0.0, 0.0, 0.0), 8, 0))
        emit(PhaseAdvanced("run-1", "optimize", 5, 0.5))
        emit(PhaseStarted("run-1", "test", 10))
        emit(PhaseAdvanced("run-1", "optimize", 6, 0.5))
        emit(PhaseAdvanced("run-1", "test", 5, 0.75))
    opened, _, optimizing, _, testing = capsys.readouterr().err.splitlines()

    assert "run run-1 goes on from 7 calls; 1 damaged record of its journal" in opened
    assert "5 of 10, trial 2, best 50.0 % (" in optimizing
    assert "1 calls, " in optimizing
    assert "tokens/s" in optimizing
    assert optimizing.endswith("s left")
    assert "5 of 10, 75.0 %" in testing
