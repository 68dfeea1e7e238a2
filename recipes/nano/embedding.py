"""The first embedding table: the vectors of warm-up, and what the lexicon knows of its words."""

from __future__ import annotations

from collections import Counter, defaultdict
from random import Random

import lexicon
import numpy as np
import render
from tokenizers import Tokenizer
from tokens import PieceEncoder

# The tokens that warm-up knew by number; see `warmup.py`.
FIXED = (
    render.USER,
    render.MARK,
    render.TURN,
    "[[ ## ",
    render.NEXT,
    render.DONE,
    render.END,
    "<|pad|>",
)
SAMPLES = 400
SAME_WORD = 0.6


def _counts(tokenizer: Tokenizer, rng: Random) -> dict[str, Counter[int]]:
    """How often each token occurs in text of each topic (in training) and mood."""
    found: dict[str, Counter[int]] = defaultdict(Counter)
    encode = PieceEncoder(tokenizer)
    for name in lexicon.train_topics():
        topic = lexicon.topics()[name]
        texts = [lexicon.clause(topic, rng) for _ in range(SAMPLES)]
        for text in [*texts, *topic.n, *topic.p, *topic.v, *topic.s, topic.name]:
            for form in (" " + text, text.capitalize(), text):
                found["topic:" + name].update(encode(form))
    for pair, sides in lexicon.moods().items():
        for side in sides:
            key = f"mood:{pair}:{side}"
            for _ in range(SAMPLES * 2):
                text = lexicon.mood_phrase(pair, side, rng)
                for form in (" " + text, text[0].upper() + text[1:]):
                    found[key].update(encode(form))
    return found


def shares(tokenizer: Tokenizer, seed: int) -> tuple[list[str], np.ndarray]:
    """Names of the groups, and (vocab, groups): how much of each token belongs to each.

    Function words, which occur everywhere, come out near zero. Moods are weighed against each
    other only, for their phrases are made of words that topics use too.
    """
    counts = _counts(tokenizer, Random(seed))
    names = list(counts)
    table = np.zeros((tokenizer.get_vocab_size(), len(names)))
    for column, name in enumerate(names):
        total = sum(counts[name].values())
        for token, count in counts[name].items():
            table[token, column] = count / total
    is_mood = np.array([name.startswith("mood") for name in names])
    for group in (is_mood, ~is_mood):
        part = table[:, group]
        lift = part - 2 * part.mean(1, keepdims=True)
        table[:, group] = lift.clip(min=0) / (part.sum(1, keepdims=True) + 1e-4)
    return names, table


def _own(tokenizer: Tokenizer, width: int, rng: np.random.Generator) -> np.ndarray:
    """A random vector for each token; forms of one word (case, space before it) are near."""
    vocab = tokenizer.get_vocab()
    words = {text: text.lstrip("Ġ").lower() for text in sorted(vocab)}
    rows = {word: row for row, word in enumerate(sorted(set(words.values())))}
    near = rng.standard_normal((len(rows), width))
    own = rng.standard_normal((len(vocab), width))
    for text, row in vocab.items():
        own[row] = own[row] * (1 - SAME_WORD) ** 0.5 + near[rows[words[text]]] * SAME_WORD**0.5
    return own * width**-0.5


def start_table(
    tokenizer: Tokenizer, warm: dict[str, np.ndarray], seed: int, share: float = 0.5
) -> np.ndarray:
    """(vocab, width) float32 embeddings built like the vectors of warm-up."""
    names, weights = shares(tokenizer, seed)
    rng = np.random.default_rng(seed)
    width = warm["base"].shape[1]
    common = weights @ rng.standard_normal((len(names), width)) * width**-0.5
    strength = np.linalg.norm(weights, axis=1, keepdims=True).clip(max=1.0)
    own = _own(tokenizer, width, rng)
    table = common * share**0.5 + own * (1 - share * strength**2) ** 0.5
    is_mood = np.array([name.startswith("mood") for name in names])
    topic, mood = weights[:, ~is_mood].sum(1), weights[:, is_mood].sum(1)
    family = np.zeros(len(weights), int)
    family[topic > 0.3] = 1
    family[(mood > 0.3) & (mood > topic)] = 2
    for word in lexicon.words("labels"):
        family[tokenizer.encode(word).ids] = 3
    table += warm["families"][family]
    for row, text in enumerate(FIXED):
        table[tokenizer.token_to_id(text)] = warm["fixed"][row]
    return (table + warm["base"]).astype(np.float32)
