"""Workers that answer at once and measure nothing: what pairings, sweeps and runs are tested with.

`Worker` answers requests as `bench.worker` does, from a script of latencies and failures; `Handle` has the face of
`bench.handle.WorkerHandle`. Run as a program, this file is `dlmbench` with such workers and without the report, for
tests that kill it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from dlmbench.bench.handle import WorkerFailedError
from dlmbench.profiles.hardware import DevicePeaks, Peak
from dlmbench.profiles.record import Calibration, Cell, Origin, Sample, Trial, WorkerInfo

PEAK = Calibration(matmul_flop_s=1e12, read_b_s=1e11, dtype="float32")
PRODUCT = Peak(burst=1.5e12, sustained=1.2e12, size=2048)
DEVICE = DevicePeaks(
    device="cpu",
    name="fake",
    identity={"device": "cpu", "name": "fake"},
    threads=1,
    measured="2026-03-01T10:15:00+00:00",
    read=Peak(burst=1.1e11, sustained=1e11, size=1 << 28),
    missing={"datasheet": "a fake worker"},
)


def cell(generator: str = "ar", steps: int | None = None, **fields: Any) -> Cell:
    """A cell of pair `small` at L = 8; diffusion where `steps` are given."""
    side = "ar" if steps is None else "diffusion"
    return Cell(**{"pair": "small", "side": side, "generator": generator, "length": 8, "steps": steps, **fields})


def sample(of: Cell, latency_s: float = 0.01, round_index: int = 0, **fields: Any) -> Sample:
    """A sample whose parts are a tenth prefill, half forward, a fifth each sampling and idle."""
    tokens = of.batch * of.length
    nfe = of.steps or of.length
    values: dict[str, Any] = {
        "order": round_index,
        "round": round_index,
        "prompt": round_index,
        "seed": round_index,
        "started_s": float(round_index),
        "latency_s": latency_s,
        "prefill_s": 0.1 * latency_s,
        "forward_s": 0.5 * latency_s,
        "sampling_s": 0.2 * latency_s,
        "idle_s": 0.2 * latency_s,
        "output_tokens": tokens,
        "canvas_tokens": tokens,
        "nfe": nfe,
        "forward_tokens": nfe * of.batch,
        "ttft_s": 0.3 * latency_s,
        "ttfb_s": 0.3 * latency_s,
        "itl_s": latency_s / of.length if of.side == "ar" else None,
        "time_to_k_s": {"1": 0.3 * latency_s, str(of.length): latency_s},
        "rows_tokens": (of.length,) * of.batch,
        "observer_events": 3 * nfe,
    }
    return Sample(**(values | fields))


def trial(of: Cell, latencies: Iterable[float] = (), process: int = 0, **fields: Any) -> Trial:
    """A trial with one sample a latency, in rounds 0, 1, 2, …"""
    values: dict[str, Any] = {
        "cell": of,
        "key": of.key,
        "process": process,
        "pairing": f"shape#{process}",
        "order": 0,
        "status": "ok",
        "samples": tuple(sample(of, latency, number) for number, latency in enumerate(latencies)),
        "calibration_before": PEAK,
        "calibration_after": PEAK,
        "prepare_s": 0.5,
    }
    return Trial(**(values | fields))


def info(pid: int = 1) -> WorkerInfo:
    return WorkerInfo(
        pid=pid, package_path="p", package_version="0", commit=None, python="3", torch="2", device="cpu", threads=1,
        origins={"dlmbench": Origin(path="p", version="0")},
    )  # fmt: skip


def died(code: str = "killed") -> WorkerFailedError:
    return WorkerFailedError(code, "the worker was killed (signal 9)", fatal=True)


def refused(code: str = "crash", message: str = "RuntimeError: no") -> WorkerFailedError:
    return WorkerFailedError(code, message, fatal=False)


@dataclass
class Worker:
    """Answers for one generator.

    `latency(cell, round)` and `foreign(cell, round)` make the samples; `failures[operation, cell key]` (key "" where
    there is none) lists errors raised by the next requests, None for a request that succeeds. A fatal one ends it.
    `fill_s` is how long it pretends to fill a window on a GPU (None: as on a CPU without counters).
    """

    latency: Callable[[Cell, int], float] = lambda _, number: 0.01 * (1 + 0.3 * (number % 2))
    foreign: Callable[[Cell, int], float | None] = lambda *_: None
    failures: dict[tuple[str, str], list[WorkerFailedError | None]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    dead: bool = False
    more_forwards: int = 0
    fill_s: float | None = None
    _cells: dict[str, Cell] = field(default_factory=dict)

    def ask(self, operation: str, timeout_s: float, **fields: Any) -> dict[str, Any]:
        if self.dead:
            raise died("crash")
        if operation == "open":
            self._cells[fields["id"]] = Cell.model_validate(fields["cell"])
        of = self._cells.get(fields.get("id", ""))
        self.asked.append((operation, {"key": of.key if of else "", **fields}))
        planned = self.failures.get((operation, of.key if of else ""), [])
        error = planned.pop(0) if planned else None
        if error is not None:
            self.dead = error.fatal
            raise error
        return getattr(self, f"_{operation}")(of, fields)

    def operations(self, operation: str) -> list[str]:
        """Keys of the cells that `operation` was asked for, in order."""
        return [fields["key"] for name, fields in self.asked if name == operation]

    def _open(self, _: Cell, __: Any) -> dict[str, Any]:
        return {"prepare_s": 0.5}

    def _warmup(self, _: Cell, __: Any) -> dict[str, Any]:
        return {"warmup": {"samples": 3, "seconds": 0.1, "steady": True}}

    def _sample(self, of: Cell, fields: dict[str, Any]) -> dict[str, Any]:
        number = fields["round"]
        given = {name: fields[name] for name in ("order", "prompt", "seed", "started_s")}
        foreign = self.foreign(of, number)
        taken = sample(of, self.latency(of, number), number, foreign_cores=foreign, **given)
        return {"sample": taken.model_copy(update={"nfe": taken.nfe + self.more_forwards}).model_dump()}

    def _close(self, of: Cell, fields: dict[str, Any]) -> dict[str, Any]:
        counters = {"nfe": of.steps or of.length, "model_flops": 1e9, "model_bytes": 1e8}
        counters["floor_s"] = max(1e9 / fields["flop_s"], 1e8 / fields["byte_s"])
        return {"counters": counters, "timeline": None}

    def _study(self, _: Any, fields: dict[str, Any]) -> dict[str, Any]:
        return {"studies": {"pair": fields["pair"], "why": {"infill": "a fake worker"}}}

    def _observe(self, of: Cell, fields: dict[str, Any]) -> dict[str, Any]:
        kernels = {
            "device": "cpu",
            "wall_s": 0.02,
            "busy_s": 0.015,
            "launches": 80,
            "output_tokens": of.batch * of.length,
            "forwards": of.steps or of.length,
            "overhead": 1.0,
        }
        kept = {"begin_s": 100.0, "end_s": 100.5} if fields["keep"] else None
        return {"hardware": {"kernels": kernels, "missing": {"memory": "a fake worker"}}, "kept": kept}

    def _trace(self, *_: Any) -> dict[str, Any]:
        return {}

    def _fill(self, of: Cell, fields: dict[str, Any]) -> dict[str, Any]:
        if self.fill_s is None:
            return {"window": None, "telemetry": None, "why": "a fake worker has no counters"}
        begin = time.monotonic()
        time.sleep(self.fill_s)
        window = {"begin_s": begin, "end_s": time.monotonic(), "generations": 4, "output_tokens": 4 * of.length}
        return {"window": window, "telemetry": None, "why": None}

    def _quality(self, *_: Any) -> dict[str, Any]:
        return {"quality": None}

    def _calibrate(self, *_: Any) -> dict[str, Any]:
        return {"calibration": PEAK.model_dump()}

    def _peaks(self, _: Any, fields: dict[str, Any]) -> dict[str, Any]:
        matmul = dict.fromkeys(fields["dtypes"], PRODUCT)
        peaks = DEVICE.model_copy(update={"matmul": matmul, "threads": fields["threads"]})
        return {"peaks": peaks.model_dump(), "before": None, "remembered": False, "notes": []}

    def _release(self, *_: Any) -> dict[str, Any]:
        self._cells.clear()
        return {}


class Handle:
    """A worker as a sweep starts it. `started` lists all of a session; `plan(handle)` may script each one's worker when
    it is told to load, `ready(handle)` do something when that is waited for.
    """

    started: ClassVar[list[Handle]] = []
    plan: ClassVar[Callable[[Handle], None]] = staticmethod(lambda _: None)
    ready: ClassVar[Callable[[Handle], object]] = staticmethod(lambda _: None)
    pause_s = 0.0

    def __init__(self, log: Path, threads: int, device: str, launch: Any = None) -> None:
        self.log, self.threads, self.device, self.launch = log, threads, device, launch
        self.worker = Worker()
        self.ended = self.killed = False
        self.load_error: WorkerFailedError | None = None
        self.number = len(Handle.started)
        Handle.started.append(self)

    @property
    def generator(self) -> str:
        return self.load["cells"][0]["generator"]

    @property
    def alive(self) -> bool:
        return not (self.worker.dead or self.ended or self.killed)

    def pin(self, cpus: Any) -> Any:
        return cpus

    def send(self, operation: str, **fields: Any) -> None:
        assert operation == "load"
        self.load = fields
        Handle.plan(self)

    def receive(self, timeout_s: float) -> dict[str, Any]:
        Handle.ready(self)
        if self.load_error is not None:
            self.worker.dead = self.load_error.fatal
            raise self.load_error
        who = info(os.getpid() + self.number).model_dump()
        return {"info": who, "device_name": "fake", "device_uuid": None if self.device == "cpu" else "aaaa-1"}

    def ask(self, operation: str, timeout_s: float, **fields: Any) -> dict[str, Any]:
        time.sleep(Handle.pause_s if operation == "sample" else 0.0)
        return self.worker.ask(operation, timeout_s, **fields)

    def end(self) -> None:
        self.ended = True

    def kill(self) -> None:
        self.killed = True


if __name__ == "__main__":
    from dlmbench.bench import cli, run_command, sweep
    from dlmbench.bench.gate import measure

    Handle.pause_s = 0.002
    sweep.WorkerHandle = measure.WorkerHandle = Handle  # type: ignore[misc, assignment]
    run_command.write_report = lambda stored: []
    cli.main()
