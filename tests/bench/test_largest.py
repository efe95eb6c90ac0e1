"""The most that fits: the search itself, its boundaries on real predictions, and what a dry run tells of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlmbench.bench.estimate import memory_b
from dlmbench.bench.largest import MOST_ROWS, bisect_most, largest_fits, resized
from dlmbench.models.config import BackboneConfig
from dlmbench.models.pairs import Pair, SideSpec, load_pair
from dlmbench.profiles.record import Cell

PAIR = load_pair("8b")


def cell(side: str = "ar", **fields: Any) -> Cell:
    generator = "ar" if side == "ar" else "masked-diffusion"
    values = {"pair": "8b", "side": side, "generator": generator, "length": 1024, "prompt_length": 128, "batch": 32}
    return Cell(**(values | {"steps": 64 if side == "diffusion" else None, "dtype": "bfloat16"} | fields))


@given(limit=st.integers(1, 10**6), share=st.floats(0, 1.2))
def test_the_boundary_is_exact_and_few_are_tried(limit: int, share: float) -> None:
    boundary, tried = int(limit * share), []

    def fits(n: int) -> bool:
        assert 1 <= n <= limit
        tried.append(n)
        return n <= boundary

    assert bisect_most(fits, limit) == min(boundary, limit)
    assert len(tried) <= 2 * math.log2(limit + 1) + 3


@pytest.mark.parametrize("engine", ["eager", "cudagraph"])
@pytest.mark.parametrize("side", ["ar", "diffusion"])
@pytest.mark.parametrize("have", [20_000_000_000, 80_000_000_000])
def test_one_more_would_not_fit(side: str, engine: str, have: int) -> None:
    of = cell(side, engine=engine)
    (found,) = largest_fits([of], {"8b": PAIR}, "cuda", have)

    def need(batch: int, length: int) -> int:
        return memory_b(resized(of, batch, length), PAIR, "cuda")

    assert need(found.batch, of.length) <= have < need(found.batch + 1, of.length)
    assert found.batch_bound == "memory"
    if found.length:
        assert need(of.batch, found.length) <= have
    if found.length_bound == "memory":
        assert have < need(of.batch, found.length + 1)
    else:
        assert found.length == 8192 - 128  # all the positions of Llama 3


def test_the_limit_holds_for_all_cells_of_the_largest_shape() -> None:
    """Graphs take more than eager forwards: it is theirs; smaller shapes play no part."""
    cells = [cell("diffusion"), cell("diffusion", engine="cudagraph"), cell("diffusion", length=64, batch=1)]
    (together,) = largest_fits(cells, {"8b": PAIR}, "cuda", 80_000_000_000)
    (eager,), (graphs,) = (largest_fits([of], {"8b": PAIR}, "cuda", 80_000_000_000) for of in cells[:2])
    assert (together.batch, together.length) == (graphs.batch, graphs.length)
    assert together.cell.engine == "cudagraph"
    assert graphs.batch < eager.batch


def test_nothing_fits_where_the_weights_do_not() -> None:
    (found,) = largest_fits([cell()], {"8b": PAIR}, "cuda", 16_000_000_000)
    assert (found.batch, found.length) == (0, 0)
    assert largest_fits([cell()], {"8b": PAIR}, "cuda", None) == ()


def test_two_rows_may_fit_where_one_does_not() -> None:
    """A single row in float32 on a CPU is decoded from second layouts of the wide weights."""
    config = BackboneConfig(
        vocab_size=1000, hidden_size=512, intermediate_size=1376, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=8, head_dim=64,
    )  # fmt: skip
    pair = Pair(name="wide", ar=SideSpec(generator="ar", backbone=config),
                diffusion=SideSpec(generator="masked-diffusion", backbone=config))  # fmt: skip
    of = cell(pair="wide", dtype="float32", length=16, prompt_length=4, batch=1)
    needs = [memory_b(resized(of, batch, 16), pair, "cpu") for batch in (1, 2, 3)]
    assert needs[1] < needs[2] < needs[0]
    (found,) = largest_fits([of], {"wide": pair}, "cpu", needs[1])
    assert (found.batch, found.length) == (2, 0)


def test_a_search_without_end_says_so() -> None:
    (found,) = largest_fits([cell(length=16)], {"8b": PAIR}, "cuda", 10**16)
    assert (found.batch, found.batch_bound) == (MOST_ROWS, "search")
    assert (found.length, found.length_bound) == (8064, "positions")


def test_another_length_keeps_what_still_has_room() -> None:
    of = cell("diffusion", block_length=256)
    smaller = resized(of, 4, 32)
    assert (smaller.batch, smaller.length, smaller.steps, smaller.block_length) == (4, 32, 32, 32)
    larger = resized(of, 4, 2048)
    assert (larger.length, larger.steps, larger.block_length) == (2048, 64, 256)


def test_a_plan_for_a_gpu_that_is_not_here(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handles: Any
) -> None:
    """8B at L = 128 in rows of 32, in 80 GB: it fits, and how much more would is told; no time is."""
    monkeypatch.chdir(tmp_path)
    plan = ("run", "gpu", "--pair", "8b", "--lengths", "128", "--batches", "32", "--steps", "8", "--dry-run")
    outcome = command(*plan, "--device-memory", "80GB", "--json")
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert (document["device"], document["memory_available_b"]) == ("cuda", 80_000_000_000)
    assert document["duration_estimate_s"] is None
    cells = document["cells"]
    assert cells
    for each in cells:
        assert each["fits"]
        assert each["floor_latency_s"] is each["latency_estimate_s"] is None
        assert each["memory_estimate_b"] == int(sum(each["memory"].values())) > 16e9
    largest = {row["generator"]: row for row in document["largest"]}
    assert set(largest) == {"ar", "hf", "masked-diffusion"}
    assert all(row["largest_batch"] > 32 and row["largest_length"] > 128 for row in largest.values())
    assert largest["ar"]["memory"]["kv_b"] == 32 * (128 + 128) * 2 * 32 * 1024 * 2
    assert "what fits in 80.00 GB" in outcome.err
    assert max(map(len, outcome.err.splitlines())) <= 80
    assert handles.started == []
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_said(command: Callable[..., Any]) -> None:
    outcome = command("run", "quick", "--pair", "8b", "--lengths", "16", "--steps", "4", "--engine", "eager",
                      "--dry-run", "--device-memory", "16.0GiB", "--json")  # fmt: skip
    document = json.loads(outcome.out)
    assert document["memory_available_b"] == 16 << 30
    # The weights alone are 16.06 GB of 17.18; the context on the device takes another 0.94.
    assert {cell["fits"] for cell in document["cells"]} == {True}
    outcome = command("run", "quick", "--pair", "8b", "--lengths", "16", "--steps", "4", "--engine", "eager",
                      "--dry-run", "--device-memory", "17GB", "--json")  # fmt: skip
    document = json.loads(outcome.out)
    assert {cell["fits"] for cell in document["cells"]} == {False}
    assert all("GB too much" in cell["why"] for cell in document["cells"])
    assert [row["largest_batch"] for row in document["largest"]] == [0, 0]


@pytest.mark.parametrize("size", ["", "80", "GB", "0GB", "-1GB", "1e3GB", "nan", "80 GBs", "80kB", "0.0000001MB"])
def test_a_size_that_is_none_is_refused(command: Callable[..., Any], size: str) -> None:
    complaint = command("run", "quick", "--dry-run", "--device-memory", size).complaint
    assert "--device-memory" in complaint
    assert "80GB" in complaint


def test_a_plan_measures_nothing(command: Callable[..., Any], tmp_path: Path) -> None:
    complaint = command("run", "quick", "--device-memory", "80GB", "--out", tmp_path / "run").complaint
    assert "--dry-run" in complaint
    assert not (tmp_path / "run").exists()
    assert (
        "unknown device" in command("run", "quick", "--dry-run", "--device-memory", "8GB", "--device", "tpu").complaint
    )
