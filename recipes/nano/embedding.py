"""The first embedding table: the vectors of warm-up, and what the lexicon knows of its words."""

from __future__ import annotations

from collections import Counter, defaultdict
from random import Random

import lexicon
import render
import torch
from tokenizers import Tokenizer
from torch import Tensor

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
    for name in lexicon.train_topics():
        topic = lexicon.topics()[name]
        texts = [lexicon.clause(topic, rng) for _ in range(SAMPLES)]
        for text in [*texts, *topic.n, *topic.p, *topic.v, *topic.s, topic.name]:
            for form in (" " + text, text.capitalize(), text):
                found["topic:" + name].update(tokenizer.encode(form).ids)
    for pair, sides in lexicon.moods().items():
        for side in sides:
            key = f"mood:{pair}:{side}"
            for _ in range(SAMPLES * 2):
                text = lexicon.mood_phrase(pair, side, rng)
                for form in (" " + text, text[0].upper() + text[1:]):
                    found[key].update(tokenizer.encode(form).ids)
    return found


def shares(tokenizer: Tokenizer, seed: int) -> tuple[list[str], Tensor]:
    """Names of the groups, and (vocab, groups): how much of each token belongs to each.

    Function words, which occur everywhere, come out near zero. Moods are weighed against each
    other only, for their phrases are made of words that topics use too.
    """
    counts = _counts(tokenizer, Random(seed))
    names = list(counts)
    table = torch.zeros(tokenizer.get_vocab_size(), len(names))
    for column, name in enumerate(names):
        total = sum(counts[name].values())
        for token, count in counts[name].items():
            table[token, column] = count / total
    is_mood = torch.tensor([name.startswith("mood") for name in names])
    for group in (is_mood, ~is_mood):
        part = table[:, group]
        expected = part.mean(1, keepdim=True)
        lift = part - 2 * expected
        share = lift.clamp(min=0) / (part.sum(1, keepdim=True) + 1e-4)
        table[:, group] = share
    return names, table


def _own(tokenizer: Tokenizer, width: int, gen: torch.Generator) -> Tensor:
    """A random vector for each token; forms of one word (case, space before it) are near."""
    vocab = tokenizer.get_vocab()
    words = {text: text.lstrip("Ġ").lower() for text in sorted(vocab)}
    rows = {word: row for row, word in enumerate(sorted(set(words.values())))}
    near = torch.randn(len(rows), width, generator=gen)
    own = torch.randn(len(vocab), width, generator=gen)
    for text, row in vocab.items():
        own[row] = own[row] * (1 - SAME_WORD) ** 0.5 + near[rows[words[text]]] * SAME_WORD**0.5
    return own * width**-0.5


def start_table(
    tokenizer: Tokenizer, warm: dict[str, Tensor], seed: int, share: float = 0.5
) -> Tensor:
    """(vocab, width) embeddings built like the vectors of warm-up."""
    names, weights = shares(tokenizer, seed)
    gen = torch.Generator().manual_seed(seed)
    width = warm["base"].shape[1]
    centres = torch.randn(len(names), width, generator=gen) * width**-0.5
    common = weights @ centres
    strength = weights.norm(dim=1, keepdim=True).clamp(max=1.0)
    own = _own(tokenizer, width, gen)
    table = common * share**0.5 + own * (1 - share * strength**2) ** 0.5
    is_mood = torch.tensor([name.startswith("mood") for name in names])
    top = torch.stack([weights[:, ~is_mood].sum(1), weights[:, is_mood].sum(1)], 1)
    family = torch.zeros(len(weights), dtype=torch.long)
    family[top[:, 0] > 0.3] = 1
    family[(top[:, 1] > 0.3) & (top[:, 1] > top[:, 0])] = 2
    for word in lexicon.words("labels"):
        family[tokenizer.encode(word).ids] = 3
    table += warm["families"][family]
    for row, text in enumerate(FIXED):
        table[tokenizer.token_to_id(text)] = warm["fixed"][row]
    return table + warm["base"]
