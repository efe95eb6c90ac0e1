"""Pairs of fresh processes: one runs base, one head, and they take samples of the same cells in turn.

The pair is the gate's unit. Everything that could favour a side changes from pair to pair: which one starts first and
goes first in a round, and in which order generators, shapes and cells are measured (drawn from the suite's seed). Only
two workers live at a time, those of one generator.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ...profiles.record import Cell, Reason, Trial, WorkerInfo
from ...profiles.telemetry_client import TelemetryProcess
from ..handle import WorkerFailedError, WorkerHandle
from ..pairing import Crew, PairingRun, Watcher
from ..suites import Pairing
from ..sweep import Job, Metering, load_request
from .proof import greeted
from .sides import Side, SideName

BOTH: tuple[SideName, SideName] = ("base", "head")
_Group = tuple[str, str, str]  # pair, dtype, generator: what one worker loads


@dataclass(slots=True)
class PairBench:
    """Measures one pair of processes after another. `infos` are what the workers of each side have said of themselves.

    Use as a context manager: it ends what it started, whatever happens.
    """

    job: Job
    sides: Mapping[SideName, Side]
    watcher: Watcher
    metering: Metering = field(default_factory=lambda: Metering(TelemetryProcess.start))
    infos: dict[SideName, list[WorkerInfo]] = field(default_factory=lambda: {"base": [], "head": []})
    device_name: str = ""
    _started: float = field(default_factory=time.monotonic)
    _count: int = 0

    def __enter__(self) -> PairBench:
        return self

    def __exit__(self, *_: object) -> None:
        self.metering.close()

    def measure(self, pair: int) -> dict[SideName, list[Trial]]:
        """A trial of every cell at both sides. A worker that fails costs its generator's cells of this pair."""
        draw = random.Random(f"{self.job.suite.seed}:{pair}")
        order = BOTH if pair % 2 == 0 else BOTH[::-1]
        groups = _groups(self.job.pairings)
        trials: dict[SideName, list[Trial]] = {"base": [], "head": []}
        for group in draw.sample(list(groups), len(groups)):
            for side, trial in self._group(group, groups[group], pair, order, draw):
                trials[side].append(trial)
        return trials

    def _group(
        self, group: _Group, parts: Sequence[Pairing], pair: int, order: tuple[SideName, SideName], draw: random.Random
    ) -> Iterator[tuple[SideName, Trial]]:
        handles: dict[str, WorkerHandle] = {}
        infos: dict[str, WorkerInfo] = {}
        done: set[str] = set()
        try:
            for side in order:
                handles[side] = self._start(side, group)
            for side in order:
                infos[side] = self._ready(side, handles[side])
            for part in draw.sample(parts, len(parts)):
                cells = draw.sample(part.cells, len(part.cells))
                doubled = part.model_copy(update={"cells": tuple(cell for cell in cells for _ in order)})
                seats = [side for _ in cells for side in order]
                crew = Crew(handles, infos, lambda side: self._replace(side, group, handles, infos))
                measured = PairingRun(
                    self.job.suite, doubled, pair, crew, self.watcher, self._started,
                    meter=self.metering.meter, no_meter=self.metering.why, seats=seats,
                ).measure()  # fmt: skip
                done.add(part.name)
                yield from zip((_side(seat) for seat in seats), measured, strict=True)
        except WorkerFailedError as error:
            for part in parts:
                if part.name not in done:
                    yield from _lost(part, pair, order, error)
        finally:
            for handle in handles.values():
                handle.end()

    def _start(self, side: SideName, group: _Group) -> WorkerHandle:
        job = self.job
        logs = job.folder / "logs"
        logs.mkdir(exist_ok=True)
        log = logs / f"{side}-{self._count:03d}.log"
        self._count += 1
        handle = WorkerHandle(log, job.threads, job.device, self.sides[side].launch)
        try:
            handle.send("load", **load_request(job, *group))
        except BaseException:
            handle.kill()
            raise
        return handle

    def _ready(self, side: SideName, handle: WorkerHandle) -> WorkerInfo:
        try:
            reply = handle.receive(self.job.suite.hang_s)
        except WorkerFailedError as error:
            raise WorkerFailedError(error.code, f"{side}: {error.message}", fatal=error.fatal) from None
        info = greeted(self.sides[side], reply)
        self.infos[side].append(info)
        self.device_name = reply.get("device_name", "")
        self.metering.watch(self.job.device, reply.get("device_uuid"))
        return info

    def _replace(
        self, seat: str, group: _Group, handles: dict[str, WorkerHandle], infos: dict[str, WorkerInfo]
    ) -> None:
        side = _side(seat)
        handles.pop(side).end()
        handles[side] = self._start(side, group)
        infos[side] = self._ready(side, handles[side])


def _side(seat: str) -> SideName:
    return "base" if seat == "base" else "head"


def _groups(pairings: Sequence[Pairing]) -> dict[_Group, list[Pairing]]:
    """The shapes that each worker measures, with its own cells alone."""
    groups: dict[_Group, list[Pairing]] = {}
    for pairing in pairings:
        kinds: dict[_Group, list[Cell]] = {}
        for cell in pairing.cells:
            kinds.setdefault((cell.pair, cell.dtype, cell.generator), []).append(cell)
        for kind, cells in kinds.items():
            groups.setdefault(kind, []).append(pairing.model_copy(update={"cells": tuple(cells)}))
    return groups


def _lost(
    part: Pairing, pair: int, order: Sequence[SideName], error: WorkerFailedError
) -> Iterator[tuple[SideName, Trial]]:
    """Trials without samples, for the cells of a worker that could not be started or died for good."""
    for number, cell in enumerate(part.cells):
        for side in order:
            yield (
                side,
                Trial(
                    cell=cell,
                    key=cell.key,
                    process=pair,
                    pairing=f"{part.name}#{pair}",
                    order=number,
                    status="failed",
                    reason=Reason(code=error.code, message=error.message),
                ),
            )
