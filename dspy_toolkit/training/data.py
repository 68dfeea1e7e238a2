"""From a recipe's files or generator to batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dspy_toolkit.errors import InvalidInput, NotFound
from dspy_toolkit.programs.user_code import failure, load_function, with_modules
from dspy_toolkit.store.files import sha256_file
from dspy_toolkit.training.augment import augmented, augmenter
from dspy_toolkit.training.batches import Batch, RowSource, Source, in_turn, rows_batch
from dspy_toolkit.training.encode import Encoded, Encoder
from dspy_toolkit.training.examples import Example, example_from, read_examples
from dspy_toolkit.training.order import generator
from dspy_toolkit.training.packing import Row, fit, one_each, pack
from dspy_toolkit.training.recipe import DataRecipe, Recipe


@dataclass(frozen=True)
class PreparedData:
    """What a run learns from and is judged by.

    Attributes:
        source: training batches.
        rows: rows of an epoch, or None where a generator has no end.
        validation, test: batches that show each example once.
        facts: counts by split, for the report.
    """

    source: Source
    rows: int | None
    validation: list[Batch]
    test: list[Batch]
    facts: dict[str, Any]


def data_files(recipe: Recipe) -> list[Path]:
    """Every file that decides what is learnt, in the order the recipe names them."""
    data = recipe.data
    files = [*(data.train or ()), *(data.validation or ()), *(data.test or ())]
    if data.generator is not None:
        file = Path(data.generator.rpartition(":")[0])
        files += [file.parent / name for name in with_modules(file.parent, [file.name])]
    if recipe.augment is not None and recipe.augment.wording is not None:
        files.append(recipe.augment.wording)
    return files


def data_digests(recipe: Recipe) -> dict[str, str]:
    """Hex SHA-256 of each data file by path.

    Raises:
        NotFound: one does not exist. InvalidInput: one cannot be read.
    """
    try:
        return {str(file): sha256_file(file) for file in data_files(recipe)}
    except FileNotFoundError as error:
        raise NotFound(f"data file {error.filename} does not exist; check the path") from None
    except OSError as error:
        raise InvalidInput(f"data file {error.filename} cannot be read: {error.strerror}") from None


def prepare(recipe: Recipe, tokenizer: Any, can_mask: bool) -> PreparedData:
    """Read, augment, encode and pack the data of a recipe.

    Args:
        recipe: says which.
        tokenizer: mlx-lm's wrapper.
        can_mask: whether the model can be kept from seeing other examples of a row.

    Raises:
        NotFound, InvalidExample: a file or a line of it is not in order.
        TooLong: an example does not fit a row, and the recipe refuses such.
        InvalidRecipe: [data] attention "document" is asked for and the model cannot do it.
    """
    make = _Preparation(recipe, Encoder(tokenizer, recipe.data.answers), can_mask)
    facts: dict[str, Any] = {}
    rows: int | None = None
    if recipe.data.generator is not None:
        source: Source = GeneratedSource(recipe.data.generator, recipe, make.rows)
    else:
        train = make.training_rows(facts)
        size, workers = recipe.training.batch_size, recipe.training.workers or 1
        source = RowSource(train, size, recipe.seed, make.masks, workers)
        rows = len(train)
    return PreparedData(
        source=source,
        rows=rows,
        validation=make.batches("validation", recipe.data.validation, facts),
        test=make.batches("test", recipe.data.test, facts),
        facts=facts,
    )


class GeneratedSource:
    """Batches that a function of the user's makes: `function(seed, batch, count)`.

    It returns `count` examples as in a data file. The same arguments must give the same
    examples, or a resumed run does not go on where it stopped.
    """

    def __init__(
        self, place: str, recipe: Recipe, rows: Callable[[Sequence[Example]], list[Row]]
    ) -> None:
        file, _, name = place.rpartition(":")
        self._file = Path(file)
        self._name = name
        self._function = load_function(self._file, name)
        self._recipe = recipe
        self._rows = rows

    def batch(self, index: int) -> Batch:
        count = self._recipe.training.batch_size
        try:
            made = list(self._function(self._recipe.seed, index, count))
        except Exception as error:
            raise InvalidInput(f"{failure(error, self._file)} (batch {index})") from error
        place = f"{self._file.name}:{self._name}, batch {index}"
        examples = [example_from(each, f"{place}, example {i}") for i, each in enumerate(made)]
        rows = self._rows(examples)
        if not rows:
            raise InvalidInput(f"{place}: made no example that fits a row; return some")
        workers = self._recipe.training.workers or 1
        return rows_batch(rows, document_mask(self._recipe.data), workers)


def document_mask(data: DataRecipe) -> bool:
    """Whether tokens of a packed row see their own example only."""
    return data.packing and data.attention != "row"


class _Preparation:
    def __init__(self, recipe: Recipe, encode: Encoder, can_mask: bool) -> None:
        self._recipe = recipe
        self._data = recipe.data
        self._encode = encode
        self.masks = document_mask(recipe.data)
        if self.masks and not can_mask:
            from dspy_toolkit.training.tables import InvalidRecipe

            raise InvalidRecipe(
                "[data] packing: this model's attention cannot be kept to one example of a row; "
                'set packing = false, or attention = "row" to let examples see each other'
            )

    def rows(self, examples: Sequence[Example]) -> list[Row]:
        fitted = fit(self._encoded(examples), self._data.sequence_length, self._data.too_long)
        return self._laid(fitted.examples)

    def training_rows(self, facts: dict[str, Any]) -> list[Row]:
        recipe = self._recipe
        examples = read_examples(self._data.train or ())
        if recipe.augment is not None:
            examples = augmented(examples, augmenter(recipe.augment), recipe.augment, recipe.seed)
        order = generator(recipe.seed, 0, 2).permutation(len(examples))
        return self._counted("train", [examples[i] for i in order], facts)

    def batches(
        self, split: str, files: Iterable[Path] | None, facts: dict[str, Any]
    ) -> list[Batch]:
        if files is None:
            return []
        rows = self._counted(split, read_examples(files), facts)
        return list(in_turn(rows, self._recipe.training.batch_size, self.masks))

    def _counted(self, split: str, examples: Sequence[Example], facts: dict[str, Any]) -> list[Row]:
        data = self._data
        fitted = fit(self._encoded(examples), data.sequence_length, data.too_long)
        if not fitted.examples:
            raise InvalidInput(
                f"{split} data: none of {len(examples)} examples fits a row of "
                f"{data.sequence_length} tokens; raise sequence_length in [data]"
            )
        rows = self._laid(fitted.examples)
        facts[split] = {
            "examples": len(fitted.examples),
            "rows": len(rows),
            "tokens": sum(len(row.tokens) for row in rows),
            "answer_tokens": int(sum((row.goals > 0).sum() for row in rows)),
            "truncated": fitted.truncated,
            "skipped": fitted.skipped,
        }
        return rows

    def _encoded(self, examples: Sequence[Example]) -> list[Encoded]:
        return [self._encode(example) for example in examples]

    def _laid(self, examples: list[Encoded]) -> list[Row]:
        return (
            pack(examples, self._data.sequence_length) if self._data.packing else one_each(examples)
        )
