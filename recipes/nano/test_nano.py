"""Checks of the recipe that need no weights; run with the toolkit's own Python."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random
from typing import Any, Literal

import curriculum
import dspy
import episodes
import extract
import make
import mixture
import orders
import pytest
import render
import tokens
from dspy.signatures.signature import make_signature
from render import Field, Task

from dspy_toolkit.programs.opening import local_lm
from dspy_toolkit.programs.task import load_task

HERE = Path(__file__).parent
TYPES = {"str": str, "bool": bool, "int": int, "float": float}
TASKS = (
    Task(
        (Field("ticket"),),
        (Field("team", labels=("atlas", "comet")), Field("urgency", labels=("low", "high"))),
        "Sort the ticket.\nUse the examples.",
    ),
    Task((Field("text"),), (Field("label", kind="bool"),), "Given `text`, say `label`."),
    Task(
        (Field("context"), Field("question", desc="what to answer")),
        (Field("reasoning"), Field("answer"), Field("n", kind="int"), Field("x", kind="float")),
        "Answer.",
    ),
    Task((Field("a"),), (Field("n", kind="int"), Field("b", labels=("u v", "w"))), "Do it."),
    Task((Field("a"),), (Field("b", labels=("x", "y"), desc="which"), Field("c")), "Do it."),
)
BOUND = "\nConstraints: minimum length: 1"
ORDER = Task(
    (Field("email", desc="an email that orders goods"),),
    (
        Field("customer", desc="full name of the person who orders" + BOUND),
        Field(
            "goods",
            kind="list[Item]",
            desc="what is ordered, in the order of the email" + BOUND,
            schema=orders.schema(
                "Item",
                "name",
                "quantity",
                ("the product, in the singular and without a quantity", ""),
            ),
        ),
        Field(
            "total",
            kind="float",
            desc="the amount to pay for the whole order, in dollars\n"
            "Constraints: greater than or equal to: 0",
        ),
        Field("express", kind="bool", desc="whether the customer asks for express delivery"),
    ),
    "Read the order out of the customer's email.",
)
POLICY = Task(
    (Field("context", desc="a few sentences of a company policy"), Field("question")),
    (
        Field("reasoning"),
        Field("answer", desc="yes, no, or a few words taken from the policy" + BOUND),
    ),
    "Answer the question from the policy alone.",
)
EXAMPLE = {"str": "some text", "bool": "True", "int": "3", "float": "1.5"}


def _signature(task: Task) -> type[dspy.Signature]:
    fields: dict[str, Any] = {}
    for group, field_of in ((task.inputs, dspy.InputField), (task.outputs, dspy.OutputField)):
        for field in group:
            kind = Literal[field.labels] if field.labels else TYPES[field.kind]
            fields[field.name] = (kind, field_of(desc=field.desc) if field.desc else field_of())
    return make_signature(fields, instructions=task.instructions)


def _chat(messages: list[dict[str, str]]) -> str:
    turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>" for m in messages]
    return "\n".join([*turns, "<|im_start|>assistant\n"])


@pytest.mark.parametrize("task", TASKS)
def test_prompts_equal_those_of_dspy(task: Task) -> None:
    signature = _signature(task)
    inputs = {field.name: "Some input" for field in task.inputs}
    values = tuple(
        field.labels[0] if field.labels else EXAMPLE[field.kind] for field in task.outputs
    )
    demo = {**inputs, **{f.name: v for f, v in zip(task.outputs, values, strict=True)}}
    theirs = _chat(dspy.ChatAdapter().format(signature, [demo, demo], inputs))
    ours = render.system(task)
    for _ in range(2):
        ours += render.question(task, tuple(inputs.values()), request=False)
        ours += [text for text, _ in render.answer(task, values)]
    ours += render.question(task, tuple(inputs.values()), request=True)

    assert "".join(ours) == theirs


@pytest.mark.parametrize("name", ["order_extraction", "policy_answers"])
def test_prompts_equal_those_of_an_example_with_labelled_demonstrations(name: str) -> None:
    """An order has a list of objects; the demonstrations of the policies lack their reasoning."""
    program = load_task(HERE.parents[1] / "examples" / name)
    train = list(program.data.train.examples)
    predict = program.program().predictors()[0]
    outputs = tuple(predict.signature.output_fields)
    theirs = _chat(dspy.ChatAdapter().format(predict.signature, train[:2], train[2].inputs()))
    task = ORDER if name == "order_extraction" else POLICY

    ours = render.system(task)
    for index, example in enumerate(train[:3]):
        inputs = tuple(example[field.name] for field in task.inputs)
        partial, request = name == "policy_answers", index == 2
        ours += render.question(task, inputs, request, partial and not request)
        if not request:
            values = tuple(_written(example.get(field, render.MISSING)) for field in outputs)
            ours += [text for text, _ in render.answer(task, values)]

    assert "".join(ours) == theirs


def _written(value: Any) -> str:
    if isinstance(value, list):
        return json.dumps([each.model_dump() for each in value])
    return str(value)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tokens.build(12000)


@pytest.mark.parametrize("form", episodes.FORMS)
def test_pieces_encode_as_the_whole_text_does(tokenizer: Any, form: str) -> None:
    encode = tokens.PieceEncoder(tokenizer)
    for seed in range(20):
        rng = Random(seed)
        pieces = episodes.classify(rng, episodes.FORMS[form], lambda _: True, demos=6)
        text = "".join(piece.text for piece in pieces)

        assert [i for p in pieces for i in encode(p.text)] == tokenizer.encode(text).ids


def room_for(demonstrations: int) -> episodes.Room:
    """Room for the instructions, the last question and so many demonstrations."""
    fits = iter([True] * (demonstrations + 2))
    return lambda _: next(fits, False)


@pytest.mark.parametrize("form", mixture.REST)
def test_pieces_of_what_is_no_label_encode_as_the_whole_text_does(
    tokenizer: Any, form: str
) -> None:
    encode = tokens.PieceEncoder(tokenizer)
    for seed in range(20):
        pieces = mixture.draw(form, Random(seed), room_for(5))
        text = "".join(piece.text for piece in pieces)

        assert [i for p in pieces for i in encode(p.text)] == tokenizer.encode(text).ids


@pytest.mark.parametrize(
    "text",
    ["Grüße, 世界 🙂", "def f(x):\n    return x['a']  # ok", " a  b\t\n\n", "[[ ## a ## ]]\nb"],
)
def test_any_text_comes_back(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_an_episode_is_a_function_of_its_seed() -> None:
    form = episodes.FORMS["full"]
    made = [episodes.classify(Random(3), form, lambda _: True, demos=4) for _ in range(2)]

    assert made[0] == made[1]


def test_what_is_held_out_is_never_drawn() -> None:
    facts = extract.of_domains("fact", ())

    assert {fact["domain"] for fact in facts}.isdisjoint(extract.HELD_OUT_DOMAINS)
    assert extract.of_domains("fact", extract.HELD_OUT_DOMAINS)


@pytest.mark.parametrize("domains", [(), extract.HELD_OUT_DOMAINS])
@pytest.mark.parametrize("seed", range(20))
def test_the_answer_to_a_question_stands_in_its_context(seed: int, domains: Any) -> None:
    questions = extract.Questions(Random(seed), False, reasons=True, domains=domains)

    (context, question), (reason, answer) = questions.draw()

    assert "{" not in context + question
    assert reason in context
    assert answer.lower() in reason.lower()


def test_a_verdict_is_right_as_often_as_wrong() -> None:
    questions = extract.Questions(Random(0), True, reasons=True)
    drawn = [questions.draw() for _ in range(300)]

    right = sum(values[-1] == questions.truths[0] for _, values in drawn)

    assert 110 < right < 190


def test_an_order_says_what_its_fields_hold() -> None:
    for seed in range(40):
        made = orders.Orders(Random(seed))
        (text,), values = made.draw()
        held = dict(zip(made.parts, values, strict=True))

        assert "{" not in text
        assert held.get("who", "") in text
        assert all(
            name.split()[-1] in text and count in range(1, 13)
            for name, count in map(dict.values, json.loads(held.get("what", "[]")))
        )


@pytest.mark.parametrize("form", mixture.LENGTHS)
def test_an_example_of_every_form_fits_its_length(form: str, tokenizer: Any) -> None:
    encode = tokens.PieceEncoder(tokenizer)
    for length in mixture.LENGTHS[form]:
        made = [row for seed in range(9) for row in curriculum.row(form, length, Random(seed))]
        sizes = [sum(len(encode(p["text"])) for p in row["pieces"]) for row in made]

        assert made
        assert max(sizes) <= length


def test_a_batch_is_a_function_of_its_number() -> None:
    assert curriculum.examples(1, 3000, 4) == curriculum.examples(1, 3000, 4)
    assert curriculum.examples(1, 3000, 4) != curriculum.examples(1, 3001, 4)


def test_the_whole_way_gives_a_model_that_loads(
    tmp_path: Path,
    tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A few steps of each part; the second call finds everything done."""
    monkeypatch.setattr(tokens, "build", lambda: tokenizer)
    monkeypatch.setattr(sys, "argv", ["make.py", "--out", str(tmp_path), "--tokens", "8192"])

    made = []
    for _ in range(2):
        make.main()
        made.append(capsys.readouterr().out)

    model = local_lm(made[0].strip(), max_tokens=4)
    assert made[0] == made[1]
    assert len(model("hello")) == 1
    model.release()
