"""Tables for a terminal in which a number is never cut: words may wrap, numbers may not.

rich shrinks every column in proportion when a table is too wide, so "12.3 ms" becomes "12.…". Here each column says
whether its cells may wrap; the others keep their width, and where even that is too much the line runs over the edge.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

GAP = 2  # spaces between columns: rich's divider and one of padding
_LONGEST_WORD = 24  # a longer word (a path, a hostile name) may be folded


@dataclass(frozen=True, slots=True)
class GridColumn:
    """A column. `words`: its cells are text that may wrap at spaces; otherwise they keep their lines whole.

    `least`: a column of words with numbers among them gets no narrower than its widest number.
    """

    header: str
    words: bool = False
    right: bool = True
    least: int = 0


def natural_width(header: str, cells: Sequence[Text]) -> int:
    """Width that keeps every line of every cell whole; a header may wrap at its spaces."""
    return max(_widest_line(cells), _longest_word(header), 1)


def draw(
    console: Console, columns: Sequence[GridColumn], rows: Sequence[Sequence[Text] | str | Text], note: str = ""
) -> None:
    """Print a table no wider than the console where the numbers allow it; a row that is a string or a Text is a title,
    bold unless it brings its own style."""
    cells = [[row[i] for row in rows if not isinstance(row, str | Text)] for i in range(len(columns))]
    natural = [natural_width(column.header, own) for column, own in zip(columns, cells, strict=True)]
    least = [
        max(column.least, min(width, _LONGEST_WORD, max(_longest_word(t.plain) for t in [Text(column.header), *own])))
        if column.words
        else width
        for column, own, width in zip(columns, cells, natural, strict=True)
    ]
    widths = _fit(natural, least, console.width - GAP * (len(columns) - 1))
    # A title spans the table, which no cell of rich's can: so each title starts a table of its own, in equal widths.
    table = _table(columns, widths, header=True)
    for row in rows:
        if isinstance(row, str | Text):
            if table.row_count or table.show_header:
                console.print(table, crop=False)
            console.print(Text(row, style="bold") if isinstance(row, str) else row)
            table = _table(columns, widths, header=False)
        else:
            table.add_row(*row)
    console.print(table, crop=False)
    if note:
        console.print(Text(note, style="dim"))


def _table(columns: Sequence[GridColumn], widths: Sequence[int], header: bool) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        show_header=header,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        width=sum(widths) + GAP * (len(columns) - 1),
    )
    for column, width in zip(columns, widths, strict=True):
        name = Text("\n".join(textwrap.wrap(column.header, width, break_long_words=False)))
        justify: JustifyMethod = "right" if column.right and not column.words else "left"
        table.add_column(name, justify=justify, width=width, no_wrap=not column.words, overflow="fold")
    return table


def _fit(widths: Sequence[int], least: Sequence[int], available: int) -> list[int]:
    """`widths` reduced to `available` in all, a step at a time from the widest column that may still give."""
    fitted = list(widths)
    for _ in range(max(0, sum(widths) - available)):
        giving = [i for i, width in enumerate(fitted) if width > least[i]]
        if not giving:
            break
        widest = max(giving, key=fitted.__getitem__)
        fitted[widest] -= 1
    return fitted


def _widest_line(cells: Sequence[Text]) -> int:
    return max((cell_len(line) for text in cells for line in text.plain.split("\n")), default=0)


def _longest_word(text: str) -> int:
    return max((cell_len(word) for word in text.split()), default=0)
