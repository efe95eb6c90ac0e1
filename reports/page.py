"""What report.html says, before any markup: the results table, warnings, notes and definitions.

Everything here is plain data for the template, so that a sentence can be tested without parsing a page. Text from the
record is passed on as it is: `html.py` cleans and escapes every string where it meets the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..profiles.metrics import METRICS, Metric
from ..profiles.record import Cell, Measurement, Value
from ..profiles.store import StoredRun
from .format import MISSING, SIDES, format_interval, format_point, interval_words, metric_header, other_axes
from .plain import plain
from .rows import OVERHEAD_BOUND

COLUMNS = (
    "latency_s", "throughput_tok_s", "speedup", "ttft_s", "itl_s", "nfe", "tokens_per_forward", "roofline_fraction",
    "mfu", "mbu", "memory_peak_b", "prepare_s",
)  # fmt: skip
_DIRECTION = {"lower": "lower is better", "higher": "higher is better", "neutral": "no better or worse"}


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
        meaning=interval_words(value)
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
        if name in used
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
    judged = {trial.key: trial.quality.flattered for trial in stored.trials if trial.quality is not None}
    flattered = {key: why for key, why in judged.items() if why is not None}
    if len(flattered) == 1:
        found += [f"{plain(key)}: {plain(why.message)}" for key, why in flattered.items()]
    elif flattered:
        found.append(
            f"Likelihood flatters the texts of {len(flattered)} settings: their cross-entropy and the entropy of their "
            "words lie below the source's own, as at a low temperature. A low perplexity is no merit there, and their "
            "validity no equal of an honest side's; the distance from the source (word KL) is the measure. "
            f"{'; '.join(plain(key) for key in flattered)}"
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
