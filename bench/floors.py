"""What physics allows, told before anything is measured: the floor and ceiling of every cell of a plan.

A cell's floor is the time that the arithmetic and the traffic of its forwards take at the device's peaks, with nothing
else; what is then measured stands beside it in the results. Engines and kernels launch the same forwards: one row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from ..profiles.hardware import DevicePeaks
from ..profiles.record import Cell
from ..reports.format import MISSING, format_number
from ..reports.grid import GridColumn, draw
from ..reports.plain import plain
from ..reports.rows import shape_title
from .estimate import config_of
from .forecast import Forecast, Forecaster
from .plan import Plan


@dataclass(frozen=True, slots=True)
class Rates:
    """What a device sustains: matrix products (FLOP/s) and reads (B/s)."""

    flop_s: float
    byte_s: float


RatesOf = Mapping[tuple[str, str], Rates]  # by pair and dtype: what is read from a cache depends on the weights' size


def rates_now(plan: Plan, peaks: DevicePeaks | None) -> dict[tuple[str, str], Rates]:
    """What the plan's device sustains for each pair and dtype.

    On a GPU its peaks, where they are known. On a CPU small weights are read from a cache, so that each pair's read is
    timed here and now, in this process, with the plan's threads: some tenths of a second for each.
    """
    import torch

    from ..profiles.calibration import Calibrator
    from ..profiles.clocks import clock_for

    torch.set_num_threads(plan.threads)
    found = {}
    for pair, dtype in dict.fromkeys((cell.pair, cell.dtype) for part in plan.pairings for cell in part.cells):
        product = None if peaks is None else peaks.matmul.get(dtype)
        if peaks is not None and plan.device != "cpu":
            if peaks.read is not None and product is not None:
                found[pair, dtype] = Rates(product.sustained, peaks.read.sustained)
            continue
        cells = [cell for part in plan.pairings for cell in part.cells if (cell.pair, cell.dtype) == (pair, dtype)]
        weights = max(config_of(cell, plan.pairs[pair]).weight_bytes(dtype) for cell in cells)
        now = Calibrator(plan.device, dtype, clock_for(plan.device), weights, product).measure()
        flop_s = now.matmul_flop_s if product is None else max(product.sustained, now.matmul_flop_s)
        found[pair, dtype] = Rates(flop_s, now.read_b_s)
    return found


def show_what_physics_allows(plan: Plan, peaks: DevicePeaks | None, console: Console) -> None:
    """The whole table, from a plan and the device's peaks; without these a GPU's floors are not known.

    The workers have the GPU to themselves: this process must not take memory on it to measure.
    """
    known = plan.device == "cpu" or (peaks is not None and peaks.read is not None and bool(peaks.matmul))
    rates = rates_now(plan, peaks) if known else {}
    show_floors(floor_rows(plan, Forecaster(plan), rates), rates, console)


@dataclass(frozen=True, slots=True)
class FloorRow:
    """One line: the cells of a shape that run the same forwards."""

    shape: tuple[str, int, int, int]
    label: str
    output_tokens: int
    forecast: Forecast
    floor_s: float | None
    memory_share: float | None


def floor_rows(plan: Plan, forecast: Callable[[Cell], Forecast], rates: RatesOf) -> list[FloorRow]:
    """A row for each label of each shape, in the plan's order."""
    rows: dict[tuple[object, ...], FloorRow] = {}
    for cell in (cell for pairing in plan.pairings for cell in pairing.cells):
        label = _label(cell, plan)
        key = (*cell.shape, cell.dtype, label)
        if key in rows:
            continue
        expected, rate = forecast(cell), rates.get((cell.pair, cell.dtype))
        known = expected.why is None and rate is not None
        rows[key] = FloorRow(
            cell.shape,
            label,
            cell.batch * cell.length,
            expected,
            expected.floor_s(rate.flop_s, rate.byte_s) if known and rate else None,
            expected.memory_share(rate.flop_s, rate.byte_s) if known and rate else None,
        )
    return list(rows.values())


def show_floors(rows: list[FloorRow], rates: RatesOf, console: Console) -> None:
    """Print the table; a cell that nobody can foretell says why below it."""
    console.print(Text("what physics allows, before anything is measured", style="bold"))
    columns = [
        GridColumn("cell", words=True),
        GridColumn("forwards"),
        GridColumn("FLOPs"),
        GridColumn("traffic"),
        GridColumn("limited by", right=False),
        GridColumn("floor"),
        GridColumn("ceiling"),
    ]
    lines: list[list[Text] | str] = []
    shape = None
    for row in rows:
        if row.shape != shape:
            shape = row.shape
            lines.append(f"{plain(shape[0])}, {shape_title(shape)}")
        lines.append([Text(text) for text in _cells(row)])
    told = "; ".join(
        f"{plain(pair)} {dtype} {format_number(rate.flop_s, 'FLOP/s')}, {format_number(rate.byte_s, 'B/s')}"
        for (pair, dtype), rate in rates.items()
    )
    note = f"At what this device sustains: {told}. A forward takes its slower resource's time."
    draw(console, columns, lines, note if rates else "No peak of this device is known: no floor can be told.")
    unknown = {row.forecast.why: plain(row.label) for row in rows if row.forecast.why is not None}
    for why, label in unknown.items():
        console.print(Text(f"{MISSING} {label}: {plain(why)}", style="dim"), soft_wrap=True)


def _cells(row: FloorRow) -> list[str]:
    expected = row.forecast
    if expected.why is not None:
        return [plain(row.label), *[MISSING] * 6]
    counted = [
        plain(row.label),
        f"{'~' if expected.drawn else ''}{expected.nfe}",
        format_number(expected.flops, "FLOP"),
        format_number(expected.bytes, "B"),
    ]
    if row.floor_s is None or row.memory_share is None:
        return [*counted, *[MISSING] * 3]
    limit = "memory" if row.memory_share > 0.5 else "arithmetic"
    return [
        *counted, limit, format_number(row.floor_s, "s"), format_number(row.output_tokens / row.floor_s, "tok/s")
    ]  # fmt: skip


def _label(cell: Cell, plan: Plan) -> str:
    """`AR`, `T = 16`, `T = 16 (fast-dllm, block 16, dual)`: the side and what its forwards follow from."""
    pair = plan.pairs[cell.pair]
    own = pair.ar.generator if cell.side == "ar" else pair.diffusion.generator
    decode = cell.decode
    parts = [
        *([cell.generator] if cell.generator != own else []),
        *([decode.sampler] if decode.sampler else []),
        *([f"block {cell.block_length}"] if cell.block_length not in (None, cell.length) else []),
        *([cell.cache] if cell.cache else []),
        *([f"threshold {decode.threshold:g}"] if decode.threshold is not None else []),
        *([f"schedule {decode.commit_schedule.source}"] if decode.commit_schedule else []),
        *([f"guidance {decode.cfg_scale:g}"] if decode.cfg_scale else []),
        *([cell.dtype] if len({c.dtype for p in plan.pairings for c in p.cells}) > 1 else []),
    ]
    name = "AR" if cell.side == "ar" else f"T = {cell.steps}" if cell.steps else "diffusion"
    return f"{name} ({', '.join(parts)})" if parts else name
