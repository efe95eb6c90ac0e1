"""Runs side by side: `dlmbench compare RUN RUN...`.

Cells are joined by their key. A change is against the first run, in per cent. Its interval treats the two runs as
independent and works on the log scale: the logs of the two values differ by d, and each end of d's interval lies at
the root of the sum of the squared half-widths on that side (Zou and Donner 2008, "MOVER", which keeps an interval's
asymmetry; for symmetric intervals it is the usual rule). It needs intervals over processes at one level on both
sides; anything else is shown without a confidence level. Nothing here judges: that is the gate's work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from .. import InputError
from ..profiles.record import Cell, Measurement, Value
from ..profiles.store import StoredRun
from .conditions import conditions
from .format import MISSING, cell_label, format_interval, format_point, level_words, metric_header
from .grid import GAP, GridColumn, draw, natural_width
from .plain import plain
from .rows import DEFINITIONS, LOOSE

METRICS_COMPARED = ("latency_s", "throughput_tok_s", "nfe", "memory_peak_b")
NO_LEVEL = "no confidence level"
COUNTED = "counted: the same in every process of a run"


@dataclass(frozen=True, slots=True)
class Change:
    """`percent` against the first run, with [low, high] at `level`, or the reason why there is no such interval."""

    percent: float | None
    low: float | None = None
    high: float | None = None
    level: float | None = None
    why: str | None = None


@dataclass(frozen=True, slots=True)
class ComparedMetric:
    """A metric of one cell: one value a run, and one change for each run after the first."""

    metric: str
    values: tuple[Value, ...]
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class ComparedCell:
    """A cell that at least two runs have a valid result of."""

    key: str
    cell: Cell
    metrics: tuple[ComparedMetric, ...]


@dataclass(frozen=True, slots=True)
class MissingCell:
    """A cell that some run has no valid result of: one sentence a run, `measured` where it has one."""

    key: str
    cell: Cell
    states: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that the runs were not measured alike in: one value a run."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`runs` names the runs in order: (id, path as it was given)."""

    runs: tuple[tuple[str, str], ...]
    cells: tuple[ComparedCell, ...]
    missing: tuple[MissingCell, ...]
    differences: tuple[Difference, ...]


def compare_runs(runs: Sequence[StoredRun]) -> Comparison:
    """Join two or more runs by cell key. Raises InputError for fewer than two."""
    if len(runs) < 2:
        raise InputError(f"compare: {len(runs)} run given, expected two or more; name another run folder")
    tables = [{m.key: m for m in stored.measurements} for stored in runs]
    cells, missing = [], []
    for key, cell in {m.key: m.cell for table in tables for m in table.values()}.items():
        found = [table.get(key) for table in tables]
        valid = sum(m is not None and m.status == "ok" for m in found)
        if valid >= 2:
            cells.append(ComparedCell(key, cell, tuple(_metric(name, found) for name in METRICS_COMPARED)))
        if valid < len(runs):
            missing.append(MissingCell(key, cell, tuple(_state(m) for m in found)))
    return Comparison(
        tuple((stored.run.id, str(stored.path)) for stored in runs), tuple(cells), tuple(missing), _differences(runs)
    )


def change(base: Value, other: Value) -> Change:
    """`other` against `base`: 100 (other / base - 1), with the interval that the module's text explains."""
    if base.value is None or other.value is None:
        return Change(None, why="a value is missing")
    if base.value == 0:
        return Change(None, why="the first run's value is 0")
    percent = 100 * (other.value / base.value - 1)
    if base.low == base.high == base.value and other.low == other.high == other.value:
        return Change(percent, why=COUNTED)
    if base.level is None or other.level is None:
        return Change(percent, why=NO_LEVEL)
    if base.level != other.level:
        return Change(percent, why=f"{NO_LEVEL}: {level_words(base.level)} against {level_words(other.level)}")
    ends = (base.low, base.high, other.low, other.high)
    low0, high0, low1, high1 = (end if end is not None and end > 0 else None for end in ends)
    if low0 is None or high0 is None or low1 is None or high1 is None or base.value < 0 or other.value <= 0:
        return Change(percent, why=f"{NO_LEVEL}: an interval reaches 0 or is missing")
    v0, v1 = base.value, other.value
    ratio = math.log(v1 / v0)
    down = math.hypot(math.log(v1 / low1), math.log(high0 / v0))
    up = math.hypot(math.log(high1 / v1), math.log(v0 / low0))
    return Change(percent, 100 * math.expm1(ratio - down), 100 * math.expm1(ratio + up), base.level)


def _metric(name: str, measurements: Sequence[Measurement | None]) -> ComparedMetric:
    values = tuple(_value(name, m) for m in measurements)
    return ComparedMetric(name, values, tuple(change(values[0], value) for value in values[1:]))


def _value(name: str, m: Measurement | None) -> Value:
    if m is None or m.status != "ok":
        return Value(value=None, why=_state(m))
    return m.metrics.get(name, Value(value=None, why="not recorded"))


def _state(m: Measurement | None) -> str:
    if m is None:
        return "not in this run"
    if m.status == "ok":
        return "measured"
    return f"{m.status}: {m.reason.message if m.reason else 'no reason recorded'}"


def _differences(runs: Sequence[StoredRun]) -> tuple[Difference, ...]:
    tables = [conditions(stored) for stored in runs]
    names = dict.fromkeys(name for table in tables for name in table)
    rows = (Difference(name, tuple(table.get(name, MISSING) for table in tables)) for name in names)
    return tuple(row for row in rows if len(set(row.values)) > 1)


def show_comparison(comparison: Comparison, console: Console) -> None:
    """Print the runs, what differs between them, their cells side by side, and the cells that some run lacks."""
    letters = [_letter(i) for i in range(len(comparison.runs))]
    for letter, (name, path) in zip(letters, comparison.runs, strict=True):
        console.print(Text.assemble((f"{letter}  ", "bold"), f"{plain(name)}  {plain(path)}"))
    console.print()
    _show_differences(comparison, letters, console)
    console.print()
    _show_cells(comparison, letters, console)
    if comparison.missing:
        console.print()
        console.print(Text("cells that not every run has a valid result of", style="bold"))
        columns = [GridColumn(name, words=True) for name in ("cell", *letters)]
        rows = [[Text(_name(cell.cell)), *(Text(plain(state)) for state in cell.states)] for cell in comparison.missing]
        draw(console, columns, rows)
    console.print()
    console.print(Text(DEFINITIONS, style="dim"))


def _letter(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else f"run {index + 1}"


def _name(cell: Cell) -> str:
    return f"{plain(cell.pair)}: {cell_label(cell)}"


def _show_differences(comparison: Comparison, letters: Sequence[str], console: Console) -> None:
    if not comparison.differences:
        console.print(Text("The recorded environments and settings are equal."))
        return
    console.print(Text("what differs between the runs", style="bold"))
    columns = [GridColumn("what", words=True), *(GridColumn(letter, words=True) for letter in letters)]
    draw(console, columns, [[Text(plain(x)) for x in (row.name, *row.values)] for row in comparison.differences])


def _show_cells(comparison: Comparison, letters: Sequence[str], console: Console) -> None:
    if not comparison.cells:
        console.print(Text("No cell has a valid result in two runs."))
        return
    wide, long = _wide(comparison, letters), _long(comparison, letters)
    columns, rows = wide if _width(*wide) <= console.width else long
    draw(console, columns, rows, note="\n".join(_notes(comparison)))


_Grid = tuple[list[GridColumn], list[list[Text] | str]]


def _wide(comparison: Comparison, letters: Sequence[str]) -> _Grid:
    """A line a metric: every run's value, and from the second on its change, side by side."""
    columns = [GridColumn("metric", right=False), GridColumn(letters[0])]
    for letter in letters[1:]:
        columns += [GridColumn(letter), GridColumn(f"{letter} against {letters[0]}")]
    rows: list[list[Text] | str] = []
    for cell in comparison.cells:
        rows.append(_name(cell.cell))
        for metric in cell.metrics:
            line = [Text(f"  {metric_header(metric.metric)}"), _shown(metric.metric, metric.values[0])]
            for value, step in zip(metric.values[1:], metric.changes, strict=True):
                line += [_shown(metric.metric, value), _shown_change(step)]
            rows.append(line)
    return columns, rows


def _long(comparison: Comparison, letters: Sequence[str]) -> _Grid:
    """A line a metric and run, for narrow screens and many runs."""
    columns = [
        GridColumn("metric", right=False),
        GridColumn("run", right=False),
        GridColumn("value"),
        GridColumn(f"against {letters[0]}"),
    ]
    rows: list[list[Text] | str] = []
    for cell in comparison.cells:
        rows.append(_name(cell.cell))
        for metric in cell.metrics:
            for i, value in enumerate(metric.values):
                name = f"  {metric_header(metric.metric)}" if i == 0 else ""
                step = _shown_change(metric.changes[i - 1]) if i else Text()
                rows.append([Text(name), Text(letters[i]), _shown(metric.metric, value), step])
    return columns, rows


def _width(columns: Sequence[GridColumn], rows: Sequence[list[Text] | str]) -> int:
    lines = [row for row in rows if not isinstance(row, str)]
    widths = [natural_width(column.header, [row[i] for row in lines]) for i, column in enumerate(columns)]
    return sum(widths) + GAP * (len(columns) - 1)


def _shown(metric: str, value: Value) -> Text:
    interval = format_interval(metric, value)
    mark = LOOSE if interval and value.level is None else ""
    return Text.assemble(format_point(metric, value), (f" {mark}{interval}", "dim") if interval else "")


def _shown_change(step: Change) -> Text:
    if step.percent is None:
        return Text(MISSING)
    if step.why == COUNTED and step.percent == 0:
        return Text("equal")
    text = f"{step.percent:+.1f} %"
    if step.low is not None and step.high is not None:
        return Text.assemble(text, (f" [{step.low:+.1f}, {step.high:+.1f}]", "dim"))
    return Text.assemble(text, (f" {NO_LEVEL}", "dim") if step.why and step.why.startswith(NO_LEVEL) else "")


def _notes(comparison: Comparison) -> tuple[str, ...]:
    changes = [step for cell in comparison.cells for metric in cell.metrics for step in metric.changes]
    levels = sorted({step.level for step in changes if step.level is not None})
    notes = []
    if levels:
        named = ", ".join(level_words(level) for level in levels)
        notes.append(
            f"Changes: {named}; the runs are treated as independent, half-widths add as squares on the log scale."
        )
    if any(step.why == NO_LEVEL for step in changes):
        notes.append(f"{LOOSE} marks an interval within one process, or over fewer than five: {NO_LEVEL}.")
    notes += dict.fromkeys(
        f"{why}." for step in changes for why in [step.why] if why and why.startswith(f"{NO_LEVEL}:")
    )
    notes += dict.fromkeys(f"{MISSING}: {step.why}." for step in changes if step.percent is None)
    return tuple(notes)
