"""What a line through three T says for T = L: by hand, only where asked, and never from too little."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dlmbench.profiles.record import Cell, Measurement, Value
from dlmbench.profiles.store import StoredRun
from dlmbench.reports.extrapolation import extrapolations
from dlmbench.reports.markdown import write_summary


def measured(steps: int, latency_s: float, length: int = 128) -> Measurement:
    cell = Cell(pair="small", side="diffusion", generator="masked-diffusion", length=length, steps=steps, batch=2)
    return Measurement(cell=cell, key=cell.key, status="ok", metrics={"latency_s": Value(value=latency_s, n=1)})


def run_of(stored: StoredRun, *cells: Measurement, asked: bool = True) -> StoredRun:
    settings = {**stored.run.settings, "extrapolate": asked}
    return replace(stored, run=stored.run.model_copy(update={"settings": settings}), measurements=cells)


def test_a_line_is_carried_on_to_as_many_steps_as_tokens(study: StoredRun) -> None:
    found = extrapolations(run_of(study, *(measured(t, 0.1 + 0.02 * t) for t in (8, 16, 32))))
    assert len(found) == 1
    assert found[0].latency_s == pytest.approx(0.1 + 0.02 * 128)
    assert found[0].step_s == pytest.approx(0.02)
    assert found[0].misfit == pytest.approx(0, abs=1e-9)
    assert found[0].row[4] == "96.2 tok/s"  # 2 x 128 tokens in 2.66 s


def test_a_bend_shows_as_misfit(study: StoredRun) -> None:
    (found,) = extrapolations(run_of(study, measured(8, 0.2), measured(16, 0.5), measured(32, 0.8)))
    assert found.misfit > 0.05


@pytest.mark.parametrize(
    "cells",
    [
        (measured(8, 0.2), measured(16, 0.4)),
        (measured(8, 0.2), measured(16, 0.4), measured(128, 3.0)),
        (measured(8, 0.4), measured(16, 0.3), measured(32, 0.2)),
    ],
    ids=["two T", "T = L was measured", "falling"],
)
def test_nothing_is_made_up(study: StoredRun, cells: tuple[Measurement, ...]) -> None:
    assert extrapolations(run_of(study, *cells)) == ()


def test_only_runs_that_ask_for_it(study: StoredRun) -> None:
    cells = [measured(t, 0.1 + 0.02 * t) for t in (8, 16, 32)]
    assert extrapolations(run_of(study, *cells, asked=False)) == ()


def test_the_summary_says_that_it_was_not_measured(study: StoredRun, tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    write_summary(run_of(study, *(measured(t, 0.1 + 0.02 * t) for t in (8, 16, 32))), path)
    assert "Extrapolated, not measured" in path.read_text()
