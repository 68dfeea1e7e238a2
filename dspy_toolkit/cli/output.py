"""What commands print: data to stdout, talk to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table


def talk_console() -> Console:
    """The console for progress and remarks, on stderr as it is now."""
    return Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Tell the person something; machines reading stdout do not see it."""
    talk_console().print(text, markup=False, emoji=False, soft_wrap=True)


def out(text: str) -> None:
    """Print data to stdout as it is."""
    # Not through rich, which would turn a ":100:" in the data into a picture.
    sys.stdout.write(f"{text}\n")


def out_json(value: Any) -> None:
    """Print one JSON value, in UTF-8, indented."""
    out(json.dumps(value, indent=2, ensure_ascii=False))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under columns to stdout."""
    Console(highlight=False, emoji=False).print(grid(title, columns, rows))


def grid(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Rows under columns; all of it is shown as text, never read as markup.

    The first column holds what people copy, such as names, and is never broken over lines.
    """
    made = Table(title=escape(title) or None, title_justify="left", box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        made.add_column(escape(column), overflow="fold", no_wrap=number == 0)
    for row in rows:
        made.add_row(*(escape(str(cell)) for cell in row))
    return made


@contextmanager
def screen(live: bool) -> Iterator[Callable[[Sequence[Table]], None]]:
    """A place on stdout for tables: each time they are shown, those before are replaced.

    Args:
        live: whether they are; else, and where stdout is no terminal, they follow each other.
    """
    console = Console(highlight=False, emoji=False)
    if not (live and console.is_terminal):
        yield lambda tables: console.print(*tables)
        return
    with Live(console=console, auto_refresh=False) as shown:
        yield lambda tables: shown.update(Group(*tables), refresh=True)
