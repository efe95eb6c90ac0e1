"""Block lengths from AR to full diffusion: which cells make a line, and what is said of those that make none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dlmbench.profiles.record import Cell, CommitSchedule, Decode, Measurement, Value
from dlmbench.profiles.store import StoredRun
from dlmbench.reports.fig_blocks import aligned, blocks_figure, line_name, lines
from dlmbench.reports.plotting import Figure, style
from dlmbench.reports.study import Point, Study

Synthetic = Callable[..., StoredRun]
SHAPE = ("small", 32, 16, 1)


@pytest.fixture(scope="module")
def blocked(synthetic_run: Synthetic, tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    return synthetic_run(tmp_path_factory.mktemp("blocked"), blocks=(1, 2, 4, 8, 16))


def cell(steps: int | None, block: int, generator: str = "block-diffusion", prompt: int = 32, **decode: Any) -> Cell:
    return Cell(
        pair="small", side="diffusion", generator=generator, length=16, steps=steps, block_length=block,
        prompt_length=prompt, decode=Decode(**decode),
    )  # fmt: skip


def measured(of: Cell, rate: float) -> Measurement:
    """A cell of 16 tokens at `rate` tok/s, with an interval of a tenth around it."""
    metrics = {
        "latency_s": Value(value=16 / rate),
        "throughput_tok_s": Value(value=rate, low=0.9 * rate, high=1.1 * rate, n=3),
    }
    return Measurement(cell=of, key=of.key, status="ok", metrics=metrics)


def draw(stored: StoredRun, folder: Path) -> Figure:
    with style():
        return blocks_figure(Study(stored), folder)


def of_cells(study: StoredRun, *cells: Measurement) -> StoredRun:
    return replace(study, trials=(), measurements=cells)


def test_a_line_holds_the_block_lengths_that_one_number_of_tokens_a_step_fits_into(blocked: StoredRun) -> None:
    found = lines(Study(blocked).blocks(SHAPE))
    assert {name: [point.block for point in line] for name, line in found.items()} == {
        "1 token a step": [1, 2, 4, 8, 16],
        "2 tokens a step": [2, 4, 8, 16],
        "4 tokens a step": [4, 8, 16],
    }
    assert [line[0].steps for line in found.values()] == [16, 8, 4]


def test_other_diffusion_is_on_no_line(blocked: StoredRun) -> None:
    points = Study(blocked).blocks(SHAPE)
    assert {point.measurement.cell.generator for point in points} == {"block-diffusion"}
    assert len(points) == 12


def test_of_two_engines_the_faster_makes_the_point() -> None:
    slow, fast = cell(16, 1), cell(16, 1).model_copy(update={"engine": "compile"})
    rest = [measured(cell(16, block), 50) for block in (2, 4)]
    for order in ((slow, fast), (fast, slow)):
        stored = [measured(c, 90 if c is fast else 40) for c in order]
        study = Study(StoredRun(Path(), SimpleNamespace(pairs=()), (), (*stored, *rest)))  # type: ignore[arg-type]
        (line,) = lines(study.blocks(SHAPE)).values()
        assert [point.measurement.cell.engine for point in line] == ["compile", "eager", "eager"]


def test_two_block_lengths_are_no_line() -> None:
    points = [Point(measured(cell(16, block), 50)) for block in (1, 2)]
    assert lines(points) == {}


@pytest.mark.parametrize(
    ("of", "name"),
    [
        (cell(16, 1), "1 token a step"),
        (cell(4, 8), "4 tokens a step"),
        (cell(12, 4), "T = 12"),  # 16 tokens in 12 steps: some commit two
        (cell(32, 16, idle_steps="run"), "T = 32"),
        (cell(8, 4, "sdar"), "T ≤ 8"),  # its own sampler commits what it is sure of, at least two a step
        (cell(8, 4, "sdar", sampler="sequential"), "2 tokens a step"),
        (cell(8, 4, "sdar", commit_schedule=CommitSchedule(source="even", rows=((2,) * 8,))), "2 tokens a step"),
        (cell(8, 4, "sdar", commit_schedule=CommitSchedule(source="constant:4", rows=((4,) * 4,))), "constant:4"),
        (cell(None, 4, "sdar", sampler="entropy_bounded"), "T by the data"),
        (cell(None, 4, "bd3lm"), "1 token a step"),  # first hitting: a forward for each token
    ],
)
def test_a_line_is_named_by_what_its_cells_share(of: Cell, name: str) -> None:
    assert line_name(of) == name


def test_a_block_that_the_prompt_begins_is_left_out_and_named(study: StoredRun, tmp_path: Path) -> None:
    # After a prompt of 8 a block of 16 ends after 8 new tokens: two blocks for L = 16, which is not full diffusion.
    cells = [measured(cell(16, block, prompt=8), 100) for block in (1, 2, 4, 8, 16)]
    assert [aligned(Point(m)) for m in cells] == [True, True, True, True, False]
    figure = draw(of_cells(study, *cells), tmp_path)
    assert "prompt and new tokens share a block: block length 16 after a prompt of 8." in figure.caption
    assert "block 16" not in figure.alt
    assert "full diffusion)" not in figure.sentence


def test_the_sentence_has_both_ends_the_best_and_ar(study: StoredRun, tmp_path: Path) -> None:
    ar = Cell(pair="small", side="ar", generator="ar", length=16)
    rates = {(16, 1): 100, (16, 4): 400, (16, 16): 50, (4, 4): 900, (4, 8): 800, (4, 16): 200}
    cells = [measured(cell(steps, block), rate) for (steps, block), rate in rates.items()]
    assert draw(of_cells(study, measured(ar, 300), *cells), tmp_path).sentence == (
        "At 1 token a step block diffusion makes 100 tok/s at block length 1, 400 tok/s at block length 4 (the best), "
        "50 tok/s at block length 16 (full diffusion); at 4 tokens a step block diffusion makes 900 tok/s at block "
        "length 4 (the best), 200 tok/s at block length 16 (full diffusion); AR makes 300 tok/s."
    )


def test_lines_intervals_and_ar_are_drawn_and_owe_the_reader_nothing(blocked: StoredRun, tmp_path: Path) -> None:
    figure = draw(blocked, tmp_path)
    assert figure.skipped is None
    assert (tmp_path / "blocks.png").read_bytes().startswith(b"\x89PNG")
    for text in ("1 token a step", "2 tokens a step", "4 tokens a step", ">AR<", "block length"):
        assert text in figure.svg
    for fact in ("Example CPU, 4 cores", "float32", "engine eager", "n = 5 processes", "not the AR model", "stores"):
        assert fact in figure.caption
    assert figure.caption.endswith("Intervals: 95 % confidence over processes.")


def test_samplers_have_panels_of_their_own(study: StoredRun, tmp_path: Path) -> None:
    cells = [
        measured(cell(16, block, sampler=sampler), 100) for sampler in (None, "sequential") for block in (1, 4, 16)
    ]
    figure = draw(of_cells(study, *cells), tmp_path)
    assert figure.svg.count("<svg ") == 2
    assert "block-diffusion, tok/s, L = 16, batch 1" in figure.svg
    assert "sequential, tok/s, L = 16, batch 1" in figure.svg
    assert "AR makes" not in figure.sentence, "no AR cell was measured"


def test_panels_beyond_the_page_are_counted(study: StoredRun, tmp_path: Path) -> None:
    cells = [
        measured(cell(16, block).model_copy(update={"batch": batch}), 100)
        for batch in range(1, 9)
        for block in (1, 4, 16)
    ]
    assert "2 more panels are left to the table." in draw(of_cells(study, *cells), tmp_path).caption


def test_without_block_diffusion_the_reader_is_told_what_measures_it(study: StoredRun, tmp_path: Path) -> None:
    assert "`dlmbench run continuum`" in (draw(study, tmp_path).skipped or "")
    assert list(tmp_path.iterdir()) == []


def test_too_few_block_lengths_are_named(study: StoredRun, tmp_path: Path) -> None:
    cells = [measured(cell(16, block), 100) for block in (1, 4)] + [measured(cell(8, 4), 100)]
    assert draw(of_cells(study, *cells), tmp_path).skipped == (
        "A line needs 3 block lengths at one number of tokens a step; this run measured 1 at 1 token a step, 4 at 1 "
        "token a step, 4 at 2 tokens a step."
    )
