"""Episodes of abstract tokens, on which the copying and matching circuits form.

A token is only a vector, redrawn for every batch: words of one topic share a part, labels share
nothing. So what is learnt here holds for any vocabulary, and the real embeddings can begin with
the same make-up (a part for the family, a part for the topic, a part of its own).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

USER, MARK, ANSWER, OPEN, NEXT, DONE, END, PAD = range(8)
FIXED = 8
TOPICS, TOPIC_WORDS = 24, 12
MOODS, MOOD_WORDS = 8, 12
NEUTRAL, LABELS = 100, 120
FAMILIES = ("neutral", "topic", "mood", "label")

SIZES = [FIXED, NEUTRAL, TOPICS * TOPIC_WORDS, MOODS * MOOD_WORDS, LABELS]
_starts = np.cumsum([0, *SIZES])
VOCAB = int(_starts[-1])
NEUTRAL_0, TOPIC_0, MOOD_0, LABEL_0 = (int(s) for s in _starts[1:5])

LEVELS = ("copy", "pair", "pair_mark", "fields", "few_words", "sentence", "two_fields")


@dataclass
class Abstract:
    """tokens (rows, length); places: flat indices of answers; late: whose label was shown twice."""

    tokens: np.ndarray
    places: np.ndarray
    late: np.ndarray


def _copy_row(rng: np.random.Generator, length: int) -> tuple[list[int], list[tuple[int, bool]]]:
    period = int(rng.integers(4, 25))
    block = rng.integers(FIXED, VOCAB, size=period)
    row = np.resize(block, length)
    return row.tolist(), [(i, True) for i in range(period + 1, length)]


def _episode_row(
    rng: np.random.Generator, level: str, length: int
) -> tuple[list[int], list[tuple[int, bool]]]:
    kinds = int(rng.integers(2, 3 if level in ("pair", "pair_mark") else 5))
    pool = {"pair": 3, "pair_mark": 8}.get(level, TOPIC_WORDS)
    topics = rng.choice(TOPICS, kinds, replace=False)
    moods = rng.choice(MOODS, 2, replace=False)
    names = rng.choice(LABELS, kinds + 2 + 3, replace=False) + LABEL_0
    topic_label, mood_label, fields = names[:kinds], names[kinds : kinds + 2], names[kinds + 2 :]
    two = level == "two_fields"
    mood_first = two and rng.random() < 0.25
    marks = 0 if level == "pair" else 1 if level == "pair_mark" else 2
    row: list[int] = []
    answers: list[tuple[int, bool]] = []
    seen: dict[int, int] = {}
    while True:
        which, mood = int(rng.integers(kinds)), int(rng.integers(2))
        n_topic = 1
        n_noise = 0
        if level == "few_words":
            n_topic, n_noise = int(rng.integers(1, 4)), int(rng.integers(0, 2))
        elif level in ("sentence", "two_fields"):
            n_topic, n_noise = int(rng.integers(1, 5)), int(rng.integers(0, 9))
        words = TOPIC_0 + topics[which] * TOPIC_WORDS + rng.integers(pool, size=n_topic)
        parts = [words, NEUTRAL_0 + rng.integers(NEUTRAL, size=n_noise)]
        if two:
            n_mood = int(rng.integers(1, 4))
            parts.append(MOOD_0 + moods[mood] * MOOD_WORDS + rng.integers(MOOD_WORDS, size=n_mood))
        text = np.concatenate(parts)
        rng.shuffle(text)
        demo = text.tolist()
        targets: list[tuple[int, int]] = []
        pairs = [(fields[1], int(topic_label[which]))]
        if two:
            pairs.append((fields[2], int(mood_label[mood])))
            if mood_first:
                pairs.reverse()
        if marks == 2:
            demo = [USER, int(fields[0]), MARK, *demo, ANSWER]
            for i, (field, label) in enumerate(pairs):
                demo += [NEXT if i else OPEN, int(field), MARK]
                targets.append((len(demo), label))
                demo.append(label)
            demo += [DONE, END]
        else:
            demo += [MARK] * marks
            targets.append((len(demo), pairs[0][1]))
            demo.append(pairs[0][1])
        if len(row) + len(demo) > length:
            break
        for offset, label in targets:
            late = seen.get(label, 0) >= 2
            if seen.get(label, 0) >= 1:
                answers.append((len(row) + offset, late))
            seen[label] = seen.get(label, 0) + 1
        row += demo
    return row + [PAD] * (length - len(row)), answers


def abstract_batch(rng: np.random.Generator, level: str, rows: int, length: int) -> Abstract:
    """A batch of one level; an answer counts only where its label was shown before."""
    tokens, places, late = [], [], []
    for index in range(rows):
        row, answers = (
            _copy_row(rng, length) if level == "copy" else _episode_row(rng, level, length)
        )
        tokens.append(row)
        places += [index * length + place for place, _ in answers]
        late += [is_late for _, is_late in answers]
    return Abstract(np.array(tokens, np.int32), np.array(places, np.int32), np.array(late))
