"""The documented metrics are the ones there are."""

from __future__ import annotations

import re
from pathlib import Path

from dspy_toolkit.monitoring import CATALOG

PAGE = Path(__file__).parents[2] / "docs" / "monitoring.md"


def test_the_documented_table_is_the_catalog() -> None:
    rows = re.findall(
        r"^\| `(dspy_tk_\w+)` \| (\w+) \| ([^|]*) \| (.*) \|$", PAGE.read_text(), re.M
    )
    wanted = [(f.name, f.kind, ", ".join(f.labels) or "-", f.meaning) for f in CATALOG]

    assert rows == wanted
