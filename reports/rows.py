"""What a results table says, before anything draws it: its rows, columns, headline and notes.

The terminal and Markdown draw the same content, so a number, a mark or a reason cannot be in one and not in the other.
Text that comes from the record has passed through `plain`; markup is left to the renderer to escape.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from ..profiles.record import Cell, Measurement, Side, Value
from ..profiles.store import StoredRun
from .format import MISSING, SIDES, format_interval, format_number, format_point, level_words, metric_header, other_axes
from .plain import plain

OVERHEAD_BOUND = 0.5  # of the roofline; design, section 4
DEFINITIONS = "Definitions, units and formulas: dlmbench list metrics"
_BOTH: tuple[Side, Side] = ("ar", "diffusion")
MARK, LOOSE = "†", "~"  # an overhead-bound cell; an interval without a confidence level
STAR = "*"  # texts whose words have collapsed


@dataclass(frozen=True, slots=True)
class Entry:
    """One number as it is shown: the value with its unit, and its interval where it has one."""

    point: str
    interval: str = ""

    def __str__(self) -> str:
        return f"{self.point} {self.interval}".rstrip()


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the results table. Priority 0 is always shown; the higher the number, the sooner it is dropped."""

    header: str
    priority: int
    entry: Callable[[Measurement], Entry]


@dataclass(frozen=True, slots=True)
class Row:
    """A measured cell: its label within its shape and one entry a column."""

    label: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """The measured cells of one shape, AR first, then diffusion by T."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Results:
    """One pair's results table; `notes` are the sentences of its caption."""

    pair: str
    columns: tuple[Column, ...]
    groups: tuple[Group, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Headline:
    """One shape's speed-ups, fewest steps first, then its crossover; each part reads on its own."""

    title: str
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """A cell without a valid result, and why."""

    cell: str
    status: str
    code: str
    message: str


def pair_names(stored: StoredRun) -> tuple[str, ...]:
    """The run's pairs in its own order, then any that only a measurement names. Exact names, not yet `plain`."""
    declared = [pair.name for pair in stored.run.pairs]
    return tuple(dict.fromkeys([*declared, *(m.cell.pair for m in stored.measurements)]))


def results(stored: StoredRun, pair: str) -> Results:
    """The results table of `pair`; its groups are empty where nothing was measured."""
    measured = [m for m in stored.measurements if m.cell.pair == pair and m.status == "ok"]
    shapes = sorted({m.cell.shape for m in measured})
    levels = _levels(_value(m, name) for m in measured for name in _SHOWN)
    columns = _columns(_mixed(levels), any(name in m.metrics for m in measured for name in _JUDGED))
    named = _named_sides(measured)
    flattered = {t.key for t in stored.trials if t.quality is not None and t.quality.flattered is not None}
    groups = tuple(
        Group(
            shape_title(shape),
            tuple(
                Row(_row_label(m, named) + _star(m, flattered), tuple(column.entry(m) for column in columns))
                for m in sorted((m for m in measured if m.cell.shape == shape), key=_order)
            ),
        )
        for shape in shapes
    )
    return Results(plain(pair), columns, groups, _notes(measured, levels, flattered))


def headlines(stored: StoredRun, pair: str) -> tuple[Headline, ...]:
    """Per shape, the speed-up of diffusion over the fastest AR cell at each T (its fastest cell there), and T*."""
    cells = [m for m in stored.measurements if m.cell.pair == pair and m.status == "ok"]
    mixed = _mixed(_levels(_value(m, name) for m in cells for name in _SHOWN))
    lines = []
    for shape in sorted({m.cell.shape for m in cells}):
        here = [m for m in cells if m.cell.shape == shape]
        best: dict[int, Value] = {}
        for m in here:
            value, steps = _value(m, "speedup"), m.cell.steps or 0
            if m.cell.side == "diffusion" and value.value is not None:
                best[steps] = max(best.get(steps, value), value, key=lambda v: v.value or 0.0)
        parts = [f"T={steps} {_entry('speedup', value, mixed)}" for steps, value in sorted(best.items())]
        if not parts:
            parts = ["no speed-up: the shape has no valid cell on one side"]
        lines.append(Headline(shape_title(shape), (*parts, *_crossover(here, mixed))))
    return tuple(lines)


def unmeasured(stored: StoredRun) -> tuple[Unmeasured, ...]:
    """Every cell that failed, was invalid or was skipped, in the order of the record."""
    return tuple(
        Unmeasured(
            f"{plain(m.cell.pair)}: {_row_label(m, _BOTH, mark=False)} ({shape_title(m.cell.shape)})",
            m.status,
            plain(m.reason.code) if m.reason else MISSING,
            plain(m.reason.message) if m.reason else "no reason recorded",
        )
        for m in stored.measurements
        if m.status != "ok"
    )


def shape_title(shape: tuple[str, int, int, int]) -> str:
    """`prompt 32, L 64, batch 1`: what the two sides of a comparison share."""
    _, prompt, length, batch = shape
    return f"prompt {prompt}, L {length}, batch {batch}"


def run_facts(stored: StoredRun) -> tuple[tuple[str, str], ...]:
    """(name, value) of what every number of a run depends on: device, dtype, threads, suite, when."""
    run, workers = stored.run, [trial.worker for trial in stored.trials if trial.worker]
    cells = [cell for pairing in run.plan for cell in pairing] or [m.cell for m in stored.measurements]
    unknown = "not recorded"
    duration = f", took {format_number(run.duration_s, 's')}" if run.duration_s is not None else ", not finished"
    facts = (
        ("run", run.id),
        ("suite", run.suite),
        ("device", f"{run.device_name} ({run.device})"),
        ("dtype", _listed(cell.dtype for cell in cells) or unknown),
        ("threads", _listed(str(worker.threads) for worker in workers) or unknown),
        ("torch", _listed(worker.torch for worker in workers) or unknown),
        ("processes", f"{run.processes} planned for each cell"),
        ("when", f"{run.created}{duration}"),
    )
    return tuple((name, plain(value)) for name, value in facts)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


_SIDE_ORDER: tuple[Side, ...] = ("ar", "diffusion")


def _order(m: Measurement) -> tuple[int, int, str]:
    return (_SIDE_ORDER.index(m.cell.side), m.cell.steps or 0, m.key)


def _named_sides(measured: Sequence[Measurement]) -> frozenset[Side]:
    """The sides that more than one generator stands on: only there must a row name its generator."""
    generators = {(m.cell.side, m.cell.generator) for m in measured}
    sides = [side for side, _ in generators]
    return frozenset(side for side in sides if sides.count(side) > 1)


def _row_label(m: Measurement, named: Collection[Side], mark: bool = True) -> str:
    """The side, T and the axes that the group's title does not name; `†` on an overhead-bound cell.

    On the sides in `named` the generator is told where it is not the side's namesake.
    """
    cell: Cell = m.cell
    name = SIDES[cell.side]
    if cell.side in named and cell.generator.lower() != cell.side:
        name += f" ({plain(cell.generator)})"
    steps = [f"T={cell.steps}"] if cell.steps is not None else []
    axes = [axis for axis in other_axes(cell) if not axis.startswith("P=")]
    return " ".join([name, *steps, *axes, *([MARK] if mark and _overhead_bound(m) else [])])


def _overhead_bound(m: Measurement) -> bool:
    value = m.metrics.get("roofline_fraction")
    return value is not None and value.value is not None and value.value < OVERHEAD_BOUND


def _crossover(cells: Sequence[Measurement], mixed: bool) -> tuple[str, ...]:
    found = next((m.metrics["crossover_steps"] for m in cells if "crossover_steps" in m.metrics), None)
    if found is None:
        return ()
    if found.value is None:
        return (f"crossover T*: {plain(found.why or 'no reason recorded')}",)
    return (f"crossover T* {_entry('crossover_steps', found, mixed)}",)


def _value(m: Measurement, metric: str) -> Value:
    return m.metrics.get(metric, Value(value=None, why="not recorded"))


def _levels(values: Iterable[Value]) -> set[float | None]:
    """The confidence levels of the intervals that are printed; an exact count has none."""
    return {v.level for v in values if v.value is not None and v.low is not None and v.low != v.high}


def _mixed(levels: set[float | None]) -> bool:
    """Whether intervals with and without a confidence level stand side by side, and so have to be told apart."""
    return None in levels and len(levels) > 1


def _entry(name: str, value: Value, mixed: bool) -> Entry:
    interval = format_interval(name, value)
    loose = LOOSE if interval and mixed and value.level is None else ""
    # The header says what is counted, and a count has no unit: "64", not "64 forwards" in every row.
    return Entry(format_point(name, value).removesuffix(" forwards"), loose + interval)


def _metric(name: str, priority: int, mixed: bool) -> Column:
    return Column(metric_header(name), priority, lambda m: _entry(name, _value(m, name), mixed))


def _host_share(m: Measurement) -> Entry:
    """(sampling + idle) / latency, of the medians: what is not spent in forwards."""
    parts = [_value(m, name).value for name in ("latency_s", "sampling_s", "idle_s")]
    latency, sampling, idle = parts
    if not latency or sampling is None or idle is None:
        return Entry(MISSING)
    return Entry(format_number((sampling + idle) / latency, "%"))


_SHOWN = {
    "latency_s": 0, "throughput_tok_s": 0, "tok_s_user": 7, "speedup": 1, "nfe": 2, "ttft_s": 4, "ttfb_s": 8,
    "roofline_fraction": 3, "memory_peak_b": 6,
}  # fmt: skip


# Shown where texts were judged, right behind the speed that they belong to.
_JUDGED = {"quality.validity": 1, "quality.cross_entropy_gap": 5, "quality.word_kl": 5}


def _columns(mixed: bool, judged: bool) -> tuple[Column, ...]:
    columns = [_metric(name, priority, mixed) for name, priority in _SHOWN.items()]
    columns.insert(-2, Column("sampling + idle", 5, _host_share))
    if judged:
        # Their intervals are over texts and carry a level of their own.
        columns[4:4] = [_metric(name, priority, False) for name, priority in _JUDGED.items()]
    return tuple(columns)


def _star(m: Measurement, flattered: Collection[str]) -> str:
    return f" {STAR}" if m.key in flattered else ""


def _notes(measured: Sequence[Measurement], levels: set[float | None], flattered: Collection[str]) -> tuple[str, ...]:
    within = "within one process, or over fewer than five: no confidence level"
    named = ", ".join(level_words(level) for level in sorted(level for level in levels if level is not None))
    notes = []
    if named:
        notes.append(f"Intervals: {named}, over processes" + (f"; {LOOSE} marks {within}." if None in levels else "."))
    elif levels:
        notes.append(f"Intervals: {within}.")
    if any(_overhead_bound(m) for m in measured):
        notes.append(
            f"{MARK} overhead-bound: below {format_number(OVERHEAD_BOUND, '%')} of the roofline a cell measures "
            "the framework, not the method."
        )
    if any(name in m.metrics for m in measured for name in _JUDGED):
        notes.append("valid texts, gap, word KL: of untimed texts on the timed settings; intervals 95 %, over texts.")
    if any(m.key in flattered for m in measured):
        notes.append(
            f"{STAR} likelihood flatters these texts: their words have collapsed, as at a low temperature, and their "
            "validity is no equal of an honest side's."
        )
    if any("speedup" in m.metrics for m in measured):
        notes.append("speed-up: over the pair's fastest AR cell of the same shape (1×), fastest by this run's numbers.")
    missing = dict.fromkeys(
        f"{metric_header(name)}: {plain(value.why or 'no reason recorded')}"
        for m in measured
        for name in _SHOWN
        for value in [_value(m, name)]
        if value.value is None and not (name == "speedup" and m.cell.side == "ar")
    )
    if missing:
        notes.append(f"{MISSING} is a missing number. {'; '.join(missing)}.")
    return tuple(notes)
