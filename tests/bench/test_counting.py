"""The work of cells, counted: against arithmetic by hand and against the forecast, which never sees the network."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlmbench.bench.counting import Counting
from dlmbench.bench.forecast import Forecaster
from dlmbench.bench.opened import WorkDiffersError
from dlmbench.bench.options import RunOptions
from dlmbench.bench.plan import Plan, make_plan
from dlmbench.profiles.record import Cell

MINE = """
import torch

class Mine:
    side = "ar"
    def __init__(self, context):
        self.network = context.network()
    def prepare(self, shape, settings):
        pass
    def generate(self, request, observer):
        ids = torch.zeros((request.prompt_ids.shape[0], {width}), dtype=torch.int64)
        for i in range({width}):
            with observer.forward("target", "decode", 1, 7 + {extra}, 7, 1, "causal"):
                pass
            observer.write(None, ids[:, i : i + 1], i, offset=i)
        return ids
"""


def plan_of(*generators: str, **options: object) -> Plan:
    return make_plan(RunOptions(suite="ci", device="cpu", generators=generators, **options))


def cell_of(plan: Plan, generator: str) -> Cell:
    (found,) = [cell for pairing in plan.pairings for cell in pairing.cells if cell.generator == generator]
    return found


def mine(tmp_path: Path, width: str = "request.length", extra: str = "0") -> str:
    path = tmp_path / "mine.py"
    path.write_text(MINE.format(width=width, extra=extra))
    return f"{path}:Mine"


def test_by_hand_and_as_forecast() -> None:
    """AR: the prompt of 32 in one forward gives the first token, and each of the other three takes one of its own.
    Two denoising steps see prompt and canvas, 36 positions each."""
    plan = plan_of()
    count, forecast = Counting(plan), Forecaster(plan)
    ar, diffusion = cell_of(plan, "ar"), cell_of(plan, "masked-diffusion")
    works = {cell.side: count.work(cell) for cell in (ar, diffusion)}
    assert (works["ar"]["nfe"], works["ar"]["forward_tokens"], works["ar"]["output_tokens"]) == (4, 35, 4)
    assert (works["diffusion"]["nfe"], works["diffusion"]["forward_tokens"]) == (2, 72)
    for cell in (ar, diffusion):
        found = forecast(cell)
        assert (works[cell.side]["model_flops"], works[cell.side]["model_bytes"]) == (found.flops, found.bytes)


def test_what_draws_or_data_decide_is_left_out() -> None:
    """SEDD computes logits for what is still masked, which is drawn, in T steps and one that removes the last noise.
    How many of a draft are accepted, the data say."""
    plan = plan_of(pairs=("small-sedd",), lengths=(16,), steps=("8",))
    drawn = Counting(plan).work(cell_of(plan, "sedd"))
    assert (drawn["nfe"], drawn["forward_tokens"]) == (9, 9 * 48)
    assert "model_flops" not in drawn
    plan = plan_of("speculative", lengths=(16,), steps=("8",), block_lengths=("4",))
    assert set(Counting(plan).work(cell_of(plan, "speculative"))) == {"output_tokens", "canvas_tokens"}


def test_a_generator_of_ones_own_counts_what_it_announces(tmp_path: Path) -> None:
    name = mine(tmp_path)
    plan = plan_of(name)
    assert Counting(plan).work(cell_of(plan, name)) == {
        "output_tokens": 4, "canvas_tokens": 4, "nfe": 4, "draft_nfe": 0, "forward_tokens": 28,
    }  # fmt: skip


def test_what_differs_between_seeds_is_no_fact_of_the_code(tmp_path: Path) -> None:
    name = mine(tmp_path, extra="request.seed")
    plan = plan_of(name)
    assert set(Counting(plan).work(cell_of(plan, name))) == {"output_tokens", "canvas_tokens", "nfe", "draft_nfe"}


def test_a_broken_contract_is_said(tmp_path: Path) -> None:
    name = mine(tmp_path, width="request.length - 1")
    plan = plan_of(name)
    with pytest.raises(WorkDiffersError, match=r"returned tokens \(1, 3\), expected \(1, 4\)"):
        Counting(plan).work(cell_of(plan, name))
