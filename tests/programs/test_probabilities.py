from __future__ import annotations

import asyncio
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import dspy
import pytest
from dspy.adapters.types.decision import Choice, Noul, Score

from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.programs.cache import use_call_cache
from dspy_toolkit.programs.decisions import LocalDecisions
from dspy_toolkit.programs.formats import prompt_format
from dspy_toolkit.programs.lm import LocalLM
from tests.programs.tasks import chat, scripted_lm

FORMS = ["guided", "guided_json"]


class Colour(Enum):
    RED = "red"
    BLUE = "sky blue"


Area: Any = Choice[("billing", "Payment issue"), ("technical", "Product bug")]
Blocked: Any = Noul[(True, "blocked"), (False, "usable")]
Anger: Any = Score["calm", "annoyed", "furious"]


class Triage(dspy.Signature):  # type: ignore[misc]
    """Decide."""

    ticket: str = dspy.InputField()
    note: str = dspy.OutputField(max_length=8)
    team: Literal["atlas", "atlas two", "comet"] = dspy.OutputField()
    level: Literal[1, 2, 10] = dspy.OutputField()
    sure: bool = dspy.OutputField()
    colour: Colour = dspy.OutputField()
    maybe: Literal["x", "y"] | None = dspy.OutputField()


class Decide(dspy.Signature):  # type: ignore[misc]
    """Decide about the ticket."""

    ticket: str = dspy.InputField(desc="what the customer writes")
    note: str = dspy.OutputField(max_length=8)
    area: Area = dspy.OutputField(desc="Which area is it?")
    blocked: Annotated[bool, Blocked] = dspy.OutputField(desc="Is the customer blocked?")
    anger: Anger = dspy.OutputField(desc="How angry?")


def predict(lm: Any, signature: Any, form: str, **config: Any) -> dspy.Prediction:
    with dspy.context(lm=lm, adapter=prompt_format(form)):
        return dspy.Predict(signature, **config)(ticket="It is late.")


@pytest.mark.parametrize("form", FORMS)
def test_a_prediction_has_the_probability_of_every_option(lm: LocalLM, form: str) -> None:
    plain = predict(lm, Triage, form)
    found = predict(lm, Triage, form, probabilities=True)

    assert found.probabilities.keys() == {"team", "level", "sure", "colour", "maybe"}
    assert found.probabilities["team"].keys() == {"atlas", "atlas two", "comet"}
    assert found.probabilities["level"].keys() == {1, 2, 10}
    assert found.probabilities["colour"].keys() == set(Colour)
    assert found.probabilities["maybe"].keys() == {"x", "y", None}
    for name, options in found.probabilities.items():
        assert found[name] in options
        assert sum(options.values()) == pytest.approx(1.0)
    assert {name: found[name] for name in Triage.output_fields} == dict(plain.items())


def test_coroutines_and_samples_get_them_too(lm: LocalLM) -> None:
    async def ask() -> dspy.Prediction:
        with dspy.context(lm=lm, adapter=prompt_format("guided")):
            return await dspy.Predict(Triage, probabilities=True, n=2, temperature=1.0).acall(
                ticket="It is late."
            )

    sampled = asyncio.run(ask()).completions

    assert len(sampled) == 2
    for each in sampled.probabilities:
        assert each["team"].keys() == {"atlas", "atlas two", "comet"}


def test_probabilities_come_out_of_the_cache_as_they_went_in(lm: LocalLM, tmp_path: Path) -> None:
    use_call_cache(Settings(home=tmp_path))
    kept = lm.copy(cache=True)
    before = kept.engine.stats().decoded
    first = predict(kept, Triage, "guided", probabilities=True)
    after = kept.engine.stats().decoded
    dspy.cache.reset_memory_cache()
    again = predict(kept, Triage, "guided", probabilities=True)
    dspy.cache.disk_cache.close()

    assert after > before
    assert kept.engine.stats().decoded == after
    assert again.probabilities == first.probabilities


def test_without_asking_there_are_none(lm: LocalLM) -> None:
    assert "probabilities" not in predict(lm, Triage, "guided")


def test_a_field_of_that_name_is_refused(lm: LocalLM) -> None:
    with pytest.raises(InvalidInput, match="call it otherwise"):
        predict(lm, dspy.Signature("ticket -> probabilities: bool"), "guided", probabilities=True)


@pytest.mark.parametrize("form", FORMS)
def test_decisions_are_weighed_not_written(lm: LocalLM, form: str) -> None:
    before = lm.engine.stats().weighed
    found = predict(lm, Decide, form)
    area, anger = found.area, found.anger

    assert lm.engine.stats().weighed > before
    assert area.probabilities.keys() == {"billing", "technical"}
    assert area.confidence == max(area.probabilities.values())
    assert area.probabilities[area.value] == area.confidence
    assert found.blocked is (found.probabilities["blocked"][True] >= 0.5)
    assert anger.value == pytest.approx(sum(n * p for n, p in anger.probabilities.items()))
    assert len(found.note) <= 8


def test_a_model_that_only_writes_is_asked_for_distributions_in_words() -> None:
    said = chat(blocked='{"noul": 0.25}')
    signature = Decide.delete("note").delete("area").delete("anger")
    lm = scripted_lm(lambda request: said)

    assert predict(lm, signature, "guided").blocked is False
    assert "noul" in lm.engine.requests[0]


@pytest.mark.parametrize("form", FORMS)
def test_a_local_model_answers_decision_requests(lm: LocalLM, form: str) -> None:
    decide = dspy.Predict(Decide.delete("note"))
    decide.demos = [
        {"ticket": "I paid twice", "area": "billing", "blocked": False, "anger": 1.0},
    ]
    decide.fields = {"blocked": {"threshold": 0.0}}
    with dspy.context(lm=LocalDecisions(lm, form)):
        found = decide(ticket="It is late.")
        same = asyncio.run(decide.acall(ticket="It is late."))

    assert found.blocked is True
    assert sum(found.area.probabilities.values()) == pytest.approx(1.0)
    assert found.anger.probabilities.keys() == {0, 1, 2}
    assert same.area.probabilities == pytest.approx(found.area.probabilities, rel=1e-3)


def test_decisions_need_a_model_that_can_weigh() -> None:
    with pytest.raises(InvalidInput, match="cannot weigh options"):
        LocalDecisions(scripted_lm(lambda request: ""))


def test_a_streamed_prediction_has_them_too(lm: LocalLM) -> None:
    program = dspy.streamify(
        dspy.Predict(Triage, probabilities=True),
        stream_listeners=[dspy.streaming.StreamListener("note")],
        async_streaming=False,
    )
    with dspy.context(lm=lm, adapter=prompt_format("guided")):
        *heard, prediction = program(ticket="It is late.")
    whole = predict(lm, Triage, "guided", probabilities=True)

    assert prediction.probabilities["team"] == pytest.approx(whole.probabilities["team"], rel=1e-3)
    assert "".join(piece.chunk for piece in heard).strip() == prediction.note
