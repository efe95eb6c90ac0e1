"""What the trend's page and terminal say: a line a cell, a line a step, the runs and their dates, in words.

Text from the record has passed through `plain`; markup is left to each renderer to escape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..profiles.record import Value
from .compare import Difference
from .format import MISSING, cell_label, format_interval, format_point, metric_header, percent
from .history import PastRun
from .plain import plain
from .rows import LOOSE
from .steps import LEAST
from .trend import Group, Series, Shift, Trend

NORMALISED_NOTE = (
    "change: the last level against the first, as measured; normalised: as if the device had always done its "
    f"calibration at the group's middle rate; {LOOSE} marks an interval without a confidence level."
)
SEEN_NOTE = (
    "seen as measured only: the calibration moved with it, so the device rather than the code; seen normalised only: "
    "the device's drift hid it. A step shows once four runs lie behind it; one or two odd runs are none."
)
NOTHING_ELSE = "nothing recorded but the code"
_MOST_NAMED = 4  # differences named at a step; the others are counted
_LONGEST = 60  # characters of any one condition
_BARS = "▁▂▃▄▅▆▇█"
_HOLE = "·"


@dataclass(frozen=True, slots=True)
class SeriesLine:
    """A cell: its latest value, the change of its level from the first to the last, and of the normalised one; its
    latest runs as bars."""

    pair: str
    cell: str
    latest: str
    interval: str
    change: str
    normalised: str
    bars: str
    note: str


@dataclass(frozen=True, slots=True)
class StepLine:
    """A step: which cell, from which run on, by how much, and what else changed there."""

    cell: str
    when: str
    commit: str
    change: str
    verdict: str
    seen: str
    also: str


def series_lines(trend: Trend, group: Group, bars: int = 0) -> list[SeriesLine]:
    """A line for each cell that has a value in some run, with its last `bars` runs drawn."""
    return [_series_line(trend, group, series, bars) for series in group.series if series.points]


def _series_line(trend: Trend, group: Group, series: Series, bars: int) -> SeriesLine:
    latest = series.points[-1].value
    normalised = MISSING
    if series.normalised_fit is not None and series.normalised_fit.levels:
        normalised = _over(series.normalised_fit.levels[0].value, series.normalised_fit.levels[-1].value)
    levels = series.fit.levels
    return SeriesLine(
        pair=plain(series.cell.pair),
        cell=cell_label(series.cell),
        latest=format_point(trend.metric, latest),
        interval=_interval(trend.metric, latest),
        change=_over(levels[0].value, levels[-1].value) if levels else MISSING,
        normalised=normalised,
        bars=sparkline(series, len(group.runs), bars),
        note="; ".join(presence(group, series)),
    )


def _over(first: float, last: float) -> str:
    return "0" if first == last else f"{percent(last / first - 1)} %"


def presence(group: Group, series: Series) -> list[str]:
    """Where the cell appears, where it is gone, and the runs in between that have no result of it."""
    have = [point.run for point in series.points]
    if not have:
        return ["no run has a valid result"]
    first, last = have[0], have[-1]
    notes = []
    if first:
        notes.append(f"from {date_words(group.runs[first])} on")
    if last < len(group.runs) - 1:
        why = next(gap.why for gap in series.gaps if gap.run > last)
        notes.append(f"none since {date_words(group.runs[last])} ({plain(why)})")
    holes = [gap for gap in series.gaps if first < gap.run < last]
    if holes:
        others = f" and {len(holes) - 1} more" if len(holes) > 1 else ""
        notes.append(f"none in {date_words(group.runs[holes[0].run])} ({plain(holes[0].why)}){others}")
    return notes


def step_lines(group: Group) -> list[StepLine]:
    """A line for each step, the latest first."""
    found = [(shift, series) for series in group.series for shift in series.shifts]
    found.sort(key=lambda entry: (-entry[0].run, -abs(entry[0].change)))
    return [_step_line(group, series, shift) for shift, series in found]


def _step_line(group: Group, series: Series, shift: Shift) -> StepLine:
    run, previous = group.runs[shift.run], group.runs[shift.previous]
    commits = [plain(entry.commit)[:12] for entry in (previous, run)]
    interval = f"[{percent(shift.low)}, {percent(shift.high)}]"
    return StepLine(
        cell=f"{plain(series.cell.pair)}: {cell_label(series.cell)}",
        when=date_words(run),
        commit=commits[1] if commits[0] == commits[1] else f"{commits[0]} → {commits[1]}",
        change=f"{percent(shift.change)} % {interval}",
        verdict={True: "worse", False: "better", None: ""}[shift.worse],
        seen=shift.seen or "as measured",
        also=differences_words(shift.differences) or NOTHING_ELSE,
    )


def differences_words(differences: Sequence[Difference]) -> str:
    """`torch 2.12 → 2.13; threads 1 → 2; and 3 more`; empty where there is none."""
    named = [f"{_short(d.name)} {_short(d.values[0])} → {_short(d.values[1])}" for d in differences[:_MOST_NAMED]]
    left = len(differences) - len(named)
    return "; ".join([*named, *([f"and {left} more"] if left else [])])


def _short(text: str) -> str:
    text = plain(text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def date_words(run: PastRun) -> str:
    """Date and time as recorded, to the minute."""
    return run.created.strftime("%Y-%m-%d %H:%M")


def group_title(group: Group) -> str:
    """`ci on cpu (Example CPU): 12 runs, 2026-01-01 10:00 to 2026-03-01 10:00`."""
    count = len(group.runs)
    title = f"{plain(group.suite)} on {plain(group.device)} ({plain(group.device_name)})"
    if count == 1:
        return f"{title}: 1 run, {date_words(group.runs[0])}; a trend needs a second one"
    return f"{title}: {count} runs, {date_words(group.runs[0])} to {date_words(group.runs[-1])}"


def search_words(trend: Trend, group: Group) -> str:
    """Whether steps were sought, and what came of it."""
    searched = [series for series in group.series if series.fit.why is None]
    if not searched:
        return f"Steps are sought in cells with {2 * LEAST} runs or more; no cell has as many yet."
    steps = sum(len(series.shifts) for series in group.series)
    cells = sum(bool(series.shifts) for series in group.series)
    found = f"{steps} {'step' if steps == 1 else 'steps'} in {cells} of {len(searched)} cells" if steps else "No step"
    chance = f"noise alone shows one somewhere on this page with a chance below {trend.alpha:g}"
    return f"{found} in {metric_header(trend.metric)}; {chance}."


def sparkline(series: Series, runs: int, width: int) -> str:
    """The last `width` runs of a cell as bars between its smallest and largest value; a dot where it has none."""
    values = {point.run: point.value.value for point in series.points}
    shown = [values.get(run) for run in range(max(0, runs - width), runs)]
    present = [value for value in shown if value is not None]
    if not present:
        return _HOLE * len(shown)
    low, high = min(present), max(present)
    span = (high - low) or 1.0
    return "".join(_HOLE if v is None else _BARS[round((v - low) / span * (len(_BARS) - 1))] for v in shown)


def value_words(metric: str, value: Value) -> str:
    """A value with its interval, for a table of every run."""
    return f"{format_point(metric, value)} {_interval(metric, value)}".rstrip()


def _interval(metric: str, value: Value) -> str:
    interval = format_interval(metric, value)
    return f"{LOOSE}{interval}" if interval and value.level is None else interval
