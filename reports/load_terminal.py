"""A load in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from ..profiles.serving.record import LoadRun
from .grid import GAP, GridColumn, draw, natural_width
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
    rows = [[_stacked(entry) for entry in row] for row in table.rows]
    parts = _parts(columns, rows, console.width) if table.numbers else [range(len(columns))]
    for part in parts:
        last = part is parts[-1]
        draw(console, [columns[i] for i in part], [[row[i] for i in part] for row in rows], table.note if last else "")


def _parts(columns: Sequence[GridColumn], rows: Sequence[Sequence[Text]], width: int) -> list[Sequence[int]]:
    """The columns of each of several tables, one below the other, where a single one would run over the edge: each
    begins with the first column, whose words may wrap."""
    widths = [natural_width(column.header, [row[i] for row in rows]) for i, column in enumerate(columns)]
    label = max((len(word) for row in rows for word in row[0].plain.split()), default=1)
    parts: list[list[int]] = []
    left = 0
    for index in range(1, len(columns)):
        left -= GAP + widths[index]
        if left < 0 or not parts:
            parts.append([0])
            left = width - label - GAP - widths[index]
        parts[-1].append(index)
    return [*parts] or [[0]]


def _stacked(entry: str) -> Text:
    """A value over its interval: eight such columns fit into a terminal of 100 columns side by side."""
    point, bracket, interval = entry.partition(" [")
    if not bracket:
        return Text(plain(entry))
    return Text.assemble(plain(point), "\n", (f"[{interval}", "dim"))
