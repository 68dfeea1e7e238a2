from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.programs.field_stream import FieldReader
from dspy_toolkit.programs.formats import FORMATS

FIELDS = ("reasoning", "team")
values = st.text(st.characters(codec="utf-8", exclude_characters="\r<>"), max_size=60).map(
    lambda text: text.replace("[[ ##", "").strip()
)


def written(form: str, fields: dict[str, str]) -> str:
    if "json" in form:
        return json.dumps(fields)
    if form == "xml":
        return "\n".join(f"<{name}>\n{value}\n</{name}>" for name, value in fields.items())
    parts = [f"[[ ## {name} ## ]]\n{value}" for name, value in fields.items()]
    return "\n\n".join([*parts, "[[ ## completed ## ]]"])


def read(form: str, text: str, cuts: list[int]) -> dict[str, str]:
    reader = FieldReader(form, FIELDS)
    found: dict[str, str] = {}
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(places)]
    for number, piece in enumerate(pieces):
        for name, value in reader.add(piece, last=number == len(pieces) - 1):
            found[name] = found.get(name, "") + value
    return found


@pytest.mark.parametrize("form", sorted(FORMATS))
@given(first=values, second=values, cuts=st.lists(st.integers(0, 400), max_size=20))
def test_pieces_join_to_the_fields_however_the_answer_is_cut(
    form: str, first: str, second: str, cuts: list[int]
) -> None:
    fields = {"reasoning": first, "team": second}

    found = read(form, written(form, fields), cuts)

    assert {name: found.get(name, "") for name in FIELDS} == fields


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["[[ ## team ## ]]\nat", "las"], [("team", "at"), ("team", "las")]),
        (["[[ ## team ## ]]\natlas\n\n[[ ", "## completed ## ]]"], [("team", "atlas")]),
        (["[[ ## team ## ]]\na [", "1] b"], [("team", "a"), ("team", " [1] b")]),
        (["[[ ## other ## ]]\nx\n\n[[ ## team ## ]]\ny"], [("team", "y")]),
        (["no header"], []),
    ],
)
def test_headers_are_held_back_and_never_shown(
    pieces: list[str], expected: list[tuple[str, str]]
) -> None:
    reader = FieldReader("chat", FIELDS)

    found = [each for piece in pieces for each in reader.add(piece)]

    assert found == expected
