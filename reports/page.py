"""What report.html says, before any markup: headline cards, the results table, notes and definitions.

Everything here is plain data for the template, so that a sentence can be tested without parsing a page. Text from the
record is passed on as it is: `html.py` cleans and escapes every string where it meets the page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..profiles.metrics import METRICS, Metric, declared
from ..profiles.record import Cell, Measurement, Value
from ..profiles.store import StoredRun
from .format import MISSING, SIDES, format_interval, format_point, level_words, metric_header, other_axes
from .rows import OVERHEAD_BOUND
from .study import Point, Shape, Study, steps_label

COLUMNS = (
    "latency_s", "throughput_tok_s", "speedup", "ttft_s", "itl_s", "nfe", "tokens_per_forward", "roofline_fraction",
    "mfu", "mbu", "memory_peak_b", "prepare_s",
)  # fmt: skip
_DIRECTION = {"lower": "lower is better", "higher": "higher is better", "neutral": "no better or worse"}


@dataclass(frozen=True, slots=True)
class Bar:
    """One speed-up on a card: its numbers and, in per cent of the track, where its bar and interval lie."""

    label: str
    point: str
    interval: str
    faster: str
    left: float
    width: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Card:
    """One shape's headline: which side is fastest, and every T against AR; `zero` is where 1× lies on the track."""

    title: str
    fastest: str
    verdict: str
    bars: tuple[Bar, ...]
    meaning: str
    crossover: str
    zero: float = 50.0


@dataclass(frozen=True, slots=True)
class PairHeadline:
    """A pair's headline: the count of shapes that each side wins, and a card a shape."""

    pair: str
    sentence: str
    cards: tuple[Card, ...]


@dataclass(frozen=True, slots=True)
class Number:
    """A value for the page: what is shown, what it sorts by, and why it is missing."""

    name: str
    header: str
    point: str
    interval: str
    meaning: str
    n: int
    why: str
    sort: str


@dataclass(frozen=True, slots=True)
class ResultRow:
    """A measured cell: its axes, the table's columns and every metric."""

    side: str
    side_label: str
    generator: str
    length: int
    steps: int
    batch: int
    prompt: int
    axes: str
    key: str
    overhead_bound: bool
    numbers: tuple[Number, ...]
    every: tuple[Number, ...]


@dataclass(frozen=True, slots=True)
class Definition:
    """A metric as declared, for the page's last section."""

    name: str
    header: str
    unit: str
    direction: str
    formula: str
    note: str


def headline(study: Study, pair: str) -> PairHeadline:
    """Who is fastest at each shape of the pair, by how much, and how sure that is."""
    shapes = [shape for shape in study.shapes if shape[0] == pair]
    track = _track(study, shapes)
    cards = tuple(_card(study, shape, track) for shape in shapes)
    counts = {side: sum(card.fastest == side for card in cards) for side in ("diffusion", "ar", "unclear", "")}
    parts = [
        f"{words} in {counts[side]}"
        for side, words in (("diffusion", "diffusion is fastest"), ("ar", "AR is fastest"))
        if counts[side]
    ]
    if counts["unclear"]:
        parts.append(f"no clear difference in {counts['unclear']}")
    if counts[""]:
        parts.append(f"nothing to compare in {counts['']}")
    total = f"Of {len(cards)} shape{'' if len(cards) == 1 else 's'} (prompt, length, batch)"
    return PairHeadline(pair, f"{total}: {'; '.join(parts)}." if parts else "No cell of this pair has a result.", cards)


def _card(study: Study, shape: Shape, track: Track) -> Card:
    found = [(p, v) for p in study.diffusion(shape) if (v := p.value("speedup")) and v.value and v.value > 0]
    title = f"L = {shape[2]} · batch {shape[3]}" + (
        f" · prompt {shape[1]}" if len({s[1] for s in study.shapes if s[0] == shape[0]}) > 1 else ""
    )
    ar = study.ar(shape)
    crossing = ar.measurement.metrics.get("crossover_steps") if ar else None
    if not found:
        return Card(
            title, "", "Nothing to compare: one side has no result at this shape.", (), "", _crossover(crossing)
        )
    fastest, verdict = _verdict(found)
    values = [value for _, value in found]
    bars = tuple(_bar(p, v, track) for p, v in found)
    return Card(title, fastest, verdict, bars, _meaning(values), _crossover(crossing), track.zero)


def _verdict(found: list[tuple[Point, Value]]) -> tuple[str, str]:
    point, best = max(found, key=lambda entry: entry[1].value or 0.0)
    speedup = best.value or 0.0
    side = faster_side(best)
    if side == "diffusion":
        return side, f"Diffusion with T = {point.steps} is {format_point('speedup', best)} as fast as AR."
    if side == "ar":
        times = format_point("speedup", Value(value=1 / speedup))
        return side, f"AR is {times} as fast as the fastest diffusion, T = {point.steps}."
    return (
        side,
        f"No clear difference: the fastest diffusion, T = {point.steps}, is at {format_point('speedup', best)} of AR.",
    )


def faster_side(speedup: Value) -> str:
    """`diffusion` or `ar` where the whole interval lies on one side of 1, else `unclear`."""
    low, high = speedup.low, speedup.high
    if speedup.value is None or low is None or high is None:
        return "unclear"
    return "diffusion" if low > 1 else "ar" if high < 1 else "unclear"


def _meaning(values: Iterable[Value]) -> str:
    chosen = list(values)
    words = sorted({_level(value) for value in chosen})
    return f"Brackets: {' or '.join(words)}."


def _level(value: Value) -> str:
    if value.low is None or value.high is None:
        return "no interval recorded"
    return level_words(None) if value.level is None else f"{level_words(value.level)}, n = {value.n}"


def _crossover(value: Value | None) -> str:
    if value is None:
        return ""
    if value.value is None:
        return f"No crossover T*: {value.why or 'no reason recorded'}."
    point, interval = format_point("crossover_steps", value), format_interval("crossover_steps", value)
    return f"Both sides take the same time at T* = {point} {interval}".rstrip() + "."


@dataclass(frozen=True, slots=True)
class Track:
    """The scale of a pair's bars: a logarithmic axis from `low` to `high`, speed-ups below and above 1."""

    low: float
    high: float

    def at(self, speedup: float) -> float:
        """Where a speed-up lies, in per cent of the track from its left."""
        span = math.log(self.high / self.low)
        return round(100 * min(max(math.log(speedup / self.low) / span, 0.0), 1.0), 2)

    @property
    def zero(self) -> float:
        return self.at(1.0)


def _track(study: Study, shapes: Iterable[Shape]) -> Track:
    """One scale for all cards of a pair: from its slowest to its fastest interval end, at least from 0.8 to 1.25."""
    values = (p.value("speedup") for shape in shapes for p in study.diffusion(shape))
    ends = [x for v in values if v for x in (v.value, v.low, v.high) if x is not None and x > 0 and math.isfinite(x)]
    return Track(min([0.8, *ends]) / 1.05, max([1.25, *ends]) * 1.05)


def _bar(point: Point, value: Value, track: Track) -> Bar:
    speedup = value.value or 1.0
    low, high = (x if x is not None and x > 0 else speedup for x in (value.low, value.high))
    centre = track.at(speedup)
    return Bar(
        label=steps_label(point),
        point=format_point("speedup", value),
        interval=format_interval("speedup", value),
        faster=faster_side(value),
        left=min(track.zero, centre),
        width=round(abs(centre - track.zero), 2),
        low=track.at(low),
        high=track.at(high),
    )


def result_rows(stored: StoredRun, pair: str) -> tuple[ResultRow, ...]:
    """The measured cells of a pair: by prompt, L and batch, AR first, then most steps to fewest."""
    measured = [m for m in stored.measurements if m.cell.pair == pair and m.status == "ok"]
    return tuple(_row(m) for m in sorted(measured, key=lambda m: (m.cell.shape, -(m.cell.steps or 10**9), m.key)))


def _row(m: Measurement) -> ResultRow:
    cell: Cell = m.cell
    roofline = m.metrics.get("roofline_fraction")
    return ResultRow(
        side=cell.side,
        side_label=SIDES[cell.side],
        generator="" if cell.generator.lower() == cell.side else cell.generator,
        length=cell.length,
        steps=cell.steps or 0,
        batch=cell.batch,
        prompt=cell.prompt_length,
        axes=", ".join(axis for axis in other_axes(cell) if not axis.startswith("P=")),
        key=m.key,
        overhead_bound=roofline is not None and roofline.value is not None and roofline.value < OVERHEAD_BOUND,
        numbers=tuple(_number(name, m.metrics.get(name), cell) for name in COLUMNS),
        every=tuple(_number(name, value, cell) for name, value in m.metrics.items()),
    )


def _number(name: str, value: Value | None, cell: Cell) -> Number:
    if value is None:
        why = "AR is what the others are compared with" if name == "speedup" and cell.side == "ar" else "not recorded"
        value = Value(value=None, why=why)
    interval = format_interval(name, value)
    return Number(
        name=name,
        header=metric_header(name),
        point=format_point(name, value),
        interval=interval,
        meaning=_level(value)
        if interval
        else "exact"
        if value.value is not None and value.low == value.high
        else MISSING,
        n=value.n,
        why=(value.why or "no reason recorded") if value.value is None else "",
        sort="" if value.value is None else repr(value.value),
    )


def missing_reasons(rows: Iterable[ResultRow]) -> dict[str, str]:
    """Why numbers of the results table are missing, each with the letter that stands for it in the table."""
    reasons = dict.fromkeys(number.why for row in rows for number in row.numbers if number.why)
    return {why: _letters(index) for index, why in enumerate(reasons)}


def _letters(index: int) -> str:
    """0 -> a, 25 -> z, 26 -> aa."""
    return (_letters(index // 26 - 1) if index >= 26 else "") + chr(ord("a") + index % 26)


def column_metrics() -> tuple[Metric, ...]:
    return tuple(METRICS[name] for name in COLUMNS)


def definitions(stored: StoredRun) -> tuple[Definition, ...]:
    """Every declared metric that this page names, in the order of declaration."""
    used = {name.partition("[")[0] for m in stored.measurements for name in m.metrics} | set(COLUMNS)
    return tuple(
        Definition(m.name, m.header, m.unit, _DIRECTION[m.direction], m.formula, m.note)
        for name, m in METRICS.items()
        if name in used and declared(name)
    )


def notes(stored: StoredRun) -> tuple[str, ...]:
    """What a reader must know before the numbers: the run's own warnings, then what its cells show."""
    run, measurements = stored.run, stored.measurements
    found = list(run.warnings)
    if run.finished is None:
        found.append("This run has not finished: what is shown is what it has measured so far.")
    if not measurements:
        found.append("No measurement has been computed yet: there are trials at most, and no results.")
    spoiled = sum(m.status != "ok" for m in measurements)
    if spoiled:
        found.append(
            f"{spoiled} of {len(measurements)} cells have no valid result; they are listed with their reasons."
        )
    measured = [m for m in measurements if m.status == "ok"]
    slow = sum(_row(m).overhead_bound for m in measured)
    if slow:
        found.append(
            f"{slow} of {len(measured)} measured cells are overhead-bound (below half of what the device's own peaks "
            "allow): they measure the framework, not the method."
        )
    if measured and not any(name.startswith("quality.") for m in measured for name in m.metrics):
        found.append(
            "No quality was measured in this run. Fewer steps are always faster and never free: a speed-up counts for "
            "as much as the text that it still writes."
        )
    return tuple(found)


def flat(mapping: Mapping[str, object], prefix: str = "") -> tuple[tuple[str, str], ...]:
    """A nested mapping as (dotted name, value) rows; a list is one row."""
    rows: list[tuple[str, str]] = []
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            rows += flat(value, f"{name}.")
        elif isinstance(value, list | tuple):
            rows.append((name, ", ".join(str(item) for item in value) or "none"))
        else:
            rows.append((name, MISSING if value is None else str(value)))
    return tuple(rows)
