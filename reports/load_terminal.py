"""A load in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from ..profiles.serving.record import LoadRun
from .grid import GridColumn, draw
from .load_rows import LoadTable, notes, tables
from .plain import plain


def print_load(run: LoadRun, console: Console) -> None:
    """Print every table, then what to know beside them."""
    for table in tables(run):
        console.print(Text(plain(table.title), style="bold"))
        _show(table, console)
        console.print()
    for note in notes(run):
        console.print(Text(f"note: {note}", style="yellow"))


def _show(table: LoadTable, console: Console) -> None:
    columns = [
        GridColumn(header, words=not index or not table.numbers, right=bool(index) and table.numbers)
        for index, header in enumerate(table.headers)
    ]
    rows: list[list[Text] | str | Text] = [[_stacked(entry) for entry in row] for row in table.rows]
    draw(console, columns, rows, note=table.note)


def _stacked(entry: str) -> Text:
    """A value over its interval: eight such columns fit into a terminal of 100 columns side by side."""
    point, bracket, interval = entry.partition(" [")
    if not bracket:
        return Text(plain(entry))
    return Text.assemble(plain(point), "\n", (f"[{interval}", "dim"))
