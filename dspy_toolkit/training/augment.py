"""Changed copies of text examples: noise, swaps, other wording, other formatting.

Everything is seeded, and labels keep holding: words of the answer, words with digits and whatever
else is to be kept are passed over by every change.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dspy_toolkit.training.examples import (
    Chat,
    Completion,
    Example,
    Piece,
    Pieces,
    Turn,
)
from dspy_toolkit.training.order import generator
from dspy_toolkit.training.recipe import AugmentRecipe
from dspy_toolkit.training.text_changes import (
    add_character_noise,
    pieces_of,
    reformat,
    swap_words,
)
from dspy_toolkit.training.wording import Wording, read_wording

_WORD = re.compile(r"\w+")
# Markers of DSPy's prompts; a model must find them as they are.
_MARKERS = re.compile(r"\[\[ ## .*? ## \]\]")
_MARKED = re.compile(rf"({_MARKERS.pattern})")


@dataclass(frozen=True)
class Augmenter:
    """Changes texts; see `AugmentRecipe` for the rates."""

    character_noise: float = 0.0
    word_swaps: float = 0.0
    formatting: float = 0.0
    wording: Wording = field(default_factory=Wording)
    wording_rate: float = 0.0

    def __call__(self, text: str, rng: np.random.Generator, keep: Collection[str] = ()) -> str:
        """Change a text.

        Args:
            text: any text.
            rng: decides what is changed.
            keep: texts that stay wherever they occur, letter for letter.
        """
        kept = frozenset(filter(None, keep))
        text = "".join(
            part if _MARKERS.fullmatch(part) else self._worded(part, rng, kept)
            for part in _MARKED.split(text)
        )
        pieces = pieces_of(text, _spans(text, kept))
        pieces = swap_words(pieces, rng, self.word_swaps)
        pieces = add_character_noise(pieces, rng, self.character_noise)
        if rng.random() < self.formatting:
            pieces = reformat(pieces, rng)
        return _unless_lost("".join(piece for piece, _ in pieces), text, kept)

    def _worded(self, text: str, rng: np.random.Generator, kept: Collection[str]) -> str:
        text = self.wording.paraphrase(text, rng, self.wording_rate, kept)
        return self.wording.replace_synonyms(text, rng, self.wording_rate, kept)


def augmenter(recipe: AugmentRecipe) -> Augmenter:
    """The augmenter of a recipe.

    Raises:
        InvalidInput: its wording file is not in order.
    """
    return Augmenter(
        character_noise=recipe.character_noise,
        word_swaps=recipe.word_swaps,
        formatting=recipe.formatting,
        wording=Wording() if recipe.wording is None else read_wording(recipe.wording),
        wording_rate=recipe.wording_rate or 0.0,
    )


def augmented(
    examples: Sequence[Example], change: Augmenter, recipe: AugmentRecipe, seed: int
) -> list[Example]:
    """The examples, then their changed copies. Users' turns and prompts change, answers never."""
    made = list(examples)
    for copy in range(recipe.copies):
        for index, example in enumerate(examples):
            rng = generator(seed, index, copy, 3)
            made.append(_changed(example, change, rng))
    return made


def words_of(texts: Iterable[str]) -> set[str]:
    """Words that must stay in an input because an output has them."""
    return {word for text in texts for word in _WORD.findall(text)}


def _changed(example: Example, change: Augmenter, rng: np.random.Generator) -> Example:
    if isinstance(example, Completion):
        keep = words_of([example.completion])
        return replace(example, prompt=change(example.prompt, rng, keep))
    if isinstance(example, Pieces):
        keep = words_of(piece.text for piece in example.pieces if piece.weight)
        pieces = tuple(
            piece if piece.weight else Piece(change(piece.text, rng, keep), 0.0)
            for piece in example.pieces
        )
        return Pieces(pieces, example.place)
    keep = words_of(turn.content for turn in example.turns if turn.role == "assistant")
    turns = tuple(
        Turn(turn.role, change(turn.content, rng, keep)) if turn.role == "user" else turn
        for turn in example.turns
    )
    return Chat(turns, example.place)


def _spans(text: str, kept: Collection[str]) -> list[tuple[int, int]]:
    found = [match.span() for match in _MARKERS.finditer(text)]
    for each in kept:
        found += [match.span() for match in re.finditer(re.escape(each), text)]
    return found


def _unless_lost(changed: str, text: str, kept: Collection[str]) -> str:
    lost = any(changed.count(each) < text.count(each) for each in kept)
    return text if lost else changed
