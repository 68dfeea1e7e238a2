from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.registry import FieldRecord, SignatureRecord
from dspy_toolkit.training.augment import Augmenter
from dspy_toolkit.training.head_data import HeadSource, head_batch, usable
from dspy_toolkit.training.head_decoding import decode
from dspy_toolkit.training.head_inputs import (
    BEGINS,
    GOES_ON,
    AnswerNotFound,
    InputReader,
    ReadInput,
    goal,
    stacked,
)
from dspy_toolkit.training.head_options import HeadExample, HeadLoss
from dspy_toolkit.training.head_specs import (
    LABEL,
    LABELS,
    NUMBER,
    SPAN,
    SPANS,
    TAGS,
    HeadSpec,
    specs_of,
)
from dspy_toolkit.training.heads import Pointer, Pooled, head_loss

TEXT = "the red box of Ann Lee costs 42.50 dollars"


def record(**outputs: str) -> SignatureRecord:
    return SignatureRecord(
        name="mail",
        version="1.0.0",
        instructions="Read the mail.",
        inputs=(FieldRecord("mail", "str"),),
        outputs=tuple(FieldRecord(name, kind) for name, kind in outputs.items()),
    )


@pytest.fixture(scope="module")
def read(tokenizer: Any) -> InputReader:
    return InputReader(tokenizer, ["mail"], 64)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("Literal['a', 'b']", HeadSpec("out", LABEL, ("a", "b"))),
        ("Literal['a', 'b'] | None", HeadSpec("out", LABEL, ("a", "b", None))),
        ("bool", HeadSpec("out", LABEL, (False, True))),
        ("list[Literal['a', 'b']]", HeadSpec("out", LABELS, ("a", "b"))),
        ("str", HeadSpec("out", SPAN)),
        ("str | None", HeadSpec("out", SPAN, optional=True)),
        ("list[str]", HeadSpec("out", SPANS)),
        ("dict[Literal['a', 'b'], list[str]]", HeadSpec("out", TAGS, ("a", "b"))),
        ("int", HeadSpec("out", NUMBER, whole=True, mean=3.0, spread=1.0)),
        ("float | None", HeadSpec("out", NUMBER, optional=True, mean=3.0, spread=1.0)),
    ],
)
def test_each_type_has_its_head(kind: str, expected: HeadSpec) -> None:
    examples = [{"out": 2}, {"out": 4}, {}] if "int" in kind or "float" in kind else []

    assert specs_of(record(out=kind), examples) == [expected]


@pytest.mark.parametrize("kind", ["dict[str, int]", "list[list[str]]", "list[float]", "Image"])
def test_a_type_no_head_gives_is_refused(kind: str) -> None:
    with pytest.raises(InvalidInput, match=r"output out is a .*, which no head gives"):
        specs_of(record(out=kind), [])


def test_a_spec_is_read_back_equal() -> None:
    spec = HeadSpec("out", LABEL, ("a", 1, True, None), optional=True)

    assert HeadSpec.load(spec.to_dict()) == spec


def words(read: ReadInput) -> list[str]:
    return [read.text[start:end] for start, end in read.words]


def test_words_are_those_of_the_values_and_numbers_stay_whole(read: InputReader) -> None:
    assert words(read({"mail": TEXT})) == TEXT.split()


def test_each_word_ends_in_its_last_token(read: InputReader, tokenizer: Any) -> None:
    seen = read({"mail": TEXT})

    for (_, end), last in zip(seen.words, seen.last_tokens, strict=True):
        assert tokenizer.decode(seen.tokens[: last + 1]) == seen.text[:end]


def test_a_long_input_is_cut_with_its_words(tokenizer: Any) -> None:
    seen = InputReader(tokenizer, ["mail"], 10)({"mail": TEXT})

    assert seen.truncated
    assert len(seen.tokens) == 10
    assert max(seen.last_tokens) < 10


def test_a_missing_input_is_named(read: InputReader) -> None:
    with pytest.raises(InvalidInput, match="input mail is missing"):
        read({"letter": TEXT})


@pytest.mark.parametrize(
    ("spec", "value", "expected"),
    [
        (HeadSpec("out", LABEL, ("a", "b")), "b", 1),
        (HeadSpec("out", LABEL, (1, True)), True, 1),
        (HeadSpec("out", LABELS, ("a", "b", "c")), ["c", "a"], [1, 0, 1]),
        (HeadSpec("out", LABELS, ("a", "b")), None, [0, 0]),
        (HeadSpec("out", NUMBER, mean=10, spread=2), 14, [2, 1]),
        (HeadSpec("out", NUMBER, optional=True), None, [0, 0]),
        (HeadSpec("out", SPAN), "Ann Lee", [5, 6]),
        (HeadSpec("out", SPAN), "ann  lee", [5, 6]),
        (HeadSpec("out", SPAN), "the red", [1, 2]),
        (HeadSpec("out", SPAN, optional=True), None, [0, 0]),
        (
            HeadSpec("out", SPANS),
            ["red box", "42.50"],
            [0, BEGINS, GOES_ON, 0, 0, 0, 0, BEGINS, 0],
        ),
        (
            HeadSpec("out", TAGS, ("name", "thing")),
            {"thing": ["red box"], "name": ["Ann Lee"]},
            [0, BEGINS + 2, GOES_ON + 2, 0, BEGINS, GOES_ON, 0, 0, 0],
        ),
    ],
)
def test_goals_by_hand(read: InputReader, spec: HeadSpec, value: Any, expected: Any) -> None:
    text = TEXT.replace("Ann Lee", "Ann  Lee") if value == "ann  lee" else TEXT

    assert goal(spec, read({"mail": text}), value).tolist() == expected


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (HeadSpec("out", LABEL, ("a", "b")), "c"),
        (HeadSpec("out", LABEL, (0, 1)), True),
        (HeadSpec("out", SPAN), "blue"),
        (HeadSpec("out", SPAN), "bo"),
        (HeadSpec("out", SPANS), ["red", "red"]),
        (HeadSpec("out", TAGS, ("a",)), {"b": ["red"]}),
        (HeadSpec("out", TAGS, ("a", "b")), {"a": ["red box"], "b": ["box"]}),
    ],
)
def test_an_answer_that_is_not_there_is_refused(
    read: InputReader, spec: HeadSpec, value: Any
) -> None:
    with pytest.raises(AnswerNotFound, match="out: "):
        goal(spec, read({"mail": TEXT}), value)


def raw_for(spec: HeadSpec, target: np.ndarray, words: int) -> np.ndarray:
    """Raw outputs of a head that is sure of a goal."""
    sure: Any
    if spec.kind == LABEL:
        sure = np.eye(len(spec.options))[int(target)]
    elif spec.kind == LABELS:
        sure = 2.0 * target - 1.0
    elif spec.kind == NUMBER:
        return np.array([target[0], 20.0 if target[1] else -20.0])
    elif spec.kind == SPAN:
        sure = np.eye(words + 1)[target].T
    else:
        sure = np.eye(1 + 2 * (len(spec.options) or 1))[target]
    return np.asarray(20.0 * sure)


items = st.lists(st.sampled_from(["red box", "Ann Lee", "42.50", "the"]), unique=True, max_size=4)


@given(st.sampled_from(["a", "b", None]), items, st.one_of(st.none(), st.integers(-50, 50)))
def test_what_a_sure_head_gives_is_decoded_to_the_value(
    read: InputReader, label: str | None, spans: list[str], count: int | None
) -> None:
    span = spans[0] if spans else None
    chosen = [option for option in ("x", "y", "z") if option < "xyz"[len(spans) % 3]]
    specs = [
        HeadSpec("label", LABEL, ("a", "b", None)),
        HeadSpec("labels", LABELS, ("x", "y", "z")),
        HeadSpec("count", NUMBER, optional=True, whole=True, mean=3, spread=7),
        HeadSpec("span", SPAN, optional=True),
        HeadSpec("spans", SPANS),
        HeadSpec("tags", TAGS, ("p", "q")),
    ]
    tags = {"p": sorted(spans[1:], key=TEXT.index), "q": spans[:1]}
    spans = sorted(spans, key=TEXT.index)
    values = {
        "label": label,
        "labels": chosen,
        "count": count,
        "span": span,
        "spans": spans,
        "tags": {name: texts for name, texts in tags.items() if texts},
    }
    seen = read({"mail": TEXT})

    goals = {spec.field: goal(spec, seen, values[spec.field]) for spec in specs}
    raw = {spec.field: raw_for(spec, goals[spec.field], len(seen.words)) for spec in specs}
    found = decode(specs, raw, seen)

    assert found.outputs == values
    assert all(share > 0.99 for share in found.probabilities.values())


def test_probabilities_by_hand(read: InputReader) -> None:
    seen = read({"mail": "red box"})
    odds = [math.log(3), 0.0]
    specs = [HeadSpec("label", LABEL, ("a", "b")), HeadSpec("span", SPAN)]
    # Pairs (first, last): (1,1) 9, (1,2) 3, (2,2) 1 of 13; (2,1) is no span.
    pointer = np.array([[-99.0, -99.0], [math.log(3), math.log(3)], [0.0, 0.0]])

    found = decode(specs, {"label": np.array(odds), "span": pointer}, seen)

    assert found.distributions["label"] == pytest.approx({"a": 0.75, "b": 0.25})
    assert found.outputs["span"] == "red"
    assert found.probabilities["span"] == pytest.approx(9 / 13)
    assert found.evidence["span"] == [seen.words[0]]


def test_an_empty_input_gives_empty_spans(read: InputReader) -> None:
    seen = read({"mail": ""})
    specs = [HeadSpec("span", SPAN), HeadSpec("some", SPAN, optional=True), HeadSpec("all", SPANS)]
    raw = {"span": np.zeros((17, 2)), "some": np.zeros((17, 2)), "all": np.zeros((16, 3))}

    found = decode(specs, raw, seen)

    assert found.outputs == {"span": "", "some": None, "all": []}


def test_words_that_go_on_under_another_label_are_another_text(read: InputReader) -> None:
    specs = [HeadSpec("tags", TAGS, ("p", "q"))]
    # Goes on without a beginning, goes on, then goes on under the other label.
    tags = np.eye(5)[[GOES_ON, GOES_ON, GOES_ON + 2]]

    found = decode(specs, {"tags": 9 * tags}, read({"mail": "the red box"}))

    assert found.outputs["tags"] == {"p": ["the red"], "q": ["box"]}
    assert len(found.evidence["tags"]) == 2


def test_pooling_averages_the_valid_states() -> None:
    head = Pooled(2, 1)
    head.out.weight, head.out.bias = mx.array([[1.0, 10.0]]), mx.array([0.5])
    states = mx.array([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]]])

    pooled = head(states, mx.array([[True, True, False]]))

    assert pooled.item() == pytest.approx(2.0 + 30.0 + 0.5)


def test_a_pointer_never_points_at_padding() -> None:
    head = Pointer(2)
    states = mx.random.normal((1, 3, 2))

    scores = head(states, mx.array([[True, False, False]]), states, mx.ones((1, 3), mx.bool_))

    assert scores.shape == (1, 4, 2)
    assert (scores[0, 2:] < -1e8).all().item()


SPECS = [
    HeadSpec("label", LABEL, ("a", "b")),
    HeadSpec("labels", LABELS, ("x", "y")),
    HeadSpec("count", NUMBER, optional=True),
    HeadSpec("span", SPAN),
    HeadSpec("spans", SPANS),
]
OUTPUTS = {"label": "a", "labels": ["y"], "count": 2, "span": "red box", "spans": ["red"]}


class Fixed:
    """Stands where a model stands: raw outputs that are given."""

    def __init__(self, raw: dict[str, mx.array]) -> None:
        self.raw = raw

    def __call__(self, batch: Any) -> dict[str, mx.array]:
        return self.raw


def loss_of(read: InputReader, outputs: dict[str, Any], options: HeadLoss, **extra: Any) -> float:
    """The loss of raw outputs that are zero everywhere, for one example of `the red box`."""
    example = HeadExample({"mail": "the red box"}, outputs, **extra)
    batch = head_batch([example], SPECS, read, ("here",))
    raw = {
        "label": mx.zeros((1, 2)),
        "labels": mx.zeros((1, 2)),
        "count": mx.zeros((1, 2)),
        "span": mx.zeros((1, 17, 2)),
        "spans": mx.zeros((1, 16, 3)),
    }
    total, count = head_loss(SPECS, options)(Fixed(raw), batch.parts[0])
    assert count.item() == 1
    return float(total.item())


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("label", math.log(2)),
        ("labels", math.log(2)),
        # Huber of 2, and the question whether there is a number.
        ("count", 1.5 + math.log(2)),
        ("span", math.log(17)),
        ("spans", math.log(3)),
    ],
)
def test_the_loss_of_a_field_by_hand(read: InputReader, field: str, expected: float) -> None:
    loss = loss_of(read, {field: OUTPUTS[field]}, HeadLoss())

    assert loss == pytest.approx(expected, rel=1e-5)


def test_fields_add_up_by_their_weights(read: InputReader) -> None:
    two = {"label": "a", "spans": ["red"]}

    loss = loss_of(read, two, HeadLoss(weights={"label": 3.0, "spans": 0.5}))

    assert loss == pytest.approx(3 * math.log(2) + 0.5 * math.log(3), rel=1e-5)


def test_a_teachers_beliefs_take_their_share(read: InputReader) -> None:
    beliefs = {"label": {"a": 0.75, "b": 0.25}}
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)

    loss = loss_of(read, {"label": "a"}, HeadLoss(teacher=0.25), beliefs=beliefs)

    assert loss == pytest.approx(0.25 * divergence + 0.75 * math.log(2), rel=1e-5)


def test_answers_no_head_can_give_are_left_out_and_none_at_all_is_an_error(
    read: InputReader,
) -> None:
    specs = [HeadSpec("span", SPAN)]
    good = HeadExample({"mail": TEXT}, {"span": "red"})
    bad = HeadExample({"mail": TEXT}, {"span": "blue"})

    assert usable([good, bad], specs, read) == [good, HeadExample({"mail": TEXT}, {})]
    with pytest.raises(AnswerNotFound, match="'blue' is no run of whole words"):
        usable([bad], specs, read)
    with pytest.raises(InvalidInput, match="no example says what span is"):
        usable([HeadExample({"mail": TEXT}, {})], specs, read)


def test_a_batch_is_a_function_of_its_number_and_keeps_answers_in_changed_inputs(
    read: InputReader,
) -> None:
    examples = [HeadExample({"mail": TEXT}, {"span": "Ann Lee"}) for _ in range(5)]
    source = HeadSource(examples, [HeadSpec("span", SPAN)], read, 4, 0, Augmenter(0.5, 0.5, 0.5))

    first, again = source.batch(3).parts[0], source.batch(3).parts[0]

    assert all(mx.array_equal(first[name], again[name]).item() for name in first)
    assert not mx.array_equal(first["tokens"], source.batch(4).parts[0]["tokens"]).item()
    assert (first["span.known"] == 1).all().item()


def test_rows_without_words_can_be_stacked(read: InputReader) -> None:
    arrays = stacked([read({"mail": ""}), read({"mail": TEXT})])

    assert arrays["word_valid"].sum(axis=1).tolist() == [0, len(TEXT.split())]
