from __future__ import annotations

from dspy_toolkit.events import Event, RunStarted, emit, subscribed


def test_subscribers_hear_events_in_order_until_their_block_ends() -> None:
    heard: list[tuple[str, Event]] = []
    first, second = RunStarted("1", "t", "o"), RunStarted("2", "t", "o")

    with subscribed(lambda event: heard.append(("outer", event))):
        with subscribed(lambda event: heard.append(("inner", event))):
            emit(first)
        emit(second)
    emit(first)

    assert heard == [("outer", first), ("inner", first), ("outer", second)]
