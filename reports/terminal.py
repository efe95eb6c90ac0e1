"""A run as tables in the terminal: `dlmbench show RUN`.

    show_run(read_run(folder), Console())

Everything that comes from the record is printed as `Text` made of `plain` strings, never as a markup string: a pair
may be called "[red]" and a message may hold an escape sequence. Width decides how much is shown, never how much of a
number: columns leave in the order of their priority, and intervals move below their values.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ..profiles.record import CertificateRow, PairRecord
from ..profiles.store import StoredRun
from .extrapolation import HEADERS, NOTE, extrapolations
from .format import MISSING, format_number
from .grid import GAP, GridColumn, draw, natural_width
from .hardware_rows import PEAK_HEADERS, HardwareTable, hardware_section
from .plain import plain
from .rows import (
    DEFINITIONS,
    Column,
    Entry,
    Headline,
    Results,
    headlines,
    pair_names,
    results,
    run_facts,
    unmeasured,
)
from .sentence import sentence_lines
from .study import Study
from .tradeoffs import Tradeoff, tradeoffs

CertificateValue = float | int | str | bool | None

_HANGING_WIDTH = 34  # of "T=16 0.2739× ~[0.2732, 0.2747]" and a little more
_LABEL_WIDTH = 16  # room kept for a row's label before columns are chosen: "diffusion (mdlm)"


def show_run(stored: StoredRun, console: Console) -> None:
    """Print a run: what it was measured on, then headline, results and match of each pair, then what failed."""
    _facts(stored, console)
    if not stored.measurements:
        console.print(
            Text(
                f"No results yet: {len(stored.trials)} trials are recorded and the run is not finished. "
                f"Go on with: dlmbench run --resume {plain(str(stored.path))}"
            )
        )
    certificates = {pair.name: pair for pair in stored.run.pairs}
    for name in pair_names(stored):
        console.print()
        console.print(Text(f"pair {plain(name)}", style="bold underline"))
        if name in certificates:
            pair = certificates[name]
            note = f" ({pair.weights_note})" if pair.weights_note else ""
            console.print(Text(plain(f"{pair.description} Weights: {pair.weights}{note}.")))
        _headline(headlines(stored, name), console)
        _results(results(stored, name), console)
        _tradeoffs(tradeoffs(Study(stored), name), console)
        studies = stored.studies.get(name)
        if studies is not None and studies.sentence is not None:
            console.print()
            console.print(Text("the lesson's sentence, masked and written again", style="bold"))
            for line in sentence_lines(studies.sentence, console.width):
                console.print(line, soft_wrap=True)
        if name in certificates:
            console.print(Text(_match(certificates[name])))
    _hardware(stored, console)
    _extrapolated(stored, console)
    _unmeasured(stored, console)
    console.print()
    console.print(Text(DEFINITIONS, style="dim"))


def _match(pair: PairRecord) -> str:
    """The certificate in a sentence: how much is equal, and what differs by how much."""
    rows = pair.certificate
    equal = sum(row.verdict == "equal" for row in rows)
    differing = [f"{row.quantity} ({row.verdict})" for row in rows if row.verdict != "equal"]
    by_design = [row.quantity for row in rows if "by design" in row.verdict]
    unmatched = [plain(text) for text in differing if "by design" not in text]
    text = f"match: {equal} of {len(rows)} quantities equal; differs by design: {', '.join(map(plain, by_design))}"
    more = f"; unmatched: {', '.join(unmatched)}" if unmatched else ""
    return f"{text}{more}. All of it: dlmbench show RUN --certificate"


def show_certificate(pair: PairRecord, console: Console) -> None:
    """Print a pair's match certificate: what the two sides share and what still differs, in words and per cent."""
    console.print(Text(f"match certificate of {plain(pair.name)}", style="bold"))
    if not pair.certificate:
        console.print(Text("No certificate was recorded: whether the two sides match is unknown."))
        return
    columns = [
        GridColumn("quantity", words=True),
        _side_column("AR", [(row.ar, row.unit) for row in pair.certificate]),
        _side_column("diffusion", [(row.diffusion, row.unit) for row in pair.certificate]),
        GridColumn("difference"),
        GridColumn("in words", words=True),
    ]
    rows = [
        [
            Text(plain(row.quantity)),
            Text(certificate_value(row.ar, row.unit)),
            Text(certificate_value(row.diffusion, row.unit)),
            Text(certificate_difference(row)),
            Text(plain(row.verdict)),
        ]
        for row in pair.certificate
    ]
    draw(console, columns, rows)


def _side_column(header: str, cells: Sequence[tuple[CertificateValue, str]]) -> GridColumn:
    """One side of the certificate: words in it (a mask, a norm) may wrap, numbers may not."""
    numbers = [certificate_value(value, unit) for value, unit in cells if not isinstance(value, str)]
    wordy = len(numbers) < len(cells)
    return GridColumn(header, words=wordy, least=max(map(cell_len, numbers), default=0))


def certificate_value(value: CertificateValue, unit: str) -> str:
    """One side of a certificate's row: a number with its unit, yes or no, or words."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return plain(value) if isinstance(value, str) else format_number(value, plain(unit)).rstrip()


def certificate_difference(row: CertificateRow) -> str:
    """Diffusion against AR in per cent, three significant digits."""
    return MISSING if row.difference_percent is None else f"{row.difference_percent:+.3g} %"


def _facts(stored: StoredRun, console: Console) -> None:
    facts = [*run_facts(stored), *(("warning", plain(warning)) for warning in stored.run.warnings)]
    indent = max(len(name) for name, _ in facts) + GAP
    for name, value in facts:
        _hanging(f"{name:<{indent}}", value.split(" "), " ", console)


def _headline(lines: Sequence[Headline], console: Console) -> None:
    if not lines:
        return
    console.print(Text("speed-up of diffusion over the fastest AR; fewer steps T cost quality", style="bold"))
    indent = max(len(line.title) for line in lines) + GAP
    for line in lines:
        _hanging(f"{line.title:<{indent}}", line.parts, " · ", console)


def _hanging(lead: str, parts: Sequence[str], joint: str, console: Console, lead_style: str = "bold") -> None:
    """`lead` in its style, then the parts beside it (on a narrow screen: below), broken between parts if they fit."""
    beside = console.width - cell_len(lead) >= _HANGING_WIDTH
    indent = cell_len(lead) if beside else GAP
    lines: list[str] = []
    for part in parts:
        if lines and cell_len(f"{lines[-1]}{joint}{part}") <= console.width - indent:
            lines[-1] += joint + part
        else:
            lines += textwrap.wrap(part, max(1, console.width - indent))
    if not beside:
        console.print(Text(lead.rstrip(), style=lead_style))
    for number, line in enumerate(lines):
        start = (lead, lead_style) if beside and number == 0 else " " * indent
        console.print(Text.assemble(start, line, overflow="fold"))


def _results(table: Results, console: Console) -> None:
    if not table.groups:
        console.print(Text("No cell of this pair has a valid result."))
        return
    inline = _widths(table, stacked=False)
    stacked = sum(inline) + GAP * len(inline) + _label_width(table, console) > console.width
    shown = _chosen(table, console) if stacked else list(range(len(table.columns)))
    rows: list[list[Text] | str] = []
    for group in table.groups:
        rows.append(group.title)
        rows += [[Text(row.label), *(_number(row.entries[i], stacked) for i in shown)] for row in group.rows]
    headers = [GridColumn("cell", words=True), *(GridColumn(table.columns[i].header) for i in shown)]
    dropped = [column.header for i, column in enumerate(table.columns) if i not in shown]
    notes = list(table.notes)
    if dropped:
        notes.append(f"Not shown at this width: {', '.join(dropped)}.")
    console.print()
    draw(console, headers, rows, note="\n".join(notes))


def _tradeoffs(rows: Sequence[Tradeoff], console: Console) -> None:
    """What is claimed of the two methods, each claim with what was measured, the verdict first."""
    if not rows:
        return
    console.print()
    console.print(Text("claims, and what was measured here", style="bold"))
    for row in rows:
        console.print(Text.assemble((row.aspect, "bold"), ": ", (row.verdict, "bold"), f"; {row.reason}"))
        for name, words in (("claim", row.claim), ("measured", row.measured)):
            _hanging(f"  {name:<{len('measured')}}  ", [words], " ", console, lead_style="dim")


def _hardware(stored: StoredRun, console: Console) -> None:
    """What the hardware did, a table a pair, then the device's peaks; nothing where the run does not know."""
    section = hardware_section(stored)
    for table in section.tables:
        console.print()
        console.print(Text(f"what the hardware did, pair {table.pair}", style="bold"))
        _hardware_table(table, console)
    if section.peaks:
        console.print()
        console.print(Text("what the device can do", style="bold"))
        columns = [GridColumn(PEAK_HEADERS[0], words=True), *(GridColumn(header) for header in PEAK_HEADERS[1:])]
        draw(console, columns, [[Text(cell) for cell in row] for row in section.peaks], note="\n".join(section.notes))


def _extrapolated(stored: StoredRun, console: Console) -> None:
    rows = [one.row for one in extrapolations(stored)]
    if rows:
        console.print()
        console.print(Text("extrapolated to T = L", style="bold"))
        columns = [GridColumn(HEADERS[0], words=True), *(GridColumn(header) for header in HEADERS[1:])]
        draw(console, columns, [[Text(cell) for cell in row] for row in rows], note=NOTE)


def _hardware_table(table: HardwareTable, console: Console) -> None:
    """The columns that fit, by priority; the label may wrap."""
    cells = [[row.entries[i] for group in table.groups for row in group.rows] for i in range(len(table.metrics))]
    widths = [natural_width(h, [Text(c) for c in own]) for h, own in zip(table.headers, cells, strict=True)]
    left = console.width - _LABEL_WIDTH
    shown: list[int] = []
    for i in sorted(range(len(widths)), key=lambda i: table.priorities[i]):
        if table.priorities[i] == 0 or widths[i] + GAP <= left:
            shown.append(i)
            left -= widths[i] + GAP
    shown.sort()
    rows: list[list[Text] | str] = []
    for group in table.groups:
        rows.append(group.title)
        rows += [[Text(row.label), *(Text(row.entries[i]) for i in shown)] for row in group.rows]
    dropped = [header for i, header in enumerate(table.headers) if i not in shown]
    notes = [*table.notes, *([f"Not shown at this width: {', '.join(dropped)}."] if dropped else [])]
    columns = [GridColumn("cell", words=True), *(GridColumn(table.headers[i]) for i in shown)]
    draw(console, columns, rows, note="\n".join(notes))


def _label_width(table: Results, console: Console) -> int:
    """Width of the label column: as wide as it likes up to a quarter of the screen."""
    natural = natural_width("cell", [Text(row.label) for group in table.groups for row in group.rows])
    return min(natural, max(_LABEL_WIDTH, console.width // 4))


def _widths(table: Results, stacked: bool) -> list[int]:
    entries = [row.entries for group in table.groups for row in group.rows]
    return [
        natural_width(column.header, [_number(row[i], stacked) for row in entries])
        for i, column in enumerate(table.columns)
    ]


def _chosen(table: Results, console: Console) -> list[int]:
    """The columns that fit beside the label with intervals below their values, best priority first."""
    widths = _widths(table, stacked=True)
    columns: Sequence[Column] = table.columns
    left = console.width - min(_LABEL_WIDTH, _label_width(table, console))
    chosen: list[int] = []
    for i in sorted(range(len(columns)), key=lambda i: columns[i].priority):
        if columns[i].priority == 0 or widths[i] + GAP <= left:
            chosen.append(i)
            left -= widths[i] + GAP
    return sorted(chosen)


def _number(entry: Entry, stacked: bool) -> Text:
    if not entry.interval:
        return Text(entry.point)
    return Text.assemble(entry.point, "\n" if stacked else " ", (entry.interval, "dim"))


def _unmeasured(stored: StoredRun, console: Console) -> None:
    cells = unmeasured(stored)
    if not cells:
        return
    console.print()
    console.print(Text("cells without a valid result", style="bold"))
    columns = [
        GridColumn("cell", words=True),
        GridColumn("status", right=False),
        GridColumn("code", words=True),
        GridColumn("message", words=True),
    ]
    draw(console, columns, [[Text(c.cell), Text(c.status), Text(c.code), Text(c.message)] for c in cells])
