"""`dlmbench profile`, whole: kernel tables that add up, traces that parse, and one line for what is no such cell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlmbench.profiles.perfetto import trace_tracks
from dlmbench.profiles.store import read_run


@pytest.mark.slow
def test_both_sides_of_small(command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = command("profile", "--device", "cpu", "--threads", "1", "--length", "8", "--out", "here", "--json")
    document = json.loads(outcome.out)
    stored = read_run(tmp_path / "here")
    assert [trial.cell.side for trial in stored.trials] == ["ar", "diffusion"]
    for trial, forwards in zip(stored.trials, (8, 2), strict=True):
        assert trial.hardware is not None
        kernels = trial.hardware.kernels
        assert kernels is not None
        assert (kernels.forwards, kernels.output_tokens, kernels.device) == (forwards, 8, "cpu")
        assert 0 < kernels.busy_s < kernels.wall_s
        own = sum(part.seconds for part in kernels.categories.values())
        assert own == pytest.approx(kernels.busy_s, rel=0.02)
        assert kernels.gaps is not None
        assert kernels.gaps.total_s + kernels.busy_s <= kernels.wall_s * 1.001
        assert kernels.categories["matmul"].launches > 0
        assert sum(stack.seconds for stack in kernels.stacks) <= own * 1.001
        assert trial.hardware.missing["telemetry"]
    measured = {m.cell.side: m.metrics for m in stored.measurements}
    assert measured["ar"]["launches_per_token"].value > 2 * measured["diffusion"]["launches_per_token"].value
    assert measured["ar"]["energy_j"].value is not None or measured["ar"]["energy_j"].why
    assert set(document["profiles"]) == {trial.key for trial in stored.trials}
    traces = sorted((tmp_path / "here" / "traces").iterdir())
    assert len(traces) == 2
    for trace in traces:
        tracks = trace_tracks(trace)
        assert {"forwards", "phases", "commits"} <= {name.rpartition("/")[2] for name in tracks}
    assert "aten::mm" in outcome.err


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--side", "both sides"), "expected ar, diffusion or both"),
        (("--steps", "L/3"), "not a whole number"),
        (("--pair", "nosuch"), "unknown"),
        (("--engine", "fast"), "engine"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    command: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
    complaint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert complaint in command("profile", "--device", "cpu", *flags).complaint
    assert list(tmp_path.iterdir()) == []
