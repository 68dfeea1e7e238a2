"""docs/optimizers.md says what the code does."""

from __future__ import annotations

from pathlib import Path

from dspy_toolkit.compiler.optimizers import OPTIMIZERS
from dspy_toolkit.compiler.optimizers.pages import pages

PAGE = Path(__file__).parents[2] / "docs" / "optimizers.md"


def test_the_table_in_the_docs_is_the_one_of_the_code() -> None:
    _, _, rest = PAGE.read_text().partition("<!-- table -->\n")
    written, _, _ = rest.partition("<!-- end of table -->")

    assert written.strip() == pages(OPTIMIZERS.values())
