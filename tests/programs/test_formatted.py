"""Prompts whose beginning was written before are those that DSPy writes."""

from __future__ import annotations

from typing import Any, Literal

import dspy
import pytest
from pydantic import BaseModel

from dspy_toolkit.programs.formats import prompt_format


class Place(BaseModel):
    town: str


class Extract(dspy.Signature):  # type: ignore[misc]  # DSPy ships no types
    """Read the ticket."""

    ticket: str = dspy.InputField()
    tags: list[str] = dspy.OutputField()
    amount: float = dspy.OutputField(desc="in euros")
    team: Literal["atlas", "billing"] | None = dspy.OutputField()
    place: Place = dspy.OutputField()


DEMO: dict[str, Any] = {
    "ticket": "Late.",
    "tags": ["late"],
    "amount": 1,
    "team": "atlas",
    "place": None,
}
PEERS = {"guided": dspy.ChatAdapter(), "guided_json": dspy.JSONAdapter(), "xml": dspy.XMLAdapter()}


def same(name: str, signature: Any, demos: list[dict[str, Any]]) -> bool:
    mine, peer = prompt_format(name), PEERS[name]
    asked = {"ticket": "Broken."}
    return bool(mine.format(signature, demos, asked) == peer.format(signature, demos, asked))


@pytest.mark.parametrize("name", PEERS)
def test_equal_demonstrations_that_are_written_otherwise_stay_apart(name: str) -> None:
    for amount in (1, 1.0, True, "1", 0.0, -0.0, None):
        assert same(name, Extract, [DEMO | {"amount": amount}])
        assert same(name, Extract, [DEMO | {"tags": [amount]}])
        assert same(name, Extract, [DEMO | {"tags": (amount,)}, DEMO])


@pytest.mark.parametrize("name", PEERS)
def test_demonstrations_that_were_changed_are_written_again(name: str) -> None:
    demo = DEMO | {"tags": ["late"], "place": Place(town="Rome")}
    other = DEMO | {"tags": ["late"]}
    demos = [demo, other]

    assert same(name, Extract, demos)

    demo["place"].town = "Oslo"
    other["tags"].append("lost")

    assert same(name, Extract, demos)

    del other["team"]
    demos.reverse()

    assert same(name, Extract, demos)


@pytest.mark.parametrize("name", PEERS)
def test_a_signature_that_was_changed_is_described_again(name: str) -> None:
    signature = Extract.with_instructions("Read it.")

    assert same(name, signature, [DEMO])

    signature.instructions = "Read it twice."
    signature.fields["amount"].json_schema_extra["desc"] = "in dollars"

    assert same(name, signature, [DEMO])


def test_messages_may_be_changed_by_whoever_gets_them() -> None:
    adapter = prompt_format("guided")
    adapter.format(Extract, [DEMO], {"ticket": "Broken."})[1]["content"] = "gone"

    assert same("guided", Extract, [DEMO])
