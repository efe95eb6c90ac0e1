"""A run in other programs' formats: nothing lost on the way, and the other program reads it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dlmbench.profiles.record import Measurement, Sample
from dlmbench.profiles.store import StoredRun
from dlmbench.reports.exports import samples_frame, to_frame, write_csv, write_parquet, write_pytest_benchmark_json

Synthetic = Callable[..., StoredRun]


def test_the_frame_has_a_row_for_each_cell_and_metric(study: StoredRun) -> None:
    frame = to_frame(study)
    # a cell without metrics keeps one row, so that a failure is not lost by exporting it
    assert len(frame) == sum(max(1, len(m.metrics)) for m in study.measurements)
    first = study.measurements[0]
    row = frame[(frame.key == first.key) & (frame.metric == "latency_s")].iloc[0]
    value = first.metrics["latency_s"]
    assert (row.value, row.low, row.high, row.n, row.level) == (value.value, value.low, value.high, value.n, 0.95)
    assert (row.unit, row.pair, row.side, row.generator, row.length) == ("s", "small", "ar", "ar", 16)
    assert (row.temperature, row.top_k, row.top_p, row.remasking) == (0.0, 0, 1.0, "low_confidence")
    assert pd.isna(row.steps)


def test_a_failed_cell_is_a_row_with_its_reason(study: StoredRun) -> None:
    frame = to_frame(study)
    failed = frame[frame.status == "failed"]
    assert failed.reason_code.tolist() == ["out_of_memory"]
    assert failed.metric.isna().all()
    assert failed.value.isna().all()
    assert failed.why.tolist() == ["out of memory: wanted 9.1 GB"]


def test_missing_numbers_are_missing_and_not_zero(study: StoredRun) -> None:
    frame = to_frame(study)
    itl = frame[(frame.metric == "itl_s") & (frame.side == "diffusion")]
    assert len(itl) > 0
    assert itl.value.isna().all()
    assert set(itl.why) == {"AR only: diffusion has no inter-token latency"}


def test_the_samples_frame_has_a_row_for_each_sample(study: StoredRun) -> None:
    trial = study.trials[0]
    discarded = trial.samples[1].model_copy(update={"discarded": "steal"})
    changed = trial.model_copy(update={"samples": (trial.samples[0], discarded)})
    frame = samples_frame(replace(study, trials=(changed,)))
    assert frame.counted.tolist() == [True, False]
    assert frame.latency_s.tolist() == [trial.samples[0].latency_s, discarded.latency_s]
    assert set(Sample.model_fields) <= set(frame.columns)
    assert json.loads(frame.time_to_k_s[0]) == trial.samples[0].time_to_k_s
    assert json.loads(frame.rows_tokens[0]) == [16]


def test_an_empty_run_has_the_same_columns_and_types(study: StoredRun) -> None:
    empty = replace(study, measurements=(), trials=())
    assert to_frame(empty).dtypes.equals(to_frame(study).dtypes)
    assert samples_frame(empty).dtypes.equals(samples_frame(study).dtypes)


@pytest.mark.parametrize("table", ["metrics", "samples"])
def test_parquet_and_csv_keep_every_value(study: StoredRun, tmp_path: Path, table: Any) -> None:
    frame = to_frame(study) if table == "metrics" else samples_frame(study)
    write_parquet(study, tmp_path / "run.parquet", table)
    write_csv(study, tmp_path / "run.csv", table)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "run.parquet"), frame)
    read = pd.read_csv(tmp_path / "run.csv", dtype=frame.dtypes.to_dict())
    pd.testing.assert_frame_equal(read, frame, check_exact=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.csv", "run.parquet"]  # no temporary file is left


def test_csv_keeps_a_hostile_message_in_its_field(tmp_path: Path, synthetic_run: Synthetic) -> None:
    message = 'a,"b"\n=c;\u202e'
    stored = synthetic_run(tmp_path / "run", message=message)
    write_csv(stored, tmp_path / "run.csv")
    frame = pd.read_csv(tmp_path / "run.csv")
    assert frame[frame.status == "failed"].why.tolist() == [message]


def benchmarks(stored: StoredRun, path: Path) -> list[dict[str, Any]]:
    write_pytest_benchmark_json(stored, path)
    document = json.loads(path.read_text())
    assert {"machine_info", "commit_info", "benchmarks", "datetime", "version"} <= set(document)
    found: list[dict[str, Any]] = document["benchmarks"]
    return found


def test_pytest_benchmark_statistics_by_hand(study: StoredRun, tmp_path: Path) -> None:
    # Two processes, counted latencies {1, 2} and {3, 4} s, and one of 100 s that does not count.
    # mean 10/4; sd sqrt((2.25 + 0.25 + 0.25 + 2.25) / 3) = sqrt(5/3); q1 = median(1, 2), q3 = median(3, 4);
    # outside mean +- sd = [1.21, 3.79]: 1 and 4; outside q1 - 1.5 * 2 .. q3 + 1.5 * 2 = [-1.5, 6.5]: none.
    trial = study.trials[0]

    def sample(latency: float, discarded: str | None = None) -> Sample:
        return trial.samples[0].model_copy(update={"latency_s": latency, "discarded": discarded})

    trials = (
        trial.model_copy(update={"samples": (sample(1), sample(100, "foreign time"), sample(2))}),
        trial.model_copy(update={"samples": (sample(3), sample(4)), "process": 1}),
    )
    (found,) = benchmarks(replace(study, trials=trials), tmp_path / "b.json")
    stats = found["stats"]
    assert stats["data"] == [1, 2, 3, 4]
    assert (stats["min"], stats["max"], stats["mean"], stats["median"], stats["total"]) == (1, 4, 2.5, 2.5, 10)
    assert stats["stddev"] == pytest.approx(math.sqrt(5 / 3))
    assert (stats["q1"], stats["q3"], stats["iqr"]) == (1.5, 3.5, 2.0)
    assert (stats["stddev_outliers"], stats["iqr_outliers"], stats["outliers"]) == (2, 0, "2;0")
    assert (stats["ld15iqr"], stats["hd15iqr"], stats["rounds"], stats["iterations"]) == (1, 4, 4, 1)
    assert stats["ops"] == pytest.approx(0.4)
    assert (found["fullname"], found["group"]) == (trial.key, "small P=32 L=16 B=1")
    assert found["params"]["length"] == 16
    assert found["extra_info"]["processes"] == 2
    assert found["extra_info"]["process_rounds"] == [{"process": 0, "rounds": 2}, {"process": 1, "rounds": 2}]
    assert found["extra_info"]["key"] == trial.key


def test_cells_without_counted_samples_are_left_out(study: StoredRun, tmp_path: Path) -> None:
    names = {found["fullname"] for found in benchmarks(study, tmp_path / "b.json")}
    assert names == {m.key for m in study.measurements if m.status == "ok"}


def test_pytest_benchmark_reads_the_file(tmp_path: Path, synthetic_run: Synthetic) -> None:
    stored = synthetic_run(tmp_path / "run", pair="a\x1b[2J|b [red]")
    write_pytest_benchmark_json(stored, tmp_path / "bench.json")
    command = Path(sys.executable).with_name("pytest-benchmark")
    done = subprocess.run(
        [command, "compare", "bench.json", "--group-by=group", "--columns=min,median,ops,rounds"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    # six shapes, each a group of AR and three T, but for L=256, batch 8, where AR alone was measured
    assert done.stdout.count("benchmark 'a|b [red] P=32") == 6
    assert done.stdout.count(": 4 tests") == 5
    assert "ar/L=16" in done.stdout
    assert "Failed to load" not in done.stdout + done.stderr


def test_a_metric_of_a_newer_version_is_kept_without_a_unit(study: StoredRun) -> None:
    first = study.measurements[0]
    metrics = {"from_the_future": first.metrics["latency_s"]}
    stored = replace(study, measurements=(Measurement(cell=first.cell, key=first.key, status="ok", metrics=metrics),))
    frame = to_frame(stored)
    assert frame.metric.tolist() == ["from_the_future"]
    assert frame.unit.isna().all()
