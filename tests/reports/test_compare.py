"""Runs side by side: the arithmetic of a change, and what is said about what cannot be compared."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from dlmbench import InputError
from dlmbench.profiles.record import Cell, Measurement, Reason, Value
from dlmbench.profiles.store import StoredRun
from dlmbench.reports.compare import change, compare_runs, show_comparison
from dlmbench.reports.format import format_interval, format_point

Synthetic = Callable[..., StoredRun]


def over_processes(value: float, low: float, high: float, level: float | None = 0.95) -> Value:
    return Value(value=value, low=low, high=high, n=5, level=level)


def shown(runs: list[StoredRun], width: int) -> str:
    file = io.StringIO()
    show_comparison(compare_runs(runs), Console(file=file, width=width))
    return file.getvalue()


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_symmetric_intervals_add_as_squares_on_the_log_scale() -> None:
    # Both half-widths are ln 1.25 = 0.22314, so the half-width of the log-ratio is 0.22314 * sqrt 2 = 0.31557.
    # Ratio 2: 2 * exp(-0.31557) = 1.45875 and 2 * exp(0.31557) = 2.74208.
    found = change(over_processes(10, 8, 12.5), over_processes(20, 16, 25))
    assert found.percent == pytest.approx(100)
    assert found.low == pytest.approx(45.875, abs=0.01)
    assert found.high == pytest.approx(174.208, abs=0.01)
    assert found.level == 0.95


def test_a_certain_side_adds_nothing_and_asymmetry_is_kept() -> None:
    # 10 is certain. Against it, 20 in [16, 40] is a ratio in [1.6, 4]; 10 against that is one in [10/40, 10/16].
    certain, loose = over_processes(10, 10, 10), over_processes(20, 16, 40)
    up, down = change(certain, loose), change(loose, certain)
    assert (up.low, up.high) == (pytest.approx(60), pytest.approx(300))
    assert (down.percent, down.low, down.high) == (pytest.approx(-50), pytest.approx(-75), pytest.approx(-37.5))


@pytest.mark.parametrize(
    ("base", "other", "why"),
    [
        (over_processes(10, 9, 11), over_processes(20, 19, 21, level=None), "no confidence level"),
        (over_processes(10, 9, 11, level=None), over_processes(20, 19, 21), "no confidence level"),
        (over_processes(10, 9, 11), over_processes(20, 19, 21, level=0.99), "95 % confidence against 99 % confidence"),
        (over_processes(10, -1, 11), over_processes(20, 19, 21), "reaches 0"),
    ],
)
def test_a_change_without_two_process_intervals_has_no_interval(base: Value, other: Value, why: str) -> None:
    found = change(base, other)
    assert found.percent == pytest.approx(100)
    assert (found.low, found.high, found.level) == (None, None, None)
    assert found.why is not None
    assert why in found.why


def test_no_change_is_computed_from_nothing() -> None:
    assert change(Value(value=None, why="x"), over_processes(1, 1, 2)).percent is None
    assert change(Value(value=0.0), over_processes(1, 1, 2)).percent is None


def test_cells_are_joined_by_key_and_gaps_are_listed(study: StoredRun) -> None:
    first, second = study.measurements[0], study.measurements[1]
    failed = Measurement(
        cell=second.cell, key=second.key, status="failed", reason=Reason(code="out_of_memory", message="too big")
    )
    found = compare_runs([replace(study, measurements=(first, second)), replace(study, measurements=(failed, first))])
    assert [cell.key for cell in found.cells] == [first.key]
    assert [(cell.key, cell.states) for cell in found.missing] == [(second.key, ("measured", "failed: too big"))]


def test_a_cell_that_one_of_three_runs_lacks_is_still_compared(study: StoredRun) -> None:
    only = study.measurements[:1]
    found = compare_runs([replace(study, measurements=x) for x in (only, (), only)])
    latency = found.cells[0].metrics[0]
    assert [step.percent for step in latency.changes] == [None, 0.0]
    assert found.missing[0].states == ("measured", "not in this run", "measured")


def test_what_differs_is_named_and_what_is_equal_is_not(study: StoredRun) -> None:
    trials = tuple(
        t.model_copy(update={"worker": t.worker.model_copy(update={"threads": 7, "commit": "fedcba"})})
        for t in study.trials
        if t.worker
    )
    environment = study.run.environment | {"now": {"load": 3.5}}  # of the moment: it always differs
    settings = study.run.settings | {"target_ci": 0.05}
    run = study.run.model_copy(update={"settings": settings, "environment": environment})
    found = compare_runs([study, replace(study, run=run, trials=trials)])
    assert {(row.name, row.values) for row in found.differences} == {
        ("threads", ("3", "7")),
        ("commit", ("0123456789abcdef", "fedcba")),
        ("settings.target_ci", ("0.02", "0.05")),
    }


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("count", [2, 3])
def test_every_number_is_whole_at_every_width(study: StoredRun, width: int, count: int) -> None:
    text = shown([study] * count, width)
    assert max(map(cell_len, text.split("\n"))) <= width
    for measurement in (m for m in study.measurements if m.status == "ok"):
        for metric in ("latency_s", "throughput_tok_s", "nfe", "memory_peak_b"):
            value = measurement.metrics[metric]
            assert format_point(metric, value) in text
            assert format_interval(metric, value) in text


def test_the_method_is_said_and_loose_changes_are_marked(study: StoredRun) -> None:
    text = one_line(shown([study, study], 200))
    assert "independent, half-widths add as squares on the log scale" in text
    assert "+0.0 % no confidence level" in text  # the shape that ran in two processes only
    for word in ("regression", "faster", "slower", "better", "worse"):
        assert word not in text


def test_hostile_text_is_inert(tmp_path: Path, synthetic_run: Synthetic) -> None:
    hostile = "[red]x[/red]\x1b[2J\ny\u202e"
    stored = synthetic_run(tmp_path, pair=hostile, message=hostile)
    other = replace(stored, run=stored.run.model_copy(update={"settings": {hostile: hostile}}), measurements=())
    text = shown([stored, other, stored], 200)
    assert not set(text) & set("\x1b\u202e")
    assert "[red]x[/red] y: AR L=16 B=1" in text


def test_one_run_cannot_be_compared(study: StoredRun) -> None:
    with pytest.raises(InputError, match="expected two or more"):
        compare_runs([study])


def test_runs_without_a_common_cell_say_so(study: StoredRun) -> None:
    cell = Cell(pair="other", side="ar", generator="ar", length=8)
    other = replace(study, measurements=(Measurement(cell=cell, key=cell.key, status="ok"),))
    assert "No cell has a valid result in two runs." in shown([study, other], 80)
