"""The trend in a terminal: for each suite and device its cells with a line of bars, its steps, what was left out."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from .format import metric_header
from .grid import GridColumn, draw
from .plain import plain
from .trend import Group, Trend
from .trend_rows import (
    NORMALISED_NOTE,
    SEEN_NOTE,
    date_words,
    differences_words,
    group_title,
    search_words,
    series_lines,
    step_lines,
)

_NARROW_BARS, _WIDE_BARS, _WIDE = 10, 40, 120


def show_trend(trend: Trend, console: Console) -> None:
    """Print every group, then what was left out of the folder."""
    for group in trend.groups:
        console.print(Text(group_title(group), style="bold"))
        console.print()
        _show_cells(trend, group, console)
        console.print()
        console.print(Text(search_words(trend, group)))
        if step_lines(group):
            console.print()
            _show_steps(group, console)
        if group.moved:
            console.print()
            _show_moved(group, console)
        console.print()
    for note in trend.notes:
        console.print(Text(f"{plain(str(note.path))}: {plain(note.text)}", style="dim"))


def _show_cells(trend: Trend, group: Group, console: Console) -> None:
    lines = series_lines(trend, group, _WIDE_BARS if console.width >= _WIDE else _NARROW_BARS)
    if not lines:
        console.print(Text(f"No cell has a valid {metric_header(trend.metric)}."))
        return
    columns = [
        GridColumn("cell", words=True),
        GridColumn(f"latest {metric_header(trend.metric)}"),
        GridColumn("change"),
        GridColumn("normalised"),
        GridColumn("oldest to latest", right=False),
    ]
    rows: list[list[Text] | str | Text] = []
    pair = None
    for line in lines:
        if line.pair != pair:
            rows.append(line.pair)
            pair = line.pair
        latest = Text.assemble(line.latest, (f" {line.interval}", "dim") if line.interval else "")
        rows.append([Text(line.cell), latest, *map(Text, (line.change, line.normalised, line.bars))])
        if line.note:
            rows.append(Text(f"    {line.note}", style="dim"))
    draw(console, columns, rows, note=NORMALISED_NOTE)


def _show_steps(group: Group, console: Console) -> None:
    columns = [
        GridColumn("from", right=False),
        GridColumn("change"),
        GridColumn("", right=False),
        GridColumn("seen", right=False),
        GridColumn("commit", words=True),
    ]
    rows: list[list[Text] | str | Text] = []
    for line in step_lines(group):
        rows.append(line.cell)
        rows.append([Text(x) for x in (line.when, line.change, line.verdict, line.seen, line.commit)])
        rows.append(Text(f"    changed there too: {line.also}", style="dim"))
    draw(console, columns, rows, note=SEEN_NOTE)


def _show_moved(group: Group, console: Console) -> None:
    console.print(Text("what the runs were not measured alike in", style="bold"))
    columns = [GridColumn("from", right=False), GridColumn("what", words=True)]
    rows = [[Text(date_words(group.runs[m.run])), Text(differences_words(m.differences))] for m in group.moved]
    draw(console, columns, rows)
