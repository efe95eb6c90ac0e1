"""The sweep: every pairing of a suite, in fresh processes, written down as each one ends.

A kill at any moment loses at most the open pairing. Workers are kept from one pairing to the next as long as they have
the right model loaded, and replaced in every process round: the process is the unit that intervals are made of.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .. import InputError
from ..models.pairs import Pair
from ..models.plugins import side_of
from ..profiles.gpus import NoGpuError
from ..profiles.hardware import DevicePeaks
from ..profiles.peaks_cache import MAX_AGE_S
from ..profiles.pinning import shared_cpus
from ..profiles.record import Cell, Reason, Status, Trial, WorkerInfo
from ..profiles.store import append_trials, read_studies, write_studies
from ..profiles.studies import Studies
from ..profiles.telemetry_client import TelemetryProcess
from .handle import WorkerFailedError, WorkerHandle
from .pairing import Crew, Meter, PairingRun, Watcher
from .plan import Plan
from .suites import Pairing, Suite


@dataclass(frozen=True, slots=True)
class Job:
    """What a run measures and on what.

    `unfit` maps the key of a cell that this device cannot hold to the reason; `blockwise` names the pairings whose
    workers fit only one at a time; `done` those that an earlier session of this run finished, `peaks` what it learnt of
    the device.
    """

    suite: Suite
    pairings: tuple[Pairing, ...]
    pairs: dict[str, Pair]
    device: str
    threads: int
    prompts: str | None
    tokenizer: str
    folder: Path
    judge: str | None = None
    unfit: dict[str, str] = field(default_factory=dict)
    blockwise: frozenset[str] = frozenset()
    done: frozenset[str] = frozenset()
    peaks: DevicePeaks | None = None

    @classmethod
    def of(cls, plan: Plan, folder: Path, **more: Any) -> Job:
        """The job of a plan, measured into `folder`; `more` are fields that no plan knows, or others than its own."""
        planned: dict[str, Any] = {
            "suite": plan.suite,
            "pairings": plan.pairings,
            "pairs": plan.pairs,
            "device": plan.device,
            "threads": plan.threads,
            "prompts": plan.prompts_path,
            "tokenizer": plan.tokenizer,
            "judge": plan.judge,
            "unfit": plan.unfit,
            "blockwise": plan.blockwise,
        }
        return cls(folder=folder, **(planned | more))

    def cpus(self, process: int) -> tuple[int, ...] | None:
        """The processors that the workers of a process round take turns on; None where they are free to run on any."""
        return shared_cpus(self.threads, process) if self.device == "cpu" else None

    @property
    def rounds(self) -> list[tuple[int, Pairing]]:
        """(process, pairing) in order: all pairings in process 0, then all in process 1, and so on.

        Within a process round the order is drawn, of pairs and of each pair's shapes, so that nothing is always
        measured after the same thing; the pairings of a pair stay together, since they share loaded workers.
        """
        found: list[tuple[int, Pairing]] = []
        for process in range(max(pairing.processes for pairing in self.pairings)):
            draw = random.Random(f"{self.suite.seed}:{process}")
            loads: dict[tuple[str, str], list[Pairing]] = {}
            for pairing in self.pairings:
                if process < pairing.processes:
                    loads.setdefault((pairing.cells[0].pair, pairing.cells[0].dtype), []).append(pairing)
            for load in draw.sample(list(loads), len(loads)):
                found += [(process, pairing) for pairing in draw.sample(loads[load], len(loads[load]))]
        return found

    def drawn_cells(self, pairing: Pairing, process: int) -> tuple[Cell, ...]:
        """The cells of a pairing that fit this device, in the order in which this process round takes them in turn."""
        cells = [cell for cell in pairing.cells if cell.key not in self.unfit]
        return tuple(random.Random(f"{self.suite.seed}:{process}:{pairing.name}").sample(cells, len(cells)))


def load_request(job: Job, pair: str, dtype: str, name: str) -> dict[str, Any]:
    """What a worker is told to load for the generator `name`: one side's network, and all cells to be asked of it."""
    own, partner = job.pairs[pair].seen_from(side_of(name))
    cells = [cell for pairing in job.pairings for cell in pairing.cells if cell.key not in job.unfit]
    return {
        "config": own.backbone.model_dump(),
        "weights": own.weights,
        "cells": [c.model_dump() for c in cells if (c.pair, c.dtype, c.generator) == (pair, dtype, name)],
        "partner": {"config": partner.backbone.model_dump(), "weights": partner.weights},
        "seed": job.suite.seed,
        "dtype": dtype,
        "device": job.device,
        "threads": job.threads,
        "prompts": job.prompts,
        "tokenizer": job.tokenizer,
        "judge": job.judge,
    }


class RunMeter(Meter, Protocol):
    """A meter that lives as long as a run."""

    def watch_idle(self) -> None: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Metering:
    """The meter of the GPU that a job's workers are on, from the first one that has it open, or `why` there is none."""

    start: Callable[..., RunMeter]
    meter: RunMeter | None = None
    why: str | None = None

    def watch(self, device: str, uuid: str | None) -> None:
        """Have the GPU's counters read from now on; once, whether that succeeds or not. A CPU has none."""
        kind, _, index = device.partition(":")
        if kind != "cuda" or self.meter is not None or self.why is not None:
            return
        try:
            self.meter = self.start(uuid=uuid, index=int(index or 0))
        except NoGpuError as error:
            self.why = str(error)

    def close(self) -> None:
        if self.meter is not None:
            self.meter.close()


@dataclass(slots=True)
class _Staff:
    """Live workers by what they have loaded; at most one pair and process round at a time. With them their meter."""

    job: Job
    metering: Metering
    count: int = 0
    loaded: tuple[str, str, int] | None = None
    handles: dict[str, WorkerHandle] = field(default_factory=dict)
    infos: dict[str, WorkerInfo] = field(default_factory=dict)
    device_name: str = ""

    def crew(self, pairing: Pairing, process: int) -> Crew:
        """The workers that this pairing needs, reused where they fit, started side by side where not."""
        cell = pairing.cells[0]
        wanted = (cell.pair, cell.dtype, process)
        names = list(dict.fromkeys(cell.generator for cell in pairing.cells))
        alive = all(handle.alive for handle in self.handles.values())
        if self.loaded == wanted and alive and set(names) <= set(self.handles):
            # What is not needed gives its memory back; what is keeps its model.
            for name in set(self.handles) - set(names):
                self.handles.pop(name).end()
        else:
            self.end()
            self.loaded = wanted
            for name in names:
                self._start(name)
            uuids = [self._ready(name) for name in names]
            self.metering.watch(self.job.device, uuids[0])
            # Every worker has its model loaded and waits for a request.
            if self.metering.meter is not None and process == 0 and self.job.suite.hardware:
                self.metering.meter.watch_idle()

        def replace(name: str) -> None:
            self.handles.pop(name).end()
            self._start(name)
            self._ready(name)

        return Crew(workers=self.handles, infos=self.infos, replace=replace)

    def _start(self, name: str) -> None:
        job, loaded = self.job, self.loaded
        assert loaded is not None
        logs = job.folder / "logs"
        logs.mkdir(exist_ok=True)
        handle = WorkerHandle(logs / f"worker-{self.count:03d}.log", job.threads, job.device)
        self.count += 1
        self.handles[name] = handle
        pair, dtype, _ = loaded
        handle.send("load", **load_request(job, pair, dtype, name))

    def _ready(self, name: str) -> str | None:
        """Wait until a worker has its model loaded; returns the UUID of the GPU that it is on, where torch tells it."""
        assert self.loaded is not None
        process = self.loaded[2]
        reply = self.handles[name].receive(self.job.suite.hang_s)
        cpus = self.handles[name].pin(self.job.cpus(process))
        self.infos[name] = WorkerInfo.model_validate(reply["info"]).model_copy(update={"cpus": cpus})
        self.device_name = reply["device_name"]
        uuid: str | None = reply.get("device_uuid")
        return uuid

    def end(self) -> None:
        for handle in self.handles.values():
            handle.end()
        self.handles.clear()

    def kill(self) -> None:
        for handle in self.handles.values():
            handle.kill()
        self.handles.clear()
        self.loaded = None


class SweepWatcher(Watcher, Protocol):
    """A watcher that is also told which pairing is under way."""

    def pairing(self, name: str, process: int, number: int, total: int) -> None: ...


class PeaksKeeper(Protocol):
    """Told once, before the first cell is opened, what the device can do; None where that cannot be measured.

    `notes` are sentences for a person: why there are no peaks, or what went wrong with those remembered.
    """

    def __call__(self, peaks: DevicePeaks | None, notes: Sequence[str]) -> None: ...


def sweep(
    job: Job,
    watcher: SweepWatcher,
    keep_peaks: PeaksKeeper = lambda peaks, notes: None,
    *,
    start_meter: Callable[..., RunMeter] = TelemetryProcess.start,
) -> str:
    """Measure every pairing that is not done yet, appending its trials; returns the device's name as workers saw it.

    The device's peaks, unless the job knows them, are asked of the first worker that has loaded its model. Ends its
    workers and its meter whatever happens. Raises InputError where a worker refuses what it was asked to load.
    """
    metering = Metering(start_meter)
    staff = _Staff(job, metering)
    started = time.monotonic()
    rounds = job.rounds
    peaks, known = job.peaks, job.peaks is not None
    try:
        for number, (process, pairing) in enumerate(rounds):
            if f"{pairing.name}#{process}" in job.done:
                continue
            watcher.pairing(pairing.name, process, number, len(rounds))
            fitting = pairing.model_copy(update={"cells": job.drawn_cells(pairing, process)})
            trials = {trial.key: trial for trial in _skipped(job, pairing, process)}
            names = list(dict.fromkeys(cell.generator for cell in pairing.cells))
            for part in _parts(fitting, process, names if pairing.name in job.blockwise else None):
                try:
                    crew = staff.crew(part, process)
                    if not known:
                        watcher.cell(part.cells[0], "the device's peaks")
                        known, (peaks, notes) = True, _peaks(job, staff)
                        keep_peaks(peaks, notes)
                        crew = staff.crew(part, process)  # asking may have cost the worker
                    measured = PairingRun(
                        job.suite, part, process, crew, watcher, started,
                        meter=metering.meter, no_meter=metering.why,
                        traces=job.folder / "traces" if job.suite.traces else None,
                        peaks=None if peaks is None else peaks.matmul,
                    ).measure()  # fmt: skip
                except WorkerFailedError as error:
                    if error.code == "input":
                        raise InputError(error.message) from None
                    staff.kill()
                    measured = [
                        without_samples(cell, pairing, process, "failed", error.code, error.message)
                        for cell in part.cells
                    ]
                if len(part.cells) < len(fitting.cells):
                    measured = [trial.model_copy(update={"alternation": "block"}) for trial in measured]
                trials |= {trial.key: trial for trial in measured}
            if process == 0 and job.suite.studies:
                _study(job, staff, pairing)
            append_trials(job.folder, [trials[cell.key] for cell in pairing.cells])
            if any(trial.drift is not None for trial in trials.values()):
                staff.end()  # whatever grew in a worker is not carried into the next shape
        staff.end()
    except BaseException:
        staff.kill()
        raise
    finally:
        metering.close()
    return staff.device_name


def _peaks(job: Job, staff: _Staff) -> tuple[DevicePeaks | None, list[str]]:
    """What the device can do in the dtypes of the job, with notes; None where the worker cannot tell."""
    cells = (cell for pairing in job.pairings for cell in pairing.cells if cell.key not in job.unfit)
    dtypes = list(dict.fromkeys(cell.dtype for cell in cells))
    worker = next(iter(staff.handles.values()))
    try:
        reply = worker.ask(
            "peaks", job.suite.hang_s, device=job.device, threads=job.threads, dtypes=dtypes, max_age_s=MAX_AGE_S
        )
        return DevicePeaks.model_validate(reply["peaks"]), reply["notes"]
    except WorkerFailedError as error:
        return None, [f"The device's peaks were not measured: {error.message}."]


def _study(job: Job, staff: _Staff, pairing: Pairing) -> None:
    """Ask for the studies of the pairing's pair, once a run; what goes wrong is written down in their place."""
    pair = pairing.cells[0].pair
    known = read_studies(job.folder)
    generator = job.pairs[pair].diffusion.generator
    handle = staff.handles.get(generator)
    if pair in known or handle is None or staff.loaded is None or staff.loaded[0] != pair:
        return
    try:
        # Tasks do not depend on the pair: those of the first one that succeeds stand for all.
        fields = {
            "pair": pair,
            "generator": generator,
            "seed": job.suite.seed,
            "tasks": not any(seen.tasks for seen in known.values()),
        }
        reply = handle.ask("study", job.suite.hang_s, **fields)
        found = Studies.model_validate(reply["studies"])
    except WorkerFailedError as error:
        found = Studies(pair=pair, why={"studies": error.message})
    write_studies(job.folder, [*known.values(), found])


def _parts(pairing: Pairing, process: int, blocks: Sequence[str] | None) -> list[Pairing]:
    """The whole pairing, or, where its workers do not fit side by side, a part for each generator of `blocks`, in this
    order and in the reverse one by turns."""
    if blocks is None:
        return [pairing] if pairing.cells else []
    return [
        pairing.model_copy(update={"cells": cells})
        for name in (blocks if process % 2 == 0 else blocks[::-1])
        if (cells := tuple(cell for cell in pairing.cells if cell.generator == name))
    ]


def _skipped(job: Job, pairing: Pairing, process: int) -> list[Trial]:
    return [
        without_samples(cell, pairing, process, "skipped", "memory", job.unfit[cell.key])
        for cell in pairing.cells
        if cell.key in job.unfit
    ]


def without_samples(cell: Cell, pairing: Pairing, process: int, status: Status, code: str, message: str) -> Trial:
    """A trial without samples."""
    return Trial(
        cell=cell,
        key=cell.key,
        process=process,
        pairing=f"{pairing.name}#{process}",
        order=pairing.cells.index(cell),
        status=status,
        reason=Reason(code=code, message=message),
    )
