"""One pairing: live workers that take samples in turn, A B C … C B A, until every cell has had enough.

Each round visits every open cell once, in palindromic order, so that a drift of the machine falls on all of them
alike; the log-ratio of two cells is formed round by round. A diffusion cell leaves when its interval is narrow or the
pairing's budget is spent; the AR cells stay as long as anyone needs them for a ratio.
"""

from __future__ import annotations

import functools
import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..profiles.hardware import Hardware, Peak, Telemetry
from ..profiles.record import (
    Calibration,
    Cell,
    Reason,
    Sample,
    Status,
    Stop,
    TextQuality,
    Timeline,
    Trial,
    Value,
    Warmup,
    WorkerInfo,
)
from .handle import WorkerFailedError
from .statistics import median_half_width
from .steady import beside_peers, drift
from .suites import Pairing, Suite

# Clocks held by these say that the device was not itself; a software power cap is a state, recorded and no fault.
_SPOILING = frozenset({"hardware_slowdown", "hardware_thermal", "software_thermal", "power_brake"})
# The other side's OpenMP team spins for some milliseconds after its last region.
_TEAM_SETTLES_S = 0.01
# A trace shows the counters from this long before its generation to this long after it, so that a short one has some.
_AROUND_S = 0.25


class Asked(Protocol):
    """A worker as a pairing sees it (see `handle.WorkerHandle`)."""

    def ask(self, operation: str, timeout_s: float, **fields: Any) -> dict[str, Any]: ...


class Meter(Protocol):
    """The device's counters, sampled in a process of their own (see `telemetry_client.TelemetryProcess`).

    It never fails: what it cannot tell is null, with the reason. Times are those of `time.monotonic`.
    """

    def closely(self) -> AbstractContextManager[None]: ...

    def window(self, *, begin_s: float, end_s: float, generations: int, output_tokens: int) -> Telemetry: ...

    def stretch(self, *, begin_s: float, end_s: float) -> Telemetry: ...

    def reasons(self, *, begin_s: float, end_s: float) -> tuple[tuple[str, ...] | None, int | None]: ...


class Watcher(Protocol):
    """Told between samples, never during one, how the pairing gets on."""

    def cell(self, cell: Cell, phase: str) -> None: ...

    def sampled(self, cell: Cell, count: int, half_width: float | None) -> None: ...

    def failed(self, cell: Cell, reason: Reason) -> None: ...


@dataclass(slots=True)
class Crew:
    """The live workers of a pairing and how to get another when one dies."""

    workers: Mapping[str, Asked]
    infos: dict[str, WorkerInfo]
    replace: Callable[[str], None]


@dataclass(slots=True)
class _Open:
    """A cell's state while its pairing runs. `seat` names its worker among the crew's."""

    cell: Cell
    id: str
    seat: str
    samples: list[Sample] = field(default_factory=list)
    status: Status = "ok"
    reason: Reason | None = None
    prepare_s: float | None = None
    warmup: Warmup | None = None
    stop: Stop | None = None
    counters: dict[str, float | int | str | None] = field(default_factory=dict)
    timeline: Timeline | None = None
    quality: TextQuality | None = None
    hardware: Hardware | None = None
    spent_s: float = 0.0
    open: bool = True

    @property
    def good(self) -> list[float]:
        return [sample.latency_s for sample in self.samples if sample.discarded is None]

    @property
    def by_round(self) -> dict[int, float]:
        return {sample.round: sample.latency_s for sample in self.samples if sample.discarded is None}


class PairingRun:
    """Measures one pairing in one process round. `measure` returns a trial a cell, whatever happened to it.

    `peaks` are those of the device's matrix products, by dtype, where they are known. `seats` name the worker of each
    cell, by default its generator. A cell may sit at two workers, two versions of the same code: both then go on until
    both have had enough.
    """

    def __init__(
        self,
        suite: Suite,
        pairing: Pairing,
        process: int,
        crew: Crew,
        watcher: Watcher,
        started: float,
        *,
        meter: Meter | None = None,
        no_meter: str | None = None,
        traces: Path | None = None,
        peaks: Mapping[str, Peak] | None = None,
        seats: Sequence[str] | None = None,
    ) -> None:
        self._meter, self._no_meter, self._traces = meter, no_meter, traces
        self._peaks = {} if peaks is None else {dtype: peak.model_dump() for dtype, peak in peaks.items()}
        self._suite, self._pairing, self._process = suite, pairing, process
        self._crew, self._watcher, self._started = crew, watcher, started
        self._order = 0
        self._clock_reasons: tuple[str, ...] | None = None
        seats = [cell.generator for cell in pairing.cells] if seats is None else seats
        self._cells = [
            _Open(cell, f"c{number}", seat)
            for number, (cell, seat) in enumerate(zip(pairing.cells, seats, strict=True))
        ]

    def measure(self) -> list[Trial]:
        """Calibrate, prepare and warm up every cell, sample in turn, calibrate again, and write down what was seen."""
        for state in self._cells:
            self._prepare(state)
        before = self._calibrate()
        self._sample_undisturbed()
        after = self._calibrate()
        peaks = [peak for peak in (before, after) if peak is not None]
        # What the samples show comes first: judging and profiling may cost a worker.
        for state in self._cells:
            self._finish(state, peaks)
        # Replays before texts: judging runs other shapes, after which what was compiled for this one is compiled again.
        if self._process == 0 and self._suite.hardware:
            for state in self._cells:
                self._observe(state)
        if self._process == 0 and self._suite.quality_texts:
            for state in self._cells:
                self._judge_texts(state)
        for name in {state.seat for state in self._cells}:
            self._quietly(functools.partial(self._ask, name, "release"))
        return [self._trial(state, before, after) for state in self._cells]

    def _ask(self, seat: str, operation: str, **fields: Any) -> dict[str, Any]:
        worker = self._crew.workers.get(seat)
        if worker is None:  # the last one could not be replaced
            raise WorkerFailedError("crash", "no worker is left for this cell", fatal=True)
        return worker.ask(operation, self._suite.hang_s, **fields)

    def _prepare(self, state: _Open) -> None:
        cell = state.cell

        def work() -> None:
            self._watcher.cell(cell, "prepare")
            reply = self._ask(state.seat, "open", id=state.id, cell=cell.model_dump())
            state.prepare_s = reply["prepare_s"]
            self._watcher.cell(cell, "warm-up")
            reply = self._ask(
                state.seat,
                "warmup",
                id=state.id,
                limit_s=min(self._suite.warmup_s, 4 * self._pairing.budget_s),
                hard_limit_s=self._suite.warmup_s,
            )
            state.warmup = Warmup.model_validate(reply["warmup"])

        self._guard(state, work)

    def _sample_all(self) -> None:
        round_index = 0
        while any(state.open and state.stop is None for state in self._cells):
            active = self._active()
            for state in active if round_index % 2 == 0 else list(reversed(active)):
                if state.open:
                    self._guard(state, functools.partial(self._sample, state, round_index))
                    self._judge(state)
            round_index += 1

    def _active(self) -> list[_Open]:
        """Cells that still want samples, and those that others need beside them, up to the limit of samples."""
        wanting = [state for state in self._cells if state.open and state.stop is None]
        twins = {state.cell.key for state in wanting}
        most = 4 * self._suite.max_samples
        return [
            state
            for state in self._cells
            if state.open
            and (
                state.stop is None or (len(state.samples) < most and (state.cell.key in twins or self._compared(state)))
            )
        ]

    def _compared(self, state: _Open) -> bool:
        """Whether the other cells are compared with this one: the AR cells, unless each is with its own twin."""
        return state.cell.side == "ar" and len({each.cell.key for each in self._cells}) == len(self._cells)

    def _sample(self, state: _Open, round_index: int) -> None:
        self._watcher.cell(state.cell, "sampling")
        info = self._crew.infos.get(state.seat)
        if info is not None and info.threads > 1:
            time.sleep(_TEAM_SETTLES_S)
        # The same prompts and seeds on both sides in the same round, fresh ones in every round and process.
        prompt = self._process * 10_000 + round_index
        reply = self._ask(
            state.seat,
            "sample",
            id=state.id,
            order=self._order,
            round=round_index,
            prompt=prompt,
            seed=(self._suite.seed * 1_000_003 + prompt) % 2**63,
            started_s=time.monotonic() - self._started,
        )
        self._order += 1
        sample = Sample.model_validate(reply["sample"])
        limit = self._suite.foreign_limit
        if limit is not None and sample.foreign_cores is not None and sample.foreign_cores > limit:
            text = f"other processes wanted {sample.foreign_cores:.2f} cores more than were free (limit {limit:g})"
            sample = sample.model_copy(update={"discarded": text})
        state.samples.append(sample)
        state.spent_s += sample.latency_s
        self._watcher.sampled(state.cell, len(state.good), median_half_width(state.good))

    def _judge(self, state: _Open) -> None:
        """Decide whether a cell has had enough, and by which rule."""
        if not state.open or state.stop is not None:
            return
        suite = self._suite
        good, width = len(state.good), median_half_width(state.good)
        # One budget for the whole pairing: a round visits every cell, so a slow cell takes more of it than a fast one.
        budget = self._pairing.budget_s * sum(each.status == "ok" for each in self._cells)
        spent = sum(each.spent_s for each in self._cells)
        if good >= suite.min_samples and width is not None and width <= suite.target_ci:
            text = f"the interval of the median reached +-{width:.2%}, target +-{suite.target_ci:.2%}"
            state.stop = Stop(rule="target_ci", message=text, half_width=width)
        elif good >= suite.max_samples:
            text = f"{good} samples taken, the most allowed"
            state.stop = Stop(rule="max_samples", message=text, half_width=width)
        # Past twice the budget, fewer samples than the minimum must do: slow cells may not eat the whole run.
        elif good and spent >= (budget if good >= suite.min_samples else 2 * budget):
            text = f"the pairing sampled {spent:.2f} s, its budget is {budget:g} s"
            state.stop = Stop(rule="budget", message=text, half_width=width)
        elif spent >= 4 * budget:
            state.stop = Stop(rule="budget", message="every sample within the budget was disturbed", half_width=None)

    def _calibrate(self) -> Calibration | None:
        """The device's peaks now, from the first worker that answers."""
        for state in self._cells:
            try:
                dtype = state.cell.dtype
                reply = self._ask(state.seat, "calibrate", dtype=dtype, peak=self._peaks.get(dtype))
                return Calibration.model_validate(reply["calibration"])
            except WorkerFailedError as error:
                if error.fatal:
                    self._lost(state.seat)
        return None

    def _finish(self, state: _Open, peaks: Sequence[Calibration]) -> None:
        if not state.open:
            return
        if state.status == "ok" and state.samples and not state.good:
            disturbed = f"all {len(state.samples)} samples were disturbed: {state.samples[-1].discarded}"
            state.status, state.reason = "invalid", Reason(code="disturbed", message=disturbed)
        flop_s = max((peak.matmul_flop_s for peak in peaks), default=1.0)
        byte_s = max((peak.read_b_s for peak in peaks), default=1.0)

        def work() -> None:
            counted = [sample.order for sample in state.samples if sample.discarded is None]
            reply = self._ask(state.seat, "close", id=state.id, flop_s=flop_s, byte_s=byte_s, counted=counted)
            state.counters = reply["counters"]
            if not peaks:
                state.counters.pop("floor_s", None)
            state.timeline = None if reply["timeline"] is None else Timeline.model_validate(reply["timeline"])

        # Counters are lost with a worker that dies here; the samples are not.
        self._quietly(work)

    def _judge_texts(self, state: _Open) -> None:
        """What the cell's texts are worth. The same texts' prompts for all; a process would only write them again."""
        if not state.open or not state.good:
            return
        suite = self._suite

        def work() -> None:
            self._watcher.cell(state.cell, "judging texts")
            reply = self._ask(
                state.seat,
                "quality",
                id=state.id,
                texts=suite.quality_texts,
                seed=suite.seed,
                limit_s=suite.quality_s,
            )
            state.quality = None if reply["quality"] is None else TextQuality.model_validate(reply["quality"])

        try:
            work()
        except WorkerFailedError as error:
            why = Value(value=None, why=f"the texts were not judged: {error.message}")
            state.quality = TextQuality(texts=0, seconds=0.0, metrics={"quality.validity": why})
            self._revive(state.seat, error)

    def _sample_undisturbed(self) -> None:
        """Sample; where the device was not itself meanwhile, keep nothing of it and sample once more.

        Cells sampled twice while heat or the board held the clocks, or others used the device, are invalid, not slow.
        """
        for last in (False, True):
            begin = time.monotonic()
            self._sample_all()
            why = self._device_trouble(begin, time.monotonic())
            if why is None:
                return
            for state in self._cells:
                if not state.open:
                    continue
                state.samples = [
                    sample.model_copy(update={"discarded": sample.discarded or why.message}) for sample in state.samples
                ]
                if last:
                    state.status, state.reason = "invalid", why
                else:
                    state.stop, state.spent_s = None, 0.0

    def _device_trouble(self, begin_s: float, end_s: float) -> Reason | None:
        """Why samples taken between two moments (`time.monotonic`) say nothing of the code; None if they do."""
        if self._meter is None:
            return None
        self._clock_reasons, foreign = self._meter.reasons(begin_s=begin_s, end_s=end_s)
        held = sorted(_SPOILING.intersection(self._clock_reasons or ()))
        if not held and not foreign:
            return None
        code = "throttled" if held else "foreign_process"
        text = f"the clocks were held by {', '.join(held)}" if held else f"{foreign} other process(es) on the GPU"
        return Reason(code=code, message=f"{text} while samples were taken")

    def _observe(self, state: _Open) -> None:
        """What the hardware does in a cell, from replays. What goes wrong costs this cell's counters, no sample."""
        if not state.open or not state.good:
            return
        cell = state.cell
        found = Hardware()
        try:
            with self._closely():
                self._watcher.cell(cell, "replay under the profiler")
                counted = [sample.order for sample in state.samples if sample.discarded is None]
                keep = self._traces is not None
                reply = self._ask(state.seat, "observe", id=state.id, counted=counted, keep=keep)
                found = Hardware.model_validate(reply["hardware"])
                if self._traces is not None and reply["kept"] is not None:
                    lost = self._trace(state, self._traces, **reply["kept"])
                    found = found.model_copy(update={"missing": {**found.missing, **lost}})
            # Anew: a long profile would have thinned out the samples that the window needs.
            with self._closely():
                telemetry, why = self._fill(state)
        except WorkerFailedError as error:
            self._revive(state.seat, error)
            telemetry, why = None, error.message
            if found == Hardware():
                found = Hardware(missing={"kernels": why, "memory": why})
        missing = found.missing if telemetry is not None else {**found.missing, "telemetry": why or "not recorded"}
        state.hardware = found.model_copy(update={"telemetry": telemetry, "missing": missing})

    def _closely(self) -> AbstractContextManager[None]:
        return nullcontext() if self._meter is None else self._meter.closely()

    def _trace(self, state: _Open, folder: Path, begin_s: float, end_s: float) -> dict[str, str]:
        """Have the worker write the profile that it keeps, with the readings of its time; or why there is no trace."""
        since = begin_s - _AROUND_S
        seen = None if self._meter is None else self._meter.stretch(begin_s=since, end_s=end_s + _AROUND_S)
        fields = {
            "id": state.id,
            "file": str(folder / f"{_file_name(state.cell.key)}.json.gz"),
            "telemetry": None if seen is None else seen.model_dump(),
            "telemetry_begin_s": since,
        }
        try:
            self._ask(state.seat, "trace", **fields)
        except WorkerFailedError as error:
            if error.fatal:
                raise
            return {"trace": error.message}
        return {}

    def _fill(self, state: _Open) -> tuple[Telemetry | None, str | None]:
        """Replays back to back for a window, watched by the device's counters or by the worker's own; or why not."""
        if self._no_meter is not None:
            return None, self._no_meter
        self._watcher.cell(state.cell, "replay for the counters")
        reply = self._ask(state.seat, "fill", id=state.id, window_s=self._suite.window_s)
        if reply["telemetry"] is not None:
            return Telemetry.model_validate(reply["telemetry"]), None
        if self._meter is None or reply["window"] is None:
            return None, reply["why"]
        return self._meter.window(**reply["window"]), None

    def _quietly(self, work: Callable[[], object]) -> None:
        try:
            work()
        except WorkerFailedError:
            return

    def _guard(self, state: _Open, work: Callable[[], None]) -> None:
        """Run one cell's work; what goes wrong costs this cell, and a worker that died is replaced for the others."""
        try:
            work()
        except WorkerFailedError as error:
            self._fail(state, error)
            if error.fatal:
                self._lost(state.seat)

    def _fail(self, state: _Open, error: WorkerFailedError) -> None:
        state.open = False
        state.status = "invalid" if error.code in ("work", "clock") else "failed"
        state.reason = Reason(code=error.code, message=error.message)
        state.stop = Stop(rule="failed", message=error.message)
        self._watcher.failed(state.cell, state.reason)

    def _lost(self, seat: str) -> None:
        """A worker died: start another and bring its other cells back to where they can be sampled."""
        mates = [s for s in self._cells if s.open and s.seat == seat]
        try:
            self._crew.replace(seat)
        except WorkerFailedError as error:
            for state in mates:
                self._fail(state, error)
            return
        for state in mates:
            # Reopening one may kill the worker again, and that inner loss has then settled the rest.
            if state.open and state.prepare_s is not None:
                # A trial holds the samples of one process: those of the dead one are taken again.
                state.samples.clear()
                state.stop = None
                self._prepare(state)

    def _revive(self, seat: str, error: WorkerFailedError) -> None:
        """After the samples: another worker in the place of a dead one, with the generator's cells open again."""
        if not error.fatal:
            return
        try:
            self._crew.replace(seat)
        except WorkerFailedError:
            return
        for state in self._cells:
            if state.open and state.seat == seat:
                fields = {"id": state.id, "cell": state.cell.model_dump()}
                self._quietly(functools.partial(self._ask, seat, "open", **fields))

    def _drift(self, state: _Open) -> float | None:
        """How the cell's latency moved against those of the other workers in the same rounds: a machine that drifts
        takes all of them along, and is no reason to doubt this one's worker."""
        peers = [each.by_round for each in self._cells if each.seat != state.seat]
        return drift(beside_peers(state.by_round, peers))

    def _trial(self, state: _Open, before: Calibration | None, after: Calibration | None) -> Trial:
        return Trial(
            cell=state.cell,
            key=state.cell.key,
            process=self._process,
            pairing=f"{self._pairing.name}#{self._process}",
            order=self._cells.index(state),
            status=state.status,
            reason=state.reason,
            samples=tuple(state.samples),
            counters=state.counters,
            prepare_s=state.prepare_s,
            warmup=state.warmup,
            stop=state.stop,
            calibration_before=before,
            calibration_after=after,
            worker=self._crew.infos.get(state.seat),
            timeline=state.timeline,
            quality=state.quality,
            hardware=state.hardware,
            clock_reasons=self._clock_reasons,
            drift=self._drift(state),
        )


def _file_name(key: str) -> str:
    """A cell's key as a file's name: at most 150 characters, ending in a digest where it had to be cut or changed."""
    plain = re.sub(r"[^A-Za-z0-9.=+-]+", "_", key)
    return f"{plain[:140]}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
