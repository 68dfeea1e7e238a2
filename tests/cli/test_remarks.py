"""What a running server tells at its terminal."""

from __future__ import annotations

import pytest

from dspy_toolkit.cli.remarks import Remarks
from dspy_toolkit.events import (
    BreakerChanged,
    BreakerStateLost,
    CallRetried,
    ChildEnded,
    ChildStarted,
)


def test_a_process_that_is_lost_and_the_one_that_takes_over_are_told_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tell = Remarks()
    for event in (
        ChildStarted("embedded", 11, 1.0),
        ChildEnded("embedded", "crashed", 3, 1, "killed by signal 9"),
        ChildStarted("embedded", 12, 1.64),
        ChildEnded("embedded", "no_heartbeat", 0, 0),
        BreakerChanged("embedded", "closed", "open"),
        BreakerChanged("embedded", "open", "half-open"),
        BreakerStateLost("/home/breakers/embedded.json", "No space left on device"),
        CallRetried("embedded", 1, 0.5, "ServerError"),
    ):
        tell(event)

    assert capsys.readouterr().err.splitlines() == [
        "embedded: its process was lost (killed by signal 9); calls made again: 3, failed: 1",
        "embedded: process 12 took over after 1.6 s",
        "embedded: its process was lost (it gave no sign of life); calls made again: 0, failed: 0",
        "embedded: its circuit is open",
        "a circuit goes on without its state in /home/breakers/embedded.json: "
        "No space left on device",
    ]
