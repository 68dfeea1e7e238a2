"""The tokenizer: byte-level BPE over the lexicon, with each fixed phrase of a prompt as one token.

python tokens.py --out runs/tokenizer
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import extract
import lexicon
from render import PHRASES, SPECIAL
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' -}}"
    "{%- if not loop.last or add_generation_prompt -%}{{- '\\n' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
WORD = re.compile(r"[A-Za-z]+")


def _texts() -> Iterable[str]:
    for topic in lexicon.topics().values():
        yield " ".join([topic.name, *topic.n, *topic.p, *topic.v, *topic.s])
    for sides in (*lexicon.moods().values(), *lexicon.tails().values()):
        for lines in sides.values():
            yield " ".join(lines)
    for entries in lexicon.slots().values():
        yield " ".join(entries)
    for entry in (*extract.data()["fact"], *extract.data()["sentence"]):
        yield " ".join(entry.values())
    for lines in lexicon.sentences().values():
        yield " ".join(lines)
    for kind in ("common", *lexicon.LINES, "names", "places", "objects"):
        yield " ".join(lexicon.words(kind))


def word_counts() -> Counter[str]:
    """Every form in which a word of the lexicon can stand: after a space, alone, capitalised."""
    inner = {word for text in _texts() for word in WORD.findall(text)}
    forms = {" " + word for word in inner}
    starts: set[str] = set()
    shop = (t for t in lexicon.topics().values() if t.domain == "shop")
    for text in (" ".join([*t.n, *t.p, *t.v, *t.s]) for t in shop):
        starts |= set(WORD.findall(text))
    for text in (" ".join(lines) for m in lexicon.moods().values() for lines in m.values()):
        starts |= set(WORD.findall(text))
    starts |= {w for lines in lexicon.sentences().values() for w in WORD.findall(" ".join(lines))}
    starts |= set(lexicon.words("common")) - set(lexicon.words("names"))
    starts = {word for word in starts if WORD.fullmatch(word)}
    forms |= starts | {word[0].upper() + word[1:] for word in starts}
    forms |= {"'" + end for end in ("s", "t", "re", "ve", "m", "ll", "d")}
    alone = {*lexicon.words("labels"), *lexicon.words("fields"), *lexicon.words("names")}
    alone |= {"True", "False", *lexicon.words("places"), *lexicon.words("objects")}
    alone |= {
        word for names in lexicon.read("words.toml")["truths"].values() for word in names.split()
    }
    alone |= {word for names in extract.data()["fields"].values() for word in names.split()}
    alone |= {word for t in lexicon.topics().values() for word in WORD.findall(t.name)}
    return Counter(sorted(forms | alone))


def build(vocab_size: int = 12000) -> Tokenizer:
    """Train the tokenizer. Words of the lexicon become single tokens if the size allows it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(word_counts(), trainer)
    tokenizer.add_tokens([AddedToken(p, normalized=False) for p in dict.fromkeys(PHRASES)])
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|pad|>",
        "unk_token": None,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "chat_template": CHAT_TEMPLATE,
    }
    text = json.dumps(config, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


class PieceEncoder:
    """Encodes text piece by piece with a cache, as fast as a training loop needs it.

    Right wherever a piece begins at a phrase, after one, or with a space.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._cache: dict[str, tuple[int, ...]] = {}

    def _encode(self, text: str) -> tuple[int, ...]:
        found = self._cache.get(text)
        if found is None:
            found = tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)
            self._cache[text] = found
        return found

    def __call__(self, piece: str) -> list[int]:
        if " " not in piece or "\n" in piece or "  " in piece or piece in PHRASE_SET:
            return list(self._encode(piece))
        return [i for chunk in re.findall(r" ?[^ ]+| +", piece) for i in self._encode(chunk)]


PHRASE_SET = frozenset(PHRASES)


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--out", type=Path, required=True)
    parse.add_argument("--vocab-size", type=int, default=12000)
    args = parse.parse_args()
    save(build(args.vocab_size), args.out)


if __name__ == "__main__":
    main()
