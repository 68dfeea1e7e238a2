"""Checks of the recipe that need no weights; run with the toolkit's own Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any, Literal

import curriculum
import dspy
import episodes
import extract
import mixture
import pytest
import render
import tokens
from dspy.signatures.signature import make_signature
from render import Field, Task

from dspy_toolkit.programs.lm import local_lm

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
EXAMPLE = {"str": "some text", "bool": "True", "int": "3", "float": "1.5"}


def _signature(task: Task) -> type[dspy.Signature]:
    fields: dict[str, Any] = {}
    for group, make in ((task.inputs, dspy.InputField), (task.outputs, dspy.OutputField)):
        for field in group:
            kind = Literal[field.labels] if field.labels else TYPES[field.kind]
            fields[field.name] = (kind, make(desc=field.desc) if field.desc else make())
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


def test_the_whole_way_gives_a_model_that_loads(tmp_path: Path) -> None:
    """A few steps of each part; the second call finds everything done."""
    command = [sys.executable, str(HERE / "make.py"), "--out", str(tmp_path), "--tokens", "8192"]

    made = [subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True) for _ in "ab"]

    model = local_lm(made[0].stdout.strip(), max_tokens=4)
    assert made[0].stdout == made[1].stdout
    assert len(model("hello")) == 1
    model.release()
