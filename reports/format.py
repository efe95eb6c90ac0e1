"""How a number, an interval and a cell are written for people: one way, in the terminal, the page and the figures.

    format_value("latency_s", Value(value=0.0123, low=0.0121, high=0.0126))  ->  "12.3 ms [12.1, 12.6]"
    format_value("itl_s", Value(value=None, why="AR only"))                  ->  "— (AR only)"

The interval shares the value's SI prefix and shows as many digits as its width needs, three to five significant.
Whatever comes from a record passes through `plain` first: names and messages may hold ANSI escapes or text-direction
marks that would repaint a terminal or reorder a table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from ..profiles.metrics import METRICS
from ..profiles.record import Cell, Value
from .plain import plain

MISSING = "—"
SIDES = {"ar": "AR", "diffusion": "diffusion"}

_SMALL = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))
_LARGE = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_PREFIXES = {
    "s": _SMALL,
    "J": (*_LARGE[2:5], *_SMALL),
    "J/tok": (*_LARGE[2:5], *_SMALL),
    **dict.fromkeys(("tok/s", "B", "B/s", "FLOP", "FLOP/s"), _LARGE),
}
# A ratio or count is stored with unit "1"; people read a share in per cent and a count with its noun.
_SHOWN_UNIT = {
    **dict.fromkeys(
        ("mfu", "mbu", "roofline_fraction", "observer_share", "outlier_share", "discarded_share", "kernel_busy"), "%"
    ),
    **dict.fromkeys(("sm_active", "tensor_active", "dram_active", "sm_occupancy", "gpu_util_nvml"), "%"),
    **dict.fromkeys(("mfu_datasheet", "mbu_datasheet", "fp16_active", "fp32_active", "fp64_active"), "%"),
    "profiler_overhead": "%",
    **dict.fromkeys(("speedup", "speedup_at_equal_quality", "cache_speedup"), "×"),
    **dict.fromkeys(
        ("quality.validity", "quality.valid_prefix", "quality.violations", "quality.cache_validity_change"), "%"
    ),
    "nfe": "forwards",
    "tokens_per_forward": "tok/forward",
    "crossover_batch": "rows",
    **dict.fromkeys(("output_tokens", "canvas_tokens", "forward_tokens"), "tok"),
}


def shown_unit(metric_name: str) -> str:
    """The unit a metric is shown in: `%` for a share, `×` for the speed-up, a noun for a count, else as declared."""
    base = metric_name.partition("[")[0]
    metric = METRICS.get(base)
    return _SHOWN_UNIT.get(base, metric.unit if metric else "1")


def metric_header(metric_name: str) -> str:
    """The declared header; a curve's point shows its index: `time to k, k = 8`. An undeclared name shows as it is."""
    base, _, index = metric_name.partition("[")
    header = METRICS[base].header if base in METRICS else plain(base)
    if not index:
        return header
    place = plain(index.rstrip("]"))
    return f"{header}, k = {place}" if place.isdigit() else f"{header}: {place}"


def format_number(x: float, unit: str) -> str:
    """`x` with three significant digits and an SI prefix: 0.0123 s -> "12.3 ms", 4100 tok/s -> "4.10 k tok/s"."""
    if not math.isfinite(float(f"{x:.2e}")):  # 1.797e308 is finite until it is rounded
        return f"{x} {unit}".removesuffix(" 1")
    scale, prefix = _scale(x, unit)
    return _with_unit(_digits(x / scale, _decimals(x / scale), whole=_whole((x,), scale)), prefix, unit)


def percent(share: float, decimals: int = 1) -> str:
    """A relative change in per cent, always signed: 0.051 -> "+5.1"; what rounds to zero has no sign of its own."""
    text = f"{100 * share:+,.{decimals}f}"
    return text if text.strip("+-0.,") else f"{0:.{decimals}f}"


def format_interval(metric_name: str, value: Value) -> str:
    """The bracketed interval alone, in the value's own prefix: "[12.1, 12.6]"; empty where there is none."""
    return _split(metric_name, value)[1]


def format_point(metric_name: str, value: Value) -> str:
    """The value alone with its unit: "12.3 ms"; an em dash where it is missing."""
    return _split(metric_name, value)[0]


def format_value(metric_name: str, value: Value) -> str:
    """Value, unit and interval: "12.3 ms [12.1, 12.6]"; a missing value shows its reason: "— (AR only)"."""
    if value.value is None:
        return f"{MISSING} ({plain(value.why or 'no reason recorded')})"
    point, interval = _split(metric_name, value)
    return f"{point} {interval}".rstrip()


def cell_label(cell: Cell) -> str:
    """A cell in a few words: side, L, T, B, then only the axes that differ from their defaults."""
    name = SIDES[cell.side]
    if cell.generator.lower() != cell.side:
        name += f" ({plain(cell.generator)})"
    parts = [f"{name} L={cell.length}"]
    if cell.steps is not None:
        parts.append(f"T={cell.steps}")
    parts.append(f"B={cell.batch}")
    return " ".join([*parts, *other_axes(cell)])


def other_axes(cell: Cell) -> list[str]:
    """The axes that `cell_label` adds when they differ from their defaults, as `name=value`; a block of L is none."""
    shown = {"L", "T", "B"} | ({"block"} if cell.block_length == cell.length else set())
    # A key ends in "/L=…,T=…,…"; the generator before it is hostile text, so cut it off by its known length.
    tail = cell.key[len(f"{cell.pair}/{cell.generator}/") :]
    return [plain(axis) for axis in tail.split(",") if axis.partition("=")[0] not in shown]


def level_words(level: float | None) -> str:
    """What an interval's level means: "95 % confidence" or "within one process" (then no confidence is claimed)."""
    return "within one process" if level is None else f"{_digits(level * 100, 1).removesuffix('.0')} % confidence"


def interval_words(value: Value) -> str:
    """What one interval means: "95 % confidence, n = 5", or "within one process", which claims no confidence."""
    if value.low is None or value.high is None:
        return "no interval recorded"
    return level_words(None) if value.level is None else f"{level_words(value.level)}, n = {value.n}"


def interval_sentence(values: Iterable[Value], over: str = "processes") -> str:
    """One sentence on what the intervals of these values mean; `over` is what repeated."""
    levels = {value.level for value in values if value.value is not None and value.low is not None}
    if not levels:
        return "No intervals were recorded."
    confident = sorted(level for level in levels if level is not None)
    named = " / ".join(level_words(level).removesuffix(" confidence") for level in confident)
    if None not in levels:
        return f"Intervals: {named} confidence over {over}."
    within = "the spread within one process or over fewer than five, with no confidence level"
    return f"Intervals: {named} confidence over processes, or {within}." if named else f"Intervals: {within}."


def _split(metric_name: str, value: Value) -> tuple[str, str]:
    if value.value is None:
        return MISSING, ""
    unit = shown_unit(metric_name)
    x = value.value
    if not math.isfinite(x):
        return format_number(x, unit), ""
    scale, prefix = _scale(x, unit)
    low, high = value.low, value.high
    bounded = low is not None and high is not None and math.isfinite(low) and math.isfinite(high)
    numbers = (x, low, high) if bounded else (x,)
    whole = _whole([n for n in numbers if n is not None], scale)
    decimals = _decimals(x / scale)
    if bounded and low is not None and high is not None and high > low:
        width = (high - low) / 2 / scale
        decimals = min(max(decimals, -math.floor(math.log10(width))), decimals + 2)
    point = _with_unit(_digits(x / scale, decimals, whole), prefix, unit)
    if not bounded or low is None or high is None or low == x == high:
        return point, ""  # an exact count has no interval
    return point, f"[{_digits(low / scale, decimals, whole)}, {_digits(high / scale, decimals, whole)}]"


def _scale(x: float, unit: str) -> tuple[float, str]:
    """The factor and prefix that bring |x|, rounded to three digits, into [1, 1000)."""
    if unit == "%":
        return 0.01, ""
    table = _PREFIXES.get(unit)
    if table is None or x == 0:
        return 1.0, ""
    size = abs(float(f"{x:.2e}"))
    return next(((factor, prefix) for factor, prefix in table if size >= factor), table[-1])


def _whole(numbers: Iterable[float], scale: float) -> bool:
    """Whether every number is an exact count that needs no decimals."""
    return scale == 1.0 and all(float(n).is_integer() for n in numbers)


def _decimals(x: float) -> int:
    return 2 if x == 0 else max(0, 2 - math.floor(math.log10(abs(float(f"{x:.2e}")))))


def _digits(x: float, decimals: int, whole: bool = False) -> str:
    return f"{x:,.{0 if whole else decimals}f}"


def _with_unit(digits: str, prefix: str, unit: str) -> str:
    if unit == "×":
        return digits + unit
    if unit == "tok/s" and prefix:
        return f"{digits} {prefix} {unit}"
    return digits if unit == "1" and not prefix else f"{digits} {prefix}{unit}"
