"""What commands print: data to stdout, talk to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

# Of a label and its value: four stand side by side on a terminal of 80 columns.
_FACT_CELLS = 17

_WIDEST = 1000


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


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], whole: bool = False
) -> None:
    """Print rows under columns to stdout; with `whole`, each in one line, whatever the terminal."""
    console, made = Console(highlight=False, emoji=False), grid(title, columns, rows)
    if whole:
        needed = console.measure(made, options=console.options.update(max_width=_WIDEST)).maximum
        console.width = max(console.width, needed)
    console.print(made)


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


def facts(title: str, values: Iterable[tuple[str, str]]) -> Group:
    """A title, and under it values with their labels, as many on a line as there is room for."""
    cells = [Text.assemble((f"{label} ", "dim"), value, no_wrap=True) for label, value in values]
    for cell in cells:
        cell.align("left", max(cell.cell_len, _FACT_CELLS))
    shown = Columns(cells, padding=(0, 2, 0, 0))
    return Group(Text(title, style="bold", overflow="fold"), Padding(shown, (0, 0, 0, 2)))


@contextmanager
def screen(live: bool) -> Iterator[Callable[[Sequence[RenderableType]], None]]:
    """A place on stdout: each time something is shown there, what was before is replaced.

    Args:
        live: whether it is; else, and where stdout is no terminal, all follows each other.
    """
    console = Console(highlight=False, emoji=False)
    if not (live and console.is_terminal):
        yield lambda parts: console.print(*parts)
        return
    with Live(console=console, auto_refresh=False) as shown:
        yield lambda parts: shown.update(Group(*parts), refresh=True)
