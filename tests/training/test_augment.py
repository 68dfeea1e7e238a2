from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.errors import InvalidInput, UnknownKey
from dspy_toolkit.training.augment import Augmenter, augmented, augmenter
from dspy_toolkit.training.examples import Chat, Completion, Turn
from dspy_toolkit.training.order import generator
from dspy_toolkit.training.recipe import AugmentRecipe
from dspy_toolkit.training.text_changes import add_character_noise, pieces_of, swap_words
from dspy_toolkit.training.wording import Wording, read_wording

WORDING = Wording(
    synonyms=(("broken", "damaged", "out of order"), ("quick", "fast")),
    paraphrases=(("please {x}", "could you {x}", "i want you to {x}"),),
)
WILD = Augmenter(0.6, 0.6, 0.8, WORDING, 0.9)
WORDS = ("please", "the", "broken", "screen", "is", "quick", "order", "4711", "box", "help,", "me.")
# The second one has a word that has a synonym.
MARKERS = ("[[ ## ticket ## ]]", "[[ ## quick ## ]]")
words = st.sampled_from((*WORDS, "now!", "Today", *MARKERS))
texts = st.lists(words, min_size=1, max_size=25).map(" ".join)
seeds = st.integers(0, 2**31)


@given(texts, seeds, st.sets(words, max_size=3))
def test_what_is_to_be_kept_is_kept(text: str, seed: int, keep: set[str]) -> None:
    changed = WILD(text, generator(seed), keep)

    assert all(changed.count(each) >= text.count(each) for each in keep)
    assert all(changed.count(marker) == text.count(marker) for marker in MARKERS)
    assert changed.count("4711") == text.count("4711")


@given(texts, seeds)
def test_the_same_seed_makes_the_same_change(text: str, seed: int) -> None:
    assert WILD(text, generator(seed)) == WILD(text, generator(seed))


@given(texts, seeds)
def test_without_rates_nothing_changes(text: str, seed: int) -> None:
    assert Augmenter()(text, generator(seed)) == text


@given(texts, seeds)
def test_swapping_words_loses_none(text: str, seed: int) -> None:
    swapped = swap_words(pieces_of(text, []), generator(seed), 0.7)

    assert sorted(piece for piece, _ in swapped) == sorted(
        piece for piece, _ in pieces_of(text, [])
    )


@given(texts, seeds)
def test_a_typing_mistake_changes_at_most_two_letters_of_a_word(text: str, seed: int) -> None:
    before = pieces_of(text, [])

    after = add_character_noise(before, generator(seed), 1.0)

    for (old, _), (new, _) in zip(before, after, strict=True):
        assert abs(len(old) - len(new)) <= 1
        assert old[:1] == new[:1]
        assert len(old) >= 4 or old == new


def test_noise_reaches_every_long_word_at_rate_one() -> None:
    noisy = add_character_noise(pieces_of("screens crashed today", []), generator(5), 1.0)

    assert (
        sum(
            a != b
            for (a, _), (b, _) in zip(noisy, pieces_of("screens crashed today", []), strict=True)
        )
        >= 2
    )


def rng() -> np.random.Generator:
    return generator(0)


def test_a_synonym_takes_the_place_of_a_word_and_its_capital() -> None:
    changed = WORDING.replace_synonyms("Quick, it is BROKEN-down.", rng(), 1.0, ())

    assert changed.startswith("Fast, it is ")
    assert changed.endswith(("amaged-down.", "ut of order-down."))


def test_a_kept_word_has_no_synonym() -> None:
    assert WORDING.replace_synonyms("a quick one", rng(), 1.0, {"quick"}) == "a quick one"


def test_a_sentence_takes_another_form_with_the_same_slots() -> None:
    changed = WORDING.paraphrase("Hello. Please mend the box! It broke.", rng(), 1.0, ())

    assert changed in (
        "Hello. Could you mend the box! It broke.",
        "Hello. I want you to mend the box! It broke.",
    )


def test_copies_keep_answers_and_places_and_follow_the_examples() -> None:
    chat = Chat(
        (
            Turn("system", "Please name the topic."),
            Turn("user", "please send the parcel today"),
            Turn("assistant", "parcel"),
        ),
        "a:1",
    )
    text = Completion("please mend the broken screen", "screen", "a:2")
    recipe = AugmentRecipe(copies=3, word_swaps=0.8)

    made = augmented([chat, text], augmenter(recipe), recipe, seed=1)

    assert made[:2] == [chat, text]
    assert [example.place for example in made] == ["a:1", "a:2"] * 4
    for example in made[2:]:
        if isinstance(example, Chat):
            assert example.turns[0] == chat.turns[0]
            assert example.turns[2] == chat.turns[2]
            assert "parcel" in example.turns[1].content
        else:
            assert isinstance(example, Completion)
            assert example.completion == "screen"
            assert "screen" in example.prompt
    assert len({str(example) for example in made}) > 4


def test_a_wording_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "wording.toml"
    file.write_text(
        '[[synonyms]]\nwords = ["quick", "fast"]\n'
        '[[paraphrases]]\nforms = ["please {x}", "could you {x}"]\n'
    )

    assert read_wording(file) == Wording((("quick", "fast"),), (("please {x}", "could you {x}"),))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("x", "not valid TOML"),
        ("[[synonyms]]\nwords = ['one']", "needs words, a list of two texts or more"),
        ("[[paraphrases]]\nforms = ['a {x}', 'b {y}']", "must have the same"),
        ("[[synonyms]]\nword = ['a', 'b']", "needs words"),
    ],
)
def test_a_wording_file_that_is_not_in_order_is_refused(
    tmp_path: Path, content: str, says: str
) -> None:
    file = tmp_path / "wording.toml"
    file.write_text(content)

    with pytest.raises(InvalidInput, match=says):
        read_wording(file)


def test_an_unknown_table_of_a_wording_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "wording.toml"
    file.write_text("[[synonym]]\nwords = ['a', 'b']")

    with pytest.raises(UnknownKey, match="did you mean 'synonyms'"):
        read_wording(file)
