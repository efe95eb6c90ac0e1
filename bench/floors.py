"""What physics allows, told before anything is measured: the floor and ceiling of every cell of a plan.

A cell's floor is the time that the arithmetic and the traffic of its forwards take at the device's peaks, with nothing
else; what is then measured stands beside it in the results. Engines and kernels launch the same forwards: one row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from ..profiles.record import Cell
from ..reports.format import MISSING, format_number
from ..reports.grid import GridColumn, draw
from ..reports.plain import plain
from ..reports.rows import shape_title
from .forecast import Forecast
from .plan import Plan


@dataclass(frozen=True, slots=True)
class Rates:
    """What a device sustains: matrix products (FLOP/s) and reads (B/s)."""

    flop_s: float
    byte_s: float


@dataclass(frozen=True, slots=True)
class FloorRow:
    """One line: the cells of a shape that run the same forwards."""

    shape: tuple[str, int, int, int]
    label: str
    output_tokens: int
    forecast: Forecast
    floor_s: float | None
    memory_share: float | None


def floor_rows(plan: Plan, forecast: Callable[[Cell], Forecast], rates: Mapping[str, Rates]) -> list[FloorRow]:
    """A row for each label of each shape, in the plan's order; `rates` are by dtype."""
    rows: dict[tuple[object, ...], FloorRow] = {}
    for cell in (cell for pairing in plan.pairings for cell in pairing.cells):
        label = _label(cell, plan)
        key = (*cell.shape, cell.dtype, label)
        if key in rows:
            continue
        expected, rate = forecast(cell), rates.get(cell.dtype)
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


def show_floors(rows: list[FloorRow], rates: Mapping[str, Rates], console: Console) -> None:
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
        f"{dtype} {format_number(rate.flop_s, 'FLOP/s')}, {format_number(rate.byte_s, 'B/s')}"
        for dtype, rate in rates.items()
    )
    draw(console, columns, lines, f"At the peaks of this device: {told}. A forward takes its slower resource's time.")
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
