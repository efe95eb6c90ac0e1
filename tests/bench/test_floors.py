"""The table of floors: a row follows from its forwards and the device's rates, and any width shows it whole."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from dlmbench.bench.floors import FloorRow, Rates, floor_rows, show_floors
from dlmbench.bench.forecast import Announced, Forecast
from dlmbench.bench.options import RunOptions
from dlmbench.bench.plan import Plan, make_plan
from dlmbench.models.costs import Cost
from dlmbench.profiles.record import Cell

RATES = {("small", "float32"): Rates(flop_s=1e9, byte_s=1e8)}
STEP = Announced("target", "decode", 1, 1, 33, 1, "causal")


def known(cell: Cell) -> Forecast:
    """AR: 2 MFLOP and 1 MB a token, so memory decides: 10 ms. Diffusion: 50 MFLOP and 1 MB a step: 50 ms."""
    if cell.side == "ar":
        return Forecast(((STEP, cell.length, Cost(2e6, 1e6)),))
    assert cell.steps is not None
    return Forecast(((STEP._replace(phase="denoise"), cell.steps, Cost(5e7, 1e6)),), drawn=cell.steps == 8)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(RunOptions(suite="quick", pairs=("small",), lengths=(16,), steps=("8", "4"), device="cpu"))


def shown(rows: list[FloorRow], width: int = 100) -> str:
    out = io.StringIO()
    show_floors(rows, RATES, Console(file=out, width=width))
    return out.getvalue()


def test_a_row_for_each_shape_and_each_way_to_run_it_not_for_each_engine(plan: Plan) -> None:
    rows = floor_rows(plan, known, RATES)
    labels = [(row.shape[3], row.label) for row in rows]
    assert labels == [(1, "AR"), (1, "T = 8"), (1, "T = 4"), (8, "AR"), (8, "T = 8"), (8, "T = 4")]
    assert sum(len(pairing.cells) for pairing in plan.pairings) == 2 * len(rows)


def test_floor_ceiling_and_limit_by_hand(plan: Plan) -> None:
    ar, eight, four = floor_rows(plan, known, RATES)[:3]
    assert ar.floor_s == pytest.approx(16 * 0.010)
    assert eight.floor_s == pytest.approx(8 * 0.050)
    assert (ar.memory_share, four.memory_share) == (1.0, 0.0)
    lines = shown([ar, eight, four]).splitlines()
    line = next(line for line in lines if line.startswith("AR"))
    # 16 tokens in 160 ms.
    assert line.split("  ")[0] == "AR"
    assert "memory" in line
    assert "160 ms" in line
    assert "100 tok/s" in line
    assert "~8" in next(line for line in lines if line.startswith("T = 8"))
    assert "arithmetic" in next(line for line in lines if line.startswith("T = 4"))


def test_the_unknown_is_said_with_its_reason(plan: Plan) -> None:
    rows = floor_rows(plan, lambda cell: Forecast(why="nobody knows") if cell.steps == 4 else known(cell), RATES)
    text = shown(rows)
    assert "— T = 4: nobody knows" in text
    assert rows[2].floor_s is None


def test_a_dtype_without_peaks_has_work_but_no_floor(plan: Plan) -> None:
    row = floor_rows(plan, known, {})[0]
    assert row.floor_s is None
    assert "32.0 MFLOP" in shown([row])


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_number_is_cut_at_any_width(plan: Plan, width: int) -> None:
    text = shown(floor_rows(plan, known, RATES), width)
    assert "…" not in text
    assert text.count("tok/s") == 6
