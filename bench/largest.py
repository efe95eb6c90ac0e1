"""The most that a device holds: for each generator of a plan the largest batch, and the largest L, that still fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.text import Text

from ..models.pairs import Pair
from ..profiles.hardware import MemorySplit
from ..profiles.record import Cell
from ..reports.grid import GridColumn, draw
from ..reports.plain import plain
from .memory_plan import Shapes, predicted_memory

MOST_ROWS = 1 << 16
_PARTS = ("weights_b", "kv_b", "logits_b", "activations_b", "rest_b")


@dataclass(frozen=True, slots=True)
class Largest:
    """What fits of the cells like `cell`, which is the one of the plan's largest shape that takes most: `split`.

    `batch` at the same L, `length` at the same batch; 0: not even one. Each is bounded by the memory, or by what the
    network (its positions) or this search (`MOST_ROWS`) allows.
    """

    cell: Cell
    split: MemorySplit
    batch: int
    batch_bound: Literal["memory", "search"]
    length: int
    length_bound: Literal["memory", "positions"]

    def document(self) -> dict[str, object]:
        """As plain data."""
        cell = self.cell
        return {
            "pair": cell.pair,
            "side": cell.side,
            "generator": cell.generator,
            "dtype": cell.dtype,
            "prompt_length": cell.prompt_length,
            "length": cell.length,
            "batch": cell.batch,
            "key": cell.key,
            "memory_b": self.split.total_b,
            "memory": self.split.model_dump(),
            "largest_batch": self.batch,
            "largest_batch_bound": self.batch_bound,
            "largest_length": self.length,
            "largest_length_bound": self.length_bound,
        }


def largest_fits(
    cells: Sequence[Cell], pairs: Mapping[str, Pair], device: str, have_b: int | None
) -> tuple[Largest, ...]:
    """One for each pair, generator and dtype: of whatever else its cells differ in (engine, T, cache, …), all fit.

    `have_b` None: how much memory there is nobody knows, so that nothing can be said.
    """
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.pair, cell.generator, cell.dtype), []).append(cell)
    return () if have_b is None else tuple(_largest(g, pairs[g[0].pair], device, have_b) for g in groups.values())


def _largest(cells: Sequence[Cell], pair: Pair, device: str, have_b: int) -> Largest:
    def split(cell: Cell) -> MemorySplit:
        return predicted_memory(cell, Shapes.of(cell, pair), device)

    # The longest, of these the ones with the most rows; they differ in what has no size.
    widest = max((cell.prompt_length + cell.length, cell.batch) for cell in cells)
    kinds = [cell for cell in cells if (cell.prompt_length + cell.length, cell.batch) == widest]
    most = max(kinds, key=lambda cell: split(cell).total_b)
    positions = min(side.backbone.max_position_embeddings for side in (pair.ar, pair.diffusion))
    longest = max(positions - most.prompt_length, most.length)

    def all_fit(batch: int, length: int) -> bool:
        return all(split(resized(cell, batch, length)).total_b <= have_b for cell in kinds)

    # A single row keeps second layouts of the weights (see `models.linear`), which can take more than rows do.
    beyond_one = bisect_most(lambda n: all_fit(1 + n, most.length), MOST_ROWS - 1)
    batch = 1 + beyond_one if beyond_one else int(all_fit(1, most.length))
    length = bisect_most(lambda n: all_fit(most.batch, n), longest)
    return Largest(
        most,
        split(most),
        batch,
        "memory" if batch < MOST_ROWS else "search",
        length,
        "memory" if length < longest else "positions",
    )


def resized(cell: Cell, batch: int, length: int) -> Cell:
    """The cell with other sizes; T and the block length stay as they are, but for an L that has no room for them."""
    steps = None if cell.steps is None else min(cell.steps, length)
    block = None if cell.block_length is None else min(cell.block_length, length)
    return cell.model_copy(update={"batch": batch, "length": length, "steps": steps, "block_length": block})


def bisect_most(fits: Callable[[int], bool], limit: int) -> int:
    """The largest n of 1 … `limit` that fits, 0 if none does; above one that does not fit, none does."""
    fitting, failing = 0, limit + 1
    step = 1
    while fitting + step < failing and fits(fitting + step):
        fitting += step
        step *= 2
    failing = min(failing, fitting + step)
    while failing - fitting > 1:
        middle = (fitting + failing) // 2
        fitting, failing = (middle, failing) if fits(middle) else (fitting, middle)
    return fitting


def show_largest(found: Sequence[Largest], have_b: int, console: Console) -> None:
    """Print the table: the largest shape's memory by part, and the most that fits."""
    if not found:
        return
    console.print(Text(f"what fits in {have_b / 1e9:.2f} GB", style="bold"))
    columns = [GridColumn("GB of the plan's largest shape", words=True)]
    columns += [GridColumn(name) for name in ("weights", "KV", "logits", "activ.", "rest", "sum")]
    columns += [GridColumn("batch ≤"), GridColumn("L ≤")]
    lines: list[list[Text] | str] = []
    shape = None
    for row in found:
        cell = row.cell
        if shape != (cell.pair, cell.prompt_length, cell.length, cell.batch, cell.dtype):
            shape = (cell.pair, cell.prompt_length, cell.length, cell.batch, cell.dtype)
            lines.append(
                f"{plain(cell.pair)}, {cell.dtype}, prompt {cell.prompt_length}, L = {cell.length}, batch {cell.batch}"
            )
        parts = [getattr(row.split, name) for name in _PARTS]
        numbers = [Text(_gigabytes(part)) for part in (*parts, row.split.total_b)]
        numbers[-1].stylize("" if row.split.total_b <= have_b else "yellow")
        batch = f"{row.batch:,}{'+' if row.batch_bound == 'search' else ''}"
        length = f"{row.length:,}{'*' if row.length_bound == 'positions' else ''}"
        lines.append([Text(plain(cell.generator)), *numbers, Text(batch), Text(length)])
    notes = [
        (
            "Each limit leaves the other sizes as they are, and holds for every engine, T and cache of the plan. "
            "Predicted from shapes: an allocator wants some per cent more."
        )
    ]
    if any(row.length_bound == "positions" for row in found):
        notes.append("* all the positions that the pair's networks have.")
    if any(row.batch_bound == "search" for row in found):
        notes.append("+ or more.")
    draw(console, columns, lines, " ".join(notes))


def _gigabytes(size: float) -> str:
    """Two decimals, three of what is small; nothing is 0 alone."""
    return f"{size / 1e9:.{2 if size >= 1e8 else 3}f}" if size else "0"
