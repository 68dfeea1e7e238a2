from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.errors import IntegrityError, InvalidInput, NotFound
from dspy_toolkit.events import Event, TrainingStepped, subscribed
from dspy_toolkit.registry import FieldRecord, SignatureRecord
from dspy_toolkit.training import (
    HeadExample,
    HeadLoss,
    HeadOptions,
    examples_of,
    load_heads,
    train_heads,
)
from dspy_toolkit.training.head_model import HeadModel
from dspy_toolkit.training.head_training import accuracy
from dspy_toolkit.training.recipe import AdapterRecipe
from tests.training import tiny

RECORD = SignatureRecord(
    name="mail",
    version="1.0.0",
    instructions="Read the mail.",
    inputs=(FieldRecord("mail", "str"),),
    outputs=(
        FieldRecord("topic", "Literal['billing', 'device', 'parcel']"),
        FieldRecord("thing", "str"),
    ),
)


def row(index: int) -> dict[str, str]:
    question, answer = tiny.example(index)["messages"]
    topic, text = answer["content"], question["content"]
    thing = next(word for word in tiny.TOPICS[topic] if word in text.split())
    return {"mail": text, "topic": topic, "thing": thing}


ROWS = [row(i) for i in range(48)]
TRAIN = examples_of(RECORD, [each for i, each in enumerate(ROWS) if i % 4])
TEST = examples_of(RECORD, ROWS[::4])


def options(base: str, **changes: Any) -> HeadOptions:
    given: dict[str, Any] = {
        "mode": "full",
        "steps": 60,
        "batch_size": 12,
        "learning_rate": 5e-3,
        "causal": False,
    }
    return HeadOptions(base=base, **{**given, **changes})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def heads(trained: dict[str, Any], home: Settings) -> HeadModel:
    return train_heads(RECORD, TRAIN, TEST, options(trained["result"]), home)


def test_heads_answer_all_outputs_of_inputs_they_were_not_shown(heads: HeadModel) -> None:
    scores = accuracy(heads, TEST)

    assert scores["topic"] == 1.0
    assert scores["thing"] >= 0.9
    assert heads.facts.scores["validation"] == scores


def test_a_prediction_is_typed_and_says_how_likely_it_is(heads: HeadModel) -> None:
    found = heads.predict({"mail": "my invoice is wrong"})

    assert found.outputs == {"topic": "billing", "thing": "invoice"}
    assert 0.5 < found.probabilities["topic"] <= 1.0
    assert sum(found.distributions["topic"].values()) == pytest.approx(1.0)


def test_many_are_answered_as_each_alone(heads: HeadModel) -> None:
    inputs = [example.inputs for example in TEST]

    together = heads.predict_many(inputs, batch_size=5)

    for given, found in zip(inputs, together, strict=True):
        alone = heads.predict(given)
        assert found.outputs == alone.outputs
        assert found.probabilities == pytest.approx(alone.probabilities, rel=1e-3)


@pytest.mark.parametrize("mode", ["full", "lora", "frozen"])
def test_a_saved_model_answers_as_before(
    trained: dict[str, Any], home: Settings, tmp_path: Path, mode: str
) -> None:
    adapter = AdapterRecipe(rank=2, keys=("self_attn.q_proj",)) if mode == "lora" else None
    made = train_heads(
        RECORD,
        TRAIN,
        TEST,
        options(trained["result"], mode=mode, adapter=adapter, steps=4, causal=True),
        home,
    )

    made.save(tmp_path / "heads")
    loaded = load_heads(tmp_path / "heads", home)

    assert loaded.facts == made.facts
    for example in TEST[:4]:
        before, after = made.predict(example.inputs), loaded.predict(example.inputs)
        assert after.distributions == before.distributions
        assert after.outputs == before.outputs
    size = (tmp_path / "heads" / "heads.safetensors").stat().st_size
    assert (tmp_path / "heads" / "backbone").exists() == (mode == "full")
    assert size < 40_000


def test_a_stopped_training_goes_on_and_ends_the_same(
    trained: dict[str, Any], home: Settings, tmp_path: Path
) -> None:
    given = options(trained["result"], steps=9, evaluate_every=3)
    straight = train_heads(RECORD, TRAIN, TEST, given, home)

    class Crash(Exception):
        pass

    def crash(event: Event) -> None:
        if isinstance(event, TrainingStepped) and event.step == 5:
            raise Crash

    with subscribed(crash), pytest.raises(Crash):
        train_heads(RECORD, TRAIN, TEST, given, home, tmp_path / "work")
    resumed = train_heads(RECORD, TRAIN, TEST, given, home, tmp_path / "work")

    inputs = TEST[0].inputs
    assert resumed.predict(inputs).distributions == straight.predict(inputs).distributions


def test_tampered_heads_or_a_changed_backbone_are_refused(
    trained: dict[str, Any], home: Settings, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for file in Path(trained["result"]).iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    made = train_heads(RECORD, TRAIN, TEST, options(str(base), mode="frozen", steps=2), home)
    made.save(tmp_path / "heads")

    (base / "config.json").write_text((base / "config.json").read_text() + "\n")
    with pytest.raises(IntegrityError, match="has changed since"):
        load_heads(tmp_path / "heads", home)
    (tmp_path / "heads" / "heads.safetensors").write_bytes(b"x")
    with pytest.raises(IntegrityError, match=r"heads.safetensors was changed"):
        load_heads(tmp_path / "heads", home)
    with pytest.raises(NotFound, match="does not exist"):
        load_heads(tmp_path / "none", home)


def test_examples_and_options_that_cannot_be_used_are_refused(home: Settings) -> None:
    with pytest.raises(InvalidInput, match="heads need examples"):
        train_heads(RECORD, [], TEST, HeadOptions(), home)
    with pytest.raises(InvalidInput, match="mode must be frozen, lora, dora or full"):
        HeadOptions(mode="half")
    with pytest.raises(InvalidInput, match="an adapter goes with mode lora or dora"):
        HeadOptions(mode="full", adapter=AdapterRecipe())
    with pytest.raises(InvalidInput, match="loss 'hinge' does not exist"):
        HeadOptions(loss=HeadLoss(name="hinge"))


def test_rows_become_examples_by_the_fields_of_the_signature() -> None:
    given = [{"mail": "x", "topic": "device", "note": "y"}]

    assert examples_of(RECORD, given) == [HeadExample({"mail": "x"}, {"topic": "device"})]
