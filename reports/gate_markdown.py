"""The gate in Markdown, for a job summary or a comment: verdict, cells, changed work, conditions, the command.

GitHub takes at most 1 MiB a step and drops all of a longer summary, so what does not fit is left out with a line that
says so. Tables and <details> are all it uses, which GitLab reads too.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from ..profiles.gate import CellJudgement
from ..profiles.gate_record import GateDocument
from ..profiles.store import replace_file
from .format import MISSING
from .gate_rows import (
    CHANGE_NOTE,
    CounterRow,
    GateRow,
    count_words,
    counter_rows,
    measured_on,
    ordered,
    sentence,
    timed_rows,
)
from .markdown_text import code_block, escape, html, table_lines
from .plain import plain

SUMMARY_LIMIT = 1 << 20  # bytes that GitHub takes of one step's summary
_OPEN = 20  # rows in sight; more are folded away
_FEWER = (2000, 400, 80, _OPEN, 3)  # how many rows to try until the text is short enough
_LONGEST = 400  # characters of any one text
_NOTHING = GateRow(MISSING, MISSING, MISSING, MISSING, MISSING)


def write_gate_markdown(document: GateDocument, path: Path) -> None:
    """Write the summary whole or not at all."""
    replace_file(path, gate_markdown(document))


def append_job_summary(document: GateDocument, path: Path) -> None:
    """Add the summary to the file that $GITHUB_STEP_SUMMARY names, within what is left of the step's limit."""
    taken = path.stat().st_size if path.exists() else 0
    with open(path, "a", encoding="utf-8") as file:
        file.write(("\n" if taken else "") + gate_markdown(document, max(0, SUMMARY_LIMIT - taken - 1)))


def gate_markdown(document: GateDocument, limit: int = SUMMARY_LIMIT) -> str:
    """The summary, in UTF-8 no longer than `limit` bytes; empty where not even the verdict fits."""
    title = [f"## dlmbench gate: {document.result.verdict}", "", f"{_text(sentence(document.result))}"]
    for rows in _FEWER:
        text = "\n".join([*title, "", *_body(document, rows)]).rstrip("\n") + "\n"
        if len(text.encode()) <= limit:
            return text
    text = "\n".join(title) + "\n"
    return text if len(text.encode()) <= limit else ""


def _body(document: GateDocument, most: int) -> list[str]:
    cells = ordered(document.result.cells)
    counters = counter_rows(cells)
    lines = _cells(cells[:most], document.context.counted)
    if len(cells) > most:
        lines += [f"{len(cells) - most} more cells are in the JSON document only.", ""]
    if counters:
        lines += ["### What changed in the work", "", *_counters(counters[:most])]
        if len(counters) > most:
            lines += [f"{len(counters) - most} more counters are in the JSON document only.", ""]
    conditions = measured_on(document)[: max(most, 12)]
    lines += ["### What it was measured on", ""]
    lines += [*table_lines(("what", "value"), [map(_text, row) for row in conditions]), ""]
    if document.context.command:
        lines += ["### How to ask again", "", *code_block(shlex.join(document.context.command)), ""]
    return lines


def _cells(cells: Sequence[CellJudgement], counted: bool) -> list[str]:
    if not cells:
        return []
    table, note = (_counted_table, []) if counted else (_cell_table, [CHANGE_NOTE, ""])
    shown, folded = cells[:_OPEN], cells[_OPEN:]
    lines = [*table(shown), "", *note]
    if folded:
        lines += _folded(f"more cells: {count_words(folded)}", table(folded))
    return lines


def _counted_table(cells: Sequence[CellJudgement]) -> list[str]:
    """A row a cell, where nothing was timed."""
    rows = [map(_text, (cell.outcome.verdict, cell.key, cell.outcome.message)) for cell in cells]
    return table_lines(("verdict", "cell", "reason"), rows)


def _cell_table(cells: Sequence[CellJudgement]) -> list[str]:
    headers = ("verdict", "cell", "metric", "base", "change", "margin", "p adjusted", "reason")
    rows = []
    for cell in cells:
        for index, row in enumerate(timed_rows(cell) or [_NOTHING]):
            names = (cell.outcome.verdict, cell.key, cell.outcome.message) if index == 0 else ("", "", "")
            numbers = (row.metric, row.base, row.change, row.margin, row.p)
            verdict = f"**{names[0]}**" if names[0] not in ("", "PASS") else names[0]
            rows.append([verdict, _text(names[1]), *map(_text, numbers), _text(names[2])])
    return table_lines(headers, rows, right=(3, 4, 5, 6))


def _counters(counters: Sequence[CounterRow]) -> list[str]:
    shown, folded = counters[:_OPEN], counters[_OPEN:]
    lines = [*_counter_table(shown), ""]
    if folded:
        lines += _folded(f"{len(folded)} more counters", _counter_table(folded))
    return lines


def _counter_table(counters: Sequence[CounterRow]) -> list[str]:
    rows = [
        map(_text, (row.cell, row.counter, row.base, row.head, row.change, row.outcome.verdict, row.outcome.message))
        for row in counters
    ]
    headers = ("cell", "counter", "base", "head", "change", "verdict", "reason")
    return table_lines(headers, rows, right=(2, 3, 4))


def _folded(title: str, lines: Sequence[str]) -> list[str]:
    """GitHub needs the blank line before a table inside <details> to read it as one."""
    return ["<details>", f"<summary>{html(title)}</summary>", "", *lines, "", "</details>", ""]


def _text(text: str) -> str:
    """`text` escaped, and cut where it is too long to be read in a table."""
    shown = plain(text[: 2 * _LONGEST])
    return escape(shown if len(shown) <= _LONGEST and len(text) <= 2 * _LONGEST else f"{shown[:_LONGEST]}…")
