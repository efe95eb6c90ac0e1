"""What the hardware did, as rows: floor and ceiling, utilisation, launches, power and energy of every cell shown.

The page, summary.md and the terminal draw the same rows. A cell stands for its place (side, shape and T) by its fastest
variant, as in the figures; all variants and every counter are in the table of results. Text is `plain`, not escaped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..profiles.hardware import Peak
from ..profiles.store import StoredRun
from .chosen import reasons
from .format import MISSING, format_number, format_point, metric_header
from .plain import plain
from .rows import shape_title
from .study import Point, Study, steps_label, variant

COLUMNS = (
    "floor_latency_s", "latency_s", "ceiling_tok_s", "throughput_tok_s", "roofline_fraction", "mfu", "mbu",
    "kernel_busy", "launches_per_token", "power_w", "energy_per_token_j",
)  # fmt: skip
# A run that predates these has MFU and MBU only, which the table of results shows.
_PRESENT = (
    "floor_latency_s", "ceiling_tok_s", "kernel_busy", "launches_per_token", "power_w", "energy_per_token_j",
    "sm_active", "tensor_active", "dram_active", "gpu_util_nvml",
)  # fmt: skip
_PRIORITY = {
    "floor_latency_s": 0, "latency_s": 0, "roofline_fraction": 1, "mfu": 1, "mbu": 2, "kernel_busy": 2,
    "energy_per_token_j": 2, "throughput_tok_s": 3, "ceiling_tok_s": 4,
}  # fmt: skip
PEAK_HEADERS = ("peak", "burst", "sustained", "datasheet", "ridge")


@dataclass(frozen=True, slots=True)
class HardwareRow:
    """A cell: its side and T, and one number a column."""

    label: str
    entries: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HardwareGroup:
    """The cells of one shape, AR first, then most steps to fewest."""

    title: str
    rows: tuple[HardwareRow, ...]


@dataclass(frozen=True, slots=True)
class HardwareTable:
    """One pair's table. `metrics` are its columns, each with a number in some row; `notes` what is missing and why."""

    pair: str
    metrics: tuple[str, ...]
    groups: tuple[HardwareGroup, ...]
    notes: tuple[str, ...]

    @property
    def headers(self) -> tuple[str, ...]:
        return tuple(metric_header(name) for name in self.metrics)

    @property
    def priorities(self) -> tuple[int, ...]:
        """0 is always shown; the higher, the sooner a narrow screen does without it."""
        return tuple(_PRIORITY.get(name, 4) for name in self.metrics)


@dataclass(frozen=True, slots=True)
class HardwareSection:
    """Everything the section says; empty (`bool` false) where the run knows nothing of its hardware."""

    tables: tuple[HardwareTable, ...]
    peaks: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.tables)


def hardware_section(stored: StoredRun) -> HardwareSection:
    """The tables of all pairs that have a hardware metric, and the device's peaks beside them."""
    study = Study(stored)
    tables = tuple(table for pair in study.pairs if (table := _table(study, pair)) is not None)
    peaks = stored.run.device_peaks
    notes = [f"No {_absent(name)}: {plain(why).rstrip('.')}" for name, why in peaks.missing.items()] if peaks else []
    if peaks and peaks.datasheet:
        notes.append(f"Datasheet: {plain(peaks.datasheet.source)}")
    return HardwareSection(tables, _peaks(stored) if tables else (), tuple(f"{note}." for note in notes))


def _table(study: Study, pair: str) -> HardwareTable | None:
    shapes = {shape: study.points(shape) for shape in study.shapes if shape[0] == pair}
    points = [point for found in shapes.values() for point in found]
    if not any(point.value(name) for point in points for name in _PRESENT):
        return None
    metrics = tuple(name for name in COLUMNS if any(point.value(name) for point in points))
    engines = {point.measurement.cell.engine for point in points}
    groups = tuple(
        HardwareGroup(
            shape_title(shape),
            tuple(HardwareRow(_label(p, len(engines) > 1), tuple(_entry(p, name) for name in metrics)) for p in found),
        )
        for shape, found in shapes.items()
    )
    missing = reasons(points, COLUMNS)
    notes = [
        "Floor and ceiling: what the measured peaks allow for the arithmetic and traffic of the forwards alone.",
        "Kernel busy, launches, power and energy: from replays, never from the timed samples.",
    ]
    return HardwareTable(plain(pair), metrics, groups, (*notes, *([f"{MISSING} {missing}."] if missing else [])))


def _label(point: Point, with_engine: bool) -> str:
    engine = f" {plain(point.measurement.cell.engine)}" if with_engine else ""
    return f"{steps_label(point)}{variant(point)}{engine}"


def _entry(point: Point, name: str) -> str:
    value = point.value(name)
    return MISSING if value is None else format_point(name, value)


def _peaks(stored: StoredRun) -> tuple[tuple[str, ...], ...]:
    """(what, burst, sustained, datasheet, ridge) of each peak; of the calibrations where the device has no record."""
    device = stored.run.device_peaks
    if device is None:
        return tuple(
            (
                f"matrix product {plain(peak.dtype)}, read {format_number(peak.read_b_s, 'B/s')}",
                MISSING, format_number(peak.matmul_flop_s, "FLOP/s"), MISSING,
                _ridge(peak.matmul_flop_s, peak.read_b_s),
            )
            for peak in stored.run.peaks
        )  # fmt: skip
    sheet = device.datasheet
    rates = sheet.matmul_flop_s if sheet else {}
    read = device.read
    rows = [
        (
            f"matrix product {plain(dtype)}", *_measured(peak, "FLOP/s", rates.get(dtype)),
            _ridge(peak.sustained, read.sustained) if read else MISSING,
        )
        for dtype, peak in device.matmul.items()
    ]  # fmt: skip
    for name, each in (("read", read), ("copy", device.copied)):
        if each is not None:
            rows.append((name, *_measured(each, "B/s", sheet.memory_b_s if sheet else None), MISSING))
    return tuple(rows)


def _absent(name: str) -> str:
    return name if name == "datasheet" else f"peak of {plain(name)}"


def _measured(peak: Peak, unit: str, stated: float | None) -> tuple[str, str, str]:
    numbers: Iterable[float | None] = (peak.burst, peak.sustained, stated)
    burst, sustained, sheet = (MISSING if x is None else format_number(x, unit) for x in numbers)
    return burst, sustained, sheet


def _ridge(flop_s: float, byte_s: float) -> str:
    """FLOP a byte from which on arithmetic, not memory, is the limit."""
    return f"{format_number(flop_s / byte_s, '1')} FLOP/B"
