from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.registry.build import build
from tests.registry.strategies import many

SOUND: dict[str, Any] = {
    "name": "a",
    "version": "1.0.0",
    "instructions": "x",
    "inputs": {"text": {"type": "str", "min_length": 1}},
    "outputs": {"made": {"type": "list[Line]"}},
    "objects": {"Line": {"sku": {"type": "str", "pattern": "a"}}},
    "examples": [{"inputs": {"text": "x"}, "outputs": {"made": [{"sku": "a"}]}}],
    "migration": {
        "from": "0.1.0",
        "renames": {"old": "made"},
        "defaults": {"text": "x"},
        "values": {"text": {"a": "b"}},
    },
}
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=4,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in items:
        found.append((*path, key))
        if isinstance(inner, dict | list):
            found += _places(inner, (*path, key))
    return found


def _with(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = _with(value[path[0]], path[1:], new)
    return copy


def test_the_sound_tables_make_a_record() -> None:
    record, problems = build(SOUND)

    assert problems == []
    assert record is not None


@many
@given(st.sampled_from(_places(SOUND)), anything)
def test_anything_in_any_place_makes_a_record_or_problems_with_a_way_out(
    path: tuple[Any, ...], value: Any
) -> None:
    record, problems = build(_with(SOUND, path, value))

    assert (record is None) == bool(problems)
    assert all(each.what and each.fix for each in problems)
