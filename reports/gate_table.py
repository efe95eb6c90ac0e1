"""The gate in a terminal: the verdict first and last, between them every cell, the worst first, and what changed.

A narrow screen gets a cell's verdict and reason above its numbers instead of beside them; numbers are never cut.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from ..profiles.gate import CellJudgement, Policy, Verdict
from ..profiles.gate_record import GateDocument
from .format import MISSING
from .gate_rows import (
    CHANGE_NOTE,
    CounterRow,
    GateRow,
    counter_rows,
    green,
    measured_on,
    ordered,
    sentence,
    timed_rows,
)
from .grid import GAP, GridColumn, draw, natural_width
from .plain import plain

_COLOURS = {"PASS": "green", "CHANGED": "yellow", "INCONCLUSIVE": "yellow", "FAIL": "red", "INVALID": "red"}
_REASON_WIDTH = 44  # a reason in a narrower column than this reads worse than on a line of its own
_NOTHING = (GateRow(MISSING, MISSING, MISSING, MISSING, MISSING),)


def show_gate(document: GateDocument, console: Console) -> None:
    """Print the verdict, the cells, the counters that changed, what was measured on, and the verdict again."""
    result = document.result
    cells = ordered(result.cells)
    console.print(_verdict_line(document))
    console.print()
    if cells:
        if document.context.counted:
            draw(console, *_counted(cells, result.policy))
        else:
            wide, narrow = _wide(cells, result.policy), _narrow(cells, result.policy)
            columns, rows = wide if _width(*wide) <= console.width else narrow
            draw(console, columns, rows, note=CHANGE_NOTE)
        console.print()
    if counters := counter_rows(cells):
        console.print(Text("what changed in the work", style="bold"))
        _show_counters(counters, console)
        console.print()
    columns = [GridColumn("what", words=True), GridColumn("value", words=True)]
    draw(console, columns, [[Text(name), Text(value)] for name, value in measured_on(document)])
    console.print()
    console.print(_verdict_line(document))


def _verdict_line(document: GateDocument) -> Text:
    result = document.result
    word = _coloured(result.verdict, result.policy)
    word.stylize("bold")
    return Text.assemble(word, f"  {sentence(result)}")


def _coloured(verdict: Verdict, policy: Policy) -> Text:
    return Text(verdict, style="green" if green(verdict, policy) else _COLOURS[verdict])


_Grid = tuple[list[GridColumn], list[list[Text] | str | Text]]


def _counted(cells: Sequence[CellJudgement], policy: Policy) -> _Grid:
    """A line a cell, where nothing was timed."""
    columns = [GridColumn("verdict", right=False), GridColumn("cell", words=True), GridColumn("reason", words=True)]
    lines = ((_coloured(cell.outcome.verdict, policy), plain(cell.key), plain(cell.outcome.message)) for cell in cells)
    return columns, [[verdict, Text(key), Text(message)] for verdict, key, message in lines]


def _wide(cells: Sequence[CellJudgement], policy: Policy) -> _Grid:
    """A line a metric with the verdict in front and the reason behind."""
    columns = [
        GridColumn("verdict", right=False),
        GridColumn("cell", words=True),
        *_number_columns(),
        GridColumn("reason", words=True, least=_REASON_WIDTH),
    ]
    rows: list[list[Text] | str | Text] = []
    for cell in cells:
        for index, row in enumerate(timed_rows(cell) or _NOTHING):
            named = [Text(), Text(), Text()]
            if index == 0:
                verdict = _coloured(cell.outcome.verdict, policy)
                named = [verdict, Text(plain(cell.key)), Text(plain(cell.outcome.message))]
            rows.append([*named[:2], *_numbers(row), named[2]])
    return columns, rows


def _narrow(cells: Sequence[CellJudgement], policy: Policy) -> _Grid:
    """Verdict, cell and reason above a line a metric."""
    rows: list[list[Text] | str | Text] = []
    for cell in cells:
        verdict = _coloured(cell.outcome.verdict, policy)
        rows.append(Text.assemble(verdict, "  ", (plain(cell.key), "bold"), f"\n  {plain(cell.outcome.message)}"))
        rows += [_numbers(row, indent="  ") for row in timed_rows(cell)]
    return _number_columns(), rows


def _number_columns() -> list[GridColumn]:
    return [
        GridColumn("metric", right=False),
        GridColumn("base"),
        GridColumn("change"),
        GridColumn("margin"),
        GridColumn("p adjusted"),
    ]


def _numbers(row: GateRow, indent: str = "") -> list[Text]:
    return [Text(indent + row.metric), Text(row.base), Text(row.change), Text(row.margin), Text(row.p)]


def _width(columns: Sequence[GridColumn], rows: Sequence[list[Text] | str | Text]) -> int:
    """The least width of a grid whose words wrap and whose numbers do not."""
    lines = [row for row in rows if not isinstance(row, str | Text)]
    widths = [
        max(column.least, len(column.header))
        if column.least
        else natural_width(column.header, [line[i] for line in lines])
        for i, column in enumerate(columns)
    ]
    return sum(widths) + GAP * (len(columns) - 1)


def _show_counters(counters: Sequence[CounterRow], console: Console) -> None:
    columns = [
        GridColumn("counter", right=False),
        GridColumn("base"),
        GridColumn("head"),
        GridColumn("change"),
        GridColumn("reason", words=True),
    ]
    rows: list[list[Text] | str | Text] = []
    previous = None
    for row in counters:
        if row.cell != previous:
            rows.append(row.cell)
            previous = row.cell
        numbers = (row.counter, row.base, row.head, row.change, plain(row.outcome.message))
        rows.append([Text(f"  {numbers[0]}"), *map(Text, numbers[1:])])
    draw(console, columns, rows)
