"""Pairs of fresh processes: one runs base, one head, and they take samples of the same cells in turn.

The pair is the gate's unit. Everything that could favour a side changes from pair to pair: which one starts first and
goes first in a round, on which processors they take their turns, and in which order generators, shapes and cells are
measured (drawn from the suite's seed). The two processes load one generator after another: starting one costs more
than most cells do. Where the workers share processors and others are free, the next pair's processes start on those,
and load their first generator, while this pair is measured: a neighbour of both sides alike, since they take turns.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ...models.plugins import side_of
from ...profiles.pinning import other_cpus
from ...profiles.record import Cell, Trial, WorkerInfo
from ...profiles.telemetry_client import TelemetryProcess
from ..handle import WorkerFailedError, WorkerHandle
from ..pairing import Crew, PairingRun, Watcher
from ..plan import Plan
from ..suites import Pairing
from ..sweep import Job, Metering, load_request, without_samples
from .proof import greeted
from .sides import Side, SideName

BOTH: tuple[SideName, SideName] = ("base", "head")
# Counters and texts of the cells are a run's business; a gate spends its time on pairs.
_TIMED_ONLY = {"hardware": False, "quality_texts": 0, "studies": False, "traces": False}
# Parameters of a model that may be loaded beside samples: some megabytes, which neither memory nor its bus will feel.
_LIGHT = 10_000_000
_Group = tuple[str, str, str]  # pair, dtype, generator: what one worker loads


def gate_job(plan: Plan, folder: Path) -> Job:
    """What pairs of a plan measure, into `folder`."""
    return Job.of(plan, folder, suite=plan.suite.model_copy(update=_TIMED_ONLY), judge=None)


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
    _next: dict[str, WorkerHandle] = field(default_factory=dict)
    _loading: set[WorkerHandle] = field(default_factory=set)
    _started: float = field(default_factory=time.monotonic)
    _count: int = 0

    def __enter__(self) -> PairBench:
        return self

    def __exit__(self, *_: object) -> None:
        self.metering.close()
        for handle in self._next.values():
            handle.kill()
            handle.end()

    def measure(self, pair: int, more: bool = False) -> dict[SideName, list[Trial]]:
        """A trial of every cell at both sides. A worker that fails costs its generator's cells of this pair.

        `more`: another pair follows, whose processes may start meanwhile.
        """
        order, groups = _order(pair), _groups(self.job.pairings)
        draw, drawn = self._drawn(pair, groups)
        trials: dict[SideName, list[Trial]] = {"base": [], "head": []}
        handles, self._next = self._next, {}
        try:
            for group in drawn:
                for side, trial in self._group(group, groups[group], pair, order, draw, handles, ahead=more):
                    trials[side].append(trial)
                more = False
        except BaseException:
            for handle in handles.values():
                handle.kill()  # it may be in the middle of a generation
            raise
        finally:
            for handle in handles.values():
                handle.end()
        return trials

    def _drawn(self, pair: int, groups: Mapping[_Group, Sequence[Pairing]]) -> tuple[random.Random, list[_Group]]:
        """The pair's random numbers, and its generators in the order that they give."""
        draw = random.Random(f"{self.job.suite.seed}:{pair}")
        return draw, draw.sample(list(groups), len(groups))

    def _group(
        self,
        group: _Group,
        parts: Sequence[Pairing],
        pair: int,
        order: tuple[SideName, SideName],
        draw: random.Random,
        handles: dict[str, WorkerHandle],
        *,
        ahead: bool,
    ) -> Iterator[tuple[SideName, Trial]]:
        infos: dict[str, WorkerInfo] = {}
        done: set[str] = set()
        try:
            for side in order:
                self._load(side, group, handles)
            for side in order:
                infos[side] = self._ready(side, handles[side], pair)
            if ahead:
                self._start_next(pair + 1, taken=infos[order[0]].cpus)
            for part in draw.sample(parts, len(parts)):
                cells = draw.sample(part.cells, len(part.cells))
                doubled = part.model_copy(update={"cells": tuple(cell for cell in cells for _ in order)})
                seats = [side for _ in cells for side in order]
                crew = Crew(handles, infos, lambda side: self._replace(side, group, pair, handles, infos))
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
            # One of them may still owe an answer: the next generator gets fresh ones.
            for side in order:
                if side in handles:
                    handles.pop(side).kill()

    def _load(self, side: SideName, group: _Group, handles: dict[str, WorkerHandle]) -> None:
        """Have the side's worker load a generator, and start it where none is alive."""
        job = self.job
        if side in handles and not handles[side].alive:
            handles.pop(side).end()
        if side not in handles:
            handles[side] = self._start(side)
        if handles[side] in self._loading:  # since the last pair
            self._loading.discard(handles[side])
        else:
            handles[side].send("load", **load_request(job, *group))

    def _start(self, side: SideName) -> WorkerHandle:
        logs = self.job.folder / "logs"
        logs.mkdir(exist_ok=True)
        log = logs / f"{side}-{self._count:03d}.log"
        self._count += 1
        return WorkerHandle(log, self.job.threads, self.job.device, self.sides[side].launch)

    def _start_next(self, pair: int, taken: Sequence[int] | None) -> None:
        """Start the processes of a pair to come on processors that the present one, on those `taken`, leaves free.

        They import what they need and load what comes first, if that is light. What cannot be done now is left to the
        pair itself.
        """
        free = other_cpus(taken) if taken else ()
        (name, dtype, generator), *_ = self._drawn(pair, _groups(self.job.pairings))[1]
        sides = self.job.pairs[name].seen_from(side_of(generator))
        light = all(side.backbone.total_parameters <= _LIGHT for side in sides)
        for side in _order(pair) if free else ():
            try:
                handle = self._start(side)
            except WorkerFailedError:
                return
            self._next[side] = handle
            if handle.pin(free) is None:  # it would run beside the samples
                self._next.pop(side).kill()
                return
            with suppress(WorkerFailedError):  # asked again in its turn, it will fail again, and be heard
                if light:
                    handle.send("load", **load_request(self.job, name, dtype, generator))
                    self._loading.add(handle)

    def _ready(self, side: SideName, handle: WorkerHandle, pair: int) -> WorkerInfo:
        try:
            reply = handle.receive(self.job.suite.hang_s)
        except WorkerFailedError as error:
            raise WorkerFailedError(error.code, f"{side}: {error.message}", fatal=error.fatal) from None
        info = greeted(self.sides[side], reply).model_copy(update={"cpus": handle.pin(self.job.cpus(pair))})
        self.infos[side].append(info)
        self.device_name = reply.get("device_name", "")
        self.metering.watch(self.job.device, reply.get("device_uuid"))
        return info

    def _replace(
        self,
        seat: str,
        group: _Group,
        pair: int,
        handles: dict[str, WorkerHandle],
        infos: dict[str, WorkerInfo],
    ) -> None:
        side = _side(seat)
        handles.pop(side).end()
        self._load(side, group, handles)
        infos[side] = self._ready(side, handles[side], pair)


def _order(pair: int) -> tuple[SideName, SideName]:
    """Which side of a pair goes first."""
    return BOTH if pair % 2 == 0 else (BOTH[1], BOTH[0])


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
    for cell in part.cells:
        for side in order:
            yield side, without_samples(cell, part, pair, "failed", error.code, error.message)
