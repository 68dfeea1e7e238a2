from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dspy_toolkit.registry.field_types import Type, render_type
from dspy_toolkit.registry.type_text import MAX_LENGTH, TypeTextError, parse_type
from tests.registry.strategies import any_types, many


@many
@given(any_types)
def test_a_rendered_type_is_read_back_as_itself(kind: Type) -> None:
    text = render_type(kind)

    assert parse_type(text) == kind
    assert render_type(parse_type(text)) == text


@many
@given(st.text(max_size=60))
@example("[" * 300)
@example("str | " * 3000 + "str")
@example("Literal['\\ud800']")
@example("Literal['\\d']")
@example("\x00")
@example("list[str")
@example("Literal[" + "9" * 5000 + "]")
def test_any_other_text_is_refused_with_a_way_out(text: str) -> None:
    problem = _problem(text)

    assert problem is None or (problem.what and problem.fix)
    assert problem is None or 1 <= problem.position <= len(text) + 1


def _problem(text: str) -> TypeTextError | None:
    try:
        parse_type(text)
    except TypeTextError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("  str ", "str"),
        ("None|str", "str | None"),
        ('Literal["a","b"]', "Literal['a', 'b']"),
        ("Literal[-1, True, 'x']", "Literal[-1, True, 'x']"),
        ("list[ list[int] ]", "list[list[int]]"),
        ("dict[Literal['a'], float]", "dict[Literal['a'], float]"),
        ("int | None | str", "int | str | None"),
        ("Literal['it''s']", "Literal['its']"),
        ("OrderLine", "OrderLine"),
        ("Choice[('a', 'when a')]", "Choice[('a', 'when a')]"),
        ("Noul[(True, 'yes'), (False, 'no')]", "Noul[(True, 'yes'), (False, 'no')]"),
        ("Score['poor', 'good']", "Score['poor', 'good']"),
        ("Code['sql']", "Code['sql']"),
    ],
)
def test_spelling_becomes_canonical(text: str, canonical: str) -> None:
    rendered = render_type(parse_type(text))

    assert rendered == canonical


@pytest.mark.parametrize(
    ("text", "what", "fix", "position"),
    [
        ("", "empty", "`str`", 1),
        ("string", "unknown type 'string'", "write `str`", 1),
        ("list[flaot]", "unknown type 'flaot'", "did you mean 'float'?", 6),
        ("Optional[str]", "takes nothing in brackets", "write `X | None`", 1),
        ("List[str]", "takes nothing in brackets", "write `list[...]`", 1),
        ("Litral['a']", "unknown type 'Litral'", "did you mean 'Literal'?", 1),
        ("dct[str, int]", "unknown type 'dct'", "did you mean 'dict'?", 1),
        ("int['a']", "int takes nothing in brackets", "write `int`", 1),
        ("Any", "unknown type 'Any'", "declare an object", 1),
        ("list", "does not say what it holds", "list[str]", 1),
        ("dict[str]", "dict takes two types", "dict[str, int]", 1),
        ("dict[int, str]", "cannot have int keys", "use str", 6),
        ("Literal", "Literal has no options", "Literal['low', 'high']", 1),
        ("Literal[()]", "has no options", "Literal['low', 'high']", 1),
        ("Literal['a', 'b', 'a']", "option 'a' stands twice", "name it once", 19),
        ("Literal[low]", "option low lacks quotes", "write 'low'", 9),
        ("Literal[1.5]", "1.5 cannot be an option", "quoted texts", 9),
        ("Literal['a', None]", "None cannot be an option", "Literal[...] | None", 14),
        ("'low' | 'high'", "'low' is a value", "Literal['low']", 1),
        ("str | str", "str stands twice", "name it once", 7),
        ("list[str] | int", "can be joined", "two optional fields", 1),
        ("None", "None alone", "X | None", 1),
        ("Choice", "Choice has no options", "Choice[(", 1),
        ("Choice['a', 'b']", "Choice takes pairs", "('option', 'what it means')", 8),
        ("Noul[('a', 'b')]", "between True and False", "Noul[(True", 1),
        ("Score['only']", "two or more", "the worst first", 1),
        ("print('x')", "is no type", "known:", 1),
        ("__import__('os').system('true')", "is no type", "known:", 1),
        ("str; int", "cannot be read", "brackets and quotes", 4),
        ("x" * (MAX_LENGTH + 1), "longer than", "shorten", 1),
    ],
)
def test_a_wrong_type_says_what_where_and_how_to_mend_it(
    text: str, what: str, fix: str, position: int
) -> None:
    with pytest.raises(TypeTextError) as caught:
        parse_type(text)

    assert what in caught.value.what
    assert fix in caught.value.fix
    assert caught.value.position == position
