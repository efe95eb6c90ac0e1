"""One metric of every cell over a folder of runs: levels, steps, and what else changed where a step is.

Runs of one suite on one device form a group; groups are never joined. Within a group a cell is followed by its key.
The metric is shown as measured and normalised: as if the device had always done its calibration at the middle rate of
the group (the matrix product or the read, whichever the cell's work asks more of; design, section 8). Steps are sought
in both: one that is only in the first is the device's, not the code's; one that is only in the second was hidden by the
device. Nothing here judges: that is the gate's work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from .. import InputError
from ..profiles.metrics import METRICS, Direction
from ..profiles.record import Cell, Value
from .compare import Difference
from .format import MISSING
from .history import History, Note, PastRun, Rate
from .steps import Fit, Step, find_steps

HEADLINE = "throughput_tok_s"
ABSENT = "not in this run"
Seen = Literal["both", "as measured", "normalised"]
# The code itself: it may change with every run, and is shown as the run's commit.
_CODE = ("commit", "dlmbench", "environment.git.commit", "environment.git.dirty")


@dataclass(frozen=True, slots=True)
class Point:
    """The metric in one run: `run` counts the group's runs from 0; `normalised` is None where it cannot be."""

    run: int
    value: Value
    normalised: float | None


@dataclass(frozen=True, slots=True)
class Gap:
    """A run of the group without a valid result of the cell, and why."""

    run: int
    why: str


@dataclass(frozen=True, slots=True)
class Shift:
    """A step of a cell. `run` and `previous` are the first run of the new level and the last of the old.

    `change` is relative, with its interval; `worse` None where the metric has no better or worse. `seen` says in which
    series: as measured, normalised or (within a run, in the same direction) both; None where there is no normalised
    one. `differences` are what the two runs were not measured alike in, besides the code.
    """

    run: int
    previous: int
    change: float
    low: float
    high: float
    worse: bool | None
    seen: Seen | None
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Series:
    """A cell over its group's runs. `fit` and `normalised_fit` count points, not runs."""

    key: str
    cell: Cell
    points: tuple[Point, ...]
    gaps: tuple[Gap, ...]
    fit: Fit
    normalised_fit: Fit | None
    not_normalised: str | None
    shifts: tuple[Shift, ...]


@dataclass(frozen=True, slots=True)
class Moved:
    """What the run `run` was not measured alike in with the one before it, besides the code."""

    run: int
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """The runs of one suite on one device, oldest first."""

    suite: str
    device: str
    device_name: str
    runs: tuple[PastRun, ...]
    series: tuple[Series, ...]
    moved: tuple[Moved, ...]


@dataclass(frozen=True, slots=True)
class Trend:
    """Everything that the page and the terminal show. `alpha`: the chance of any false step on the whole page."""

    folder: str
    metric: str
    alpha: float
    groups: tuple[Group, ...]
    notes: tuple[Note, ...]


def make_trend(history: History, metric: str = HEADLINE, alpha: float = 0.05) -> Trend:
    """The trend of `metric`. Raises InputError for a metric that is not declared."""
    if metric.partition("[")[0] not in METRICS:
        raise InputError(f"metric {metric!r} is unknown; `dlmbench list metrics` names them")
    groups: dict[tuple[str, str, str], list[PastRun]] = {}
    for run in history.runs:
        groups.setdefault((run.suite, run.device, run.device_name), []).append(run)
    searched = 2 * sum(len(_keys(runs)) for runs in groups.values())  # each as measured and normalised
    return Trend(
        folder=str(history.folder),
        metric=metric,
        alpha=alpha,
        groups=tuple(_group(name, runs, metric, alpha / max(1, searched)) for name, runs in groups.items()),
        notes=history.notes,
    )


def _keys(runs: Sequence[PastRun]) -> list[str]:
    return list(dict.fromkeys(key for run in runs for key in run.measurements))


def _group(name: tuple[str, str, str], runs: Sequence[PastRun], metric: str, alpha: float) -> Group:
    moved = []
    for index in range(1, len(runs)):
        differences = differing(runs[index - 1], runs[index])
        if differences:
            moved.append(Moved(index, differences))
    series = tuple(_series(key, runs, metric, alpha) for key in _keys(runs))
    return Group(*name, tuple(runs), series, tuple(moved))


def differing(before: PastRun, after: PastRun) -> tuple[Difference, ...]:
    """What two runs were not measured alike in, besides the code; what matters most first."""
    tables = (before.conditions, after.conditions)
    rows = (
        Difference(name, tuple(table.get(name, MISSING) for table in tables))
        for name in dict.fromkeys([*before.conditions, *after.conditions])
        if name not in _CODE
    )
    return tuple(row for row in rows if row.values[0] != row.values[1])


def _series(key: str, runs: Sequence[PastRun], metric: str, alpha: float) -> Series:
    found = [(index, run.measurements.get(key)) for index, run in enumerate(runs)]
    cell = next(m.cell for _, m in found if m is not None)
    values: list[tuple[int, Value]] = []
    gaps = []
    for index, m in found:
        value = m.metrics.get(metric, Value(value=None, why="not recorded")) if m is not None else None
        if m is not None and m.status == "ok" and value is not None and value.value is not None:
            values.append((index, value))
        elif m is None:
            gaps.append(Gap(index, ABSENT))
        elif m.status != "ok":
            gaps.append(Gap(index, f"{m.status}: {m.reason.message if m.reason else 'no reason recorded'}"))
        else:
            gaps.append(Gap(index, (value.why if value else None) or "no reason recorded"))
    factors, why = _factors(key, [runs[index] for index, _ in values], metric)
    points = tuple(
        Point(index, value, value.value * factor if factor is not None and value.value is not None else None)
        for (index, value), factor in zip(values, factors, strict=True)
    )
    fit = find_steps([_number(p) for p in points], [_error(p.value) for p in points], alpha=alpha)
    normalised = [p.normalised for p in points if p.normalised is not None]
    other = find_steps(normalised, [_error(p.value) for p in points], alpha=alpha) if why is None else None
    return Series(key, cell, points, tuple(gaps), fit, other, why, _shifts(points, fit, other, runs, metric))


def _number(point: Point) -> float:
    assert point.value.value is not None
    return point.value.value


def _error(value: Value) -> float | None:
    """The relative standard error behind a 95 % interval over processes, rather too large where they are few; None
    without a level."""
    if value.level is None or value.low is None or value.high is None or not value.value:
        return None
    return abs(value.high - value.low) / (2 * 1.96) / abs(value.value)


def _factors(key: str, runs: Sequence[PastRun], metric: str) -> tuple[list[float | None], str | None]:
    """What each run's value is multiplied by, and why there is no normalised series, if there is none."""
    none: list[float | None] = [None] * len(runs)
    power = {"s": 1, "tok/s": -1}.get(METRICS[metric.partition("[")[0]].unit)
    if power is None:
        return none, "no clock enters it"
    beside = [run.rates.get(key) for run in runs]
    limit = next((rates.limit for rates in beside if rates is not None and rates.limit is not None), None)
    if limit is None:
        return none, "its analytic cost is not known, or no calibration was made beside it"
    all_rates: list[Rate | None] = [getattr(found, limit) if found is not None else None for found in beside]
    rates = [rate for rate in all_rates if rate is not None]
    if len(rates) < len(runs) or len({rate.kernel for rate in rates}) > 1:
        return none, "its runs have no calibration of one kind beside them"
    speeds = [rate.per_s for rate in rates]
    middle = median(speeds)
    # A faster device makes times shorter: they are stretched by as much.
    return [(speed / middle) ** power for speed in speeds], None


def _shifts(
    points: Sequence[Point], fit: Fit, normalised: Fit | None, runs: Sequence[PastRun], metric: str
) -> tuple[Shift, ...]:
    """The steps of both series by run; those of both count once, with the change as measured."""
    if normalised is None:
        return tuple(_shift(step, None, points, runs, metric) for step in fit.steps)
    matched = {step.at: [other for other in normalised.steps if _alike(step, other)] for step in fit.steps}
    found: list[tuple[Step, Seen]] = [(step, "both" if matched[step.at] else "as measured") for step in fit.steps]
    both = {other.at for others in matched.values() for other in others}
    found += [(other, "normalised") for other in normalised.steps if other.at not in both]
    found.sort(key=lambda entry: entry[0].at)
    return tuple(_shift(step, seen, points, runs, metric) for step, seen in found)


def _alike(step: Step, other: Step) -> bool:
    return abs(step.at - other.at) <= 1 and step.change * other.change > 0


def _shift(step: Step, seen: Seen | None, points: Sequence[Point], runs: Sequence[PastRun], metric: str) -> Shift:
    direction: Direction = METRICS[metric.partition("[")[0]].direction
    run, previous = points[step.at].run, points[step.at - 1].run
    return Shift(
        run=run,
        previous=previous,
        change=step.change,
        low=step.low,
        high=step.high,
        worse=None if direction == "neutral" else (step.change > 0) == (direction == "lower"),
        seen=seen,
        differences=differing(runs[previous], runs[run]),
    )
