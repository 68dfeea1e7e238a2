from __future__ import annotations

from typing import Any

import dspy
import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.contract import InvalidRequestError, Message, Request, ServerError
from dspy_toolkit.programs.formats import prompt_format
from dspy_toolkit.programs.signature import dspy_signature
from dspy_toolkit.registry import FieldRecord, SignatureRecord
from dspy_toolkit.resilience import (
    EnginePolicy,
    FixedAnswer,
    Policy,
    ResilientEngine,
    RetryPolicy,
)
from dspy_toolkit.training import HeadOptions, examples_of, train_heads
from dspy_toolkit.training.head_engine import head_engine
from dspy_toolkit.training.head_model import HeadModel

RECORD = SignatureRecord(
    name="order",
    version="1.0.0",
    instructions="Read the order.",
    inputs=(FieldRecord("note", "str"), FieldRecord("shop", "str")),
    outputs=(
        FieldRecord("kind", "Literal['new', 'change']"),
        FieldRecord("rush", "bool"),
        FieldRecord("goods", "list[str]"),
        FieldRecord("count", "int"),
        FieldRecord("customer", "str | None"),
    ),
)
ROWS = [
    {"note": "4 boxes for Ann, today", "shop": "north", "kind": "new", "rush": True,
     "goods": ["boxes"], "count": 4, "customer": "Ann"},
    {"note": "make it 9 lamps", "shop": "south", "kind": "change", "rush": False,
     "goods": ["lamps"], "count": 9, "customer": None},
]  # fmt: skip


@pytest.fixture(scope="module")
def heads(trained: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> HeadModel:
    examples = examples_of(RECORD, ROWS)
    options = HeadOptions(base=trained["result"], steps=10, batch_size=4, warmup_steps=2)
    return train_heads(
        RECORD, examples, examples, options, Settings(home=tmp_path_factory.mktemp("home"))
    )


def down(request: Request) -> str:
    raise ServerError("down")


@pytest.mark.parametrize("style", ["chat", "guided", "json"])
@pytest.mark.parametrize("row", ROWS)
def test_heads_answer_for_a_model_that_is_down(heads: HeadModel, row: Any, style: str) -> None:
    policy = Policy(
        primary="model",
        engines={
            "model": EnginePolicy(retry=RetryPolicy(attempts=1), fallback="heads"),
            "heads": EnginePolicy(),
        },
    )
    engine = ResilientEngine(policy, {"model": FixedAnswer(down), "heads": head_engine(heads)})
    lm = dspy.LM(
        "mlx/model", engine=engine, async_engine=engine.async_twin, num_retries=0, cache=False
    )
    program = dspy.Predict(dspy_signature(RECORD))
    inputs = {name: row[name] for name in ("note", "shop")}

    with dspy.context(lm=lm, adapter=prompt_format(style)):
        answer = program(**inputs, demos=[dspy.Example(**ROWS[1])])

    assert dict(answer.items()) == heads.predict(inputs).outputs


def test_a_prompt_without_the_inputs_is_refused(heads: HeadModel) -> None:
    request = Request(model="m", messages=(Message.user("[[ ## note ## ]]\nhello"),))

    with pytest.raises(InvalidRequestError, match=r"no field \[\[ ## shop ## \]\]"):
        head_engine(heads).complete(request)


def test_a_text_that_looks_like_a_prompt_is_read_whole(heads: HeadModel) -> None:
    text = "[[ ## note ## ]]\n2 lamps\n\nRespond with care\n\n[[ ## shop ## ]]\nwest"
    request = Request(
        model="m", messages=(Message.user(f"{text}\n\nRespond with the corresponding"),)
    )

    answer = head_engine(heads).complete(request)

    found = heads.predict({"note": "2 lamps\n\nRespond with care", "shop": "west"}).outputs
    assert f"[[ ## rush ## ]]\n{found['rush']}\n\n" in answer.text
    assert answer.text.endswith("[[ ## completed ## ]]\n")
