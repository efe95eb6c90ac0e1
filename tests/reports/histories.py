"""Folders of small invented runs: one metric, one value a run, everything else as the test wants it."""

from __future__ import annotations

import datetime
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlmbench.profiles.record import Calibration, Cell, Measurement, Reason, Run, Trial, Value, WorkerInfo
from dlmbench.profiles.store import append_trials, write_measurements, write_run

AR = Cell(pair="small", side="ar", generator="ar", length=16)
MDLM = Cell(pair="small", side="diffusion", generator="mdlm", length=16, steps=4)
BEGIN = datetime.datetime(2026, 1, 5, 3, 0, tzinfo=datetime.UTC)


def write(
    folder: Path,
    index: int,
    values: Mapping[Cell, float | None],
    *,
    suite: str = "ci",
    device_name: str = "Example CPU",
    torch: str = "2.12.0",
    threads: int = 3,
    commit: str | None = None,
    rate: float = 1e12,
    metric: str = "throughput_tok_s",
    environment: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Path:
    """A run of one day: `values` by cell, None for a failed one; `rate` is its calibration's, FLOP/s and B/s alike."""
    path = folder / f"{index:03}-{suite}"
    path.mkdir(parents=True)
    created = (BEGIN + datetime.timedelta(days=index)).isoformat()
    worker = WorkerInfo(
        pid=1, package_path="x", package_version="0.1.0", commit=commit or f"{index:012x}", python="3.12.3",
        torch=torch, device="cpu", threads=threads,
    )  # fmt: skip
    beside = Calibration(matmul_flop_s=rate, read_b_s=rate, dtype="float32", read_block_b=1 << 20, matrix=1024)
    trials = [
        Trial(
            cell=cell, key=cell.key, process=0, pairing="p", order=0, status="ok" if value else "failed",
            counters={"model_flops": 2e9, "model_bytes": 1e9}, calibration_before=beside, calibration_after=beside,
            worker=worker,
        )
        for cell, value in values.items()
    ]  # fmt: skip
    reason = Reason(code="out_of_memory", message="out of memory: wanted 9.1 GB")
    measurements = [
        Measurement(cell=cell, key=cell.key, status="failed", reason=reason)
        if value is None
        else Measurement(
            cell=cell, key=cell.key, status="ok",
            metrics={metric: Value(value=value, low=value * 0.99, high=value * 1.01, n=5, level=0.95)},
        )
        for cell, value in values.items()
    ]  # fmt: skip
    run: dict[str, Any] = {
        "id": f"{suite}-{device_name}-{index}", "created": created, "finished": created, "suite": suite,
        "command": ("dlmbench", "run"),
        "seed": 0, "device": "cpu", "device_name": device_name, "processes": 5, "settings": {}, "prompts": {},
        "pairs": (), "plan": (), "environment": dict(environment or {}), "dlmbench_version": "0.1.0",
    }  # fmt: skip
    write_run(path, Run(**(run | fields)))
    append_trials(path, trials)
    write_measurements(path, measurements)
    return path


def noisy(levels: Sequence[float], sd: float = 0.01, seed: int = 0) -> list[float]:
    """The levels with normal noise of relative deviation `sd`."""
    draw = random.Random(seed)
    return [level * math.exp(draw.gauss(0, sd)) for level in levels]
