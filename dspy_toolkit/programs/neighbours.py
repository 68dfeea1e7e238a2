"""Which texts are alike: an index over words and letter sequences, without a model.

Texts are compared by the cosine of their weighted features: whole words, and sequences of three
to five letters, which see through inflection and misspelling. What many texts share weighs little.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

_WORD = re.compile(r"\w+")
_LETTERS = (3, 4, 5)


class TextIndex:
    """Finds the texts that are most like another one.

    Weights are (1 + ln tf) * ln((1 + n) / (1 + df)) + the same for a text's rarest, the usual
    smoothed tf-idf; Manning, Raghavan and Schuetze, "Introduction to Information Retrieval",
    chapter 6.

    Args:
        texts: what to find among.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        counts = [_features(text) for text in texts]
        seen = Counter(feature for count in counts for feature in count)
        self._size = len(counts)
        self._rarity = {
            feature: math.log((1 + self._size) / (1 + among)) + 1.0
            for feature, among in seen.items()
        }
        self._holders: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for number, count in enumerate(counts):
            for feature, weight in self._weighted(count).items():
                self._holders[feature].append((number, weight))

    def nearest(self, text: str, k: int, without: int | None = None) -> list[int]:
        """Numbers of the `k` texts most like this one, the most alike first, ties as they came.

        Args:
            text: what to compare with.
            k: how many, or all there are.
            without: number of a text to leave out.
        """
        alike = [0.0] * self._size
        for feature, weight in self._weighted(_features(text)).items():
            for number, other in self._holders.get(feature, ()):
                alike[number] += weight * other
        order = sorted(range(self._size), key=lambda number: (-alike[number], number))
        return [number for number in order if number != without][:k]

    def _weighted(self, count: Counter[str]) -> dict[str, float]:
        weights = {
            feature: (1 + math.log(times)) * self._rarity[feature]
            for feature, times in count.items()
            if feature in self._rarity
        }
        length = math.sqrt(sum(weight * weight for weight in weights.values())) or 1.0
        return {feature: weight / length for feature, weight in weights.items()}


def _features(text: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for word in _WORD.findall(text.lower()):
        found[word] += 1
        padded = f"<{word}>"
        for size in _LETTERS:
            found.update(padded[start : start + size] for start in range(len(padded) - size + 1))
    return found
