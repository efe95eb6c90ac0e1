"""A load from its plan to its record: windows one after another, endpoints in turn, levels summed up."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from ... import InputError, __version__
from ...models.endpoints.client import Limits
from ...models.endpoints.endpoint import Endpoint
from ...models.endpoints.faults import meaning
from ...models.endpoints.loop import run_loop
from ...profiles.environment import capture_environment, read_moment
from ...profiles.serving.record import (
    Level,
    Load,
    LoadRun,
    LoadSettings,
    Offered,
    Prompts,
    Ratio,
    RequestRecord,
    Saturation,
    Window,
)
from ...profiles.serving.store import StoredLoad, append_requests, rewrite_requests, write_load
from ...profiles.serving.summary import Price, level_metrics, ratios
from ..folders import new_id, refuse_changes
from .certificate import certificate, ordered, unknown
from .driver import Opened, WindowPlan, run_window
from .options import MOST_OPEN, LoadOptions, LoadPlan, default_warmup
from .prompts import Bodies, Counting, Pool
from .reading import read_window, usage_warning
from .spend import price_of
from .targets import Target

# A client that is late by more than this share of the gaps between arrivals is not the load that was asked for.
_LATE = 0.1
_LATE_S = 0.005
# A sweep ends when doubling the load has raised the throughput by less than this, twice, or so many requests fail.
_GAIN, _FAILED = 0.05, 0.05
_MOST_LEVELS = 16
_MOST_CLIENTS = 4096
# Throughput of at least so much of the highest is as good as the highest.
_SATURATED = 0.95


@dataclass(slots=True)
class Session:
    """Measures `plan` on `targets` into `folder`. `said` is told, between windows only, what comes next; windows in
    `kept`, of the same load before it was cut off, are not opened again.
    """

    plan: LoadPlan
    options: LoadOptions
    targets: Sequence[Target]
    counting: Counting
    folder: Path
    command: Sequence[str]
    said: Callable[[str], None]
    most_open: int = MOST_OPEN
    kept: StoredLoad | None = None
    _windows: list[Window] = field(default_factory=list)
    _levels: dict[tuple[Load, int], Level] = field(default_factory=dict)
    _requests: dict[int, list[RequestRecord]] = field(default_factory=dict)
    _begin: float = field(default_factory=time.monotonic)
    _before_s: float = 0.0
    _bodies: list[Bodies] = field(default_factory=list)

    def run(self) -> LoadRun:
        """Open all windows; what has been measured is on disk after each."""
        record = self._record() if self.kept is None else self._going_on(self.kept)
        write_load(self.folder, record)
        options = self.options
        self._bodies = [
            Bodies(
                target.endpoint,
                self.counting,
                options.prompt_tokens,
                options.output_tokens,
                options.temperature,
                options.send_ids,
                # A server may have in its cache what it was sent before, in a window that was cut off too.
                first=max(record.prompts.used, default=0),
            )
            for target in self.targets
        ]
        saturation = None
        if self.plan.sweep:
            saturation = self._sweep(record)
        else:
            for round_number in range(self.plan.rounds):
                for load in self.plan.levels:
                    for endpoint in self._order(round_number):
                        self._window(round_number, endpoint, load, record)
        if len(self._windows) < len(self._kept):
            raise InputError(f"--resume {self.folder}: has more windows than this load would open; start a new one")
        record = self._summed(record).model_copy(
            update={
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "saturation": saturation,
                "environment": record.environment | {"after": read_moment()},
            }
        )
        write_load(self.folder, record)
        return record

    def _record(self) -> LoadRun:
        endpoints = tuple(target.record() for target in self.targets)
        plan, options = self.plan, self.options
        source = self.counting.prompts
        return LoadRun(
            id=new_id(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=tuple(self.command),
            endpoints=endpoints,
            tokenizer=self.counting.record(),
            prompts=Prompts(
                source=source.name,
                sha256=source.sha256,
                tokens=options.prompt_tokens,
                form="token ids" if options.send_ids else "text",
            ),
            settings=LoadSettings(
                output_tokens=options.output_tokens,
                temperature=options.temperature,
                requests=plan.requests,
                duration_s=plan.duration_s,
                ramp_s=plan.ramp_s,
                warmup=plan.warmup,
                rounds=plan.rounds,
                timeout_s=plan.timeout_s,
                retries=plan.retries,
                connections="a new one for each request" if options.fresh else "kept and used again",
                together_s=options.together_s,
                sweep=plan.sweep,
                seed=options.seed,
                price_prompt=options.price_prompt,
                price_output=options.price_output,
            ),
            objectives=plan.objectives,
            certificate=certificate(endpoints),
            unknown=unknown(endpoints),
            environment=capture_environment(),
            dlmbench_version=__version__,
            options=self.options.model_dump(mode="json", exclude_defaults=True),
            cwd=os.getcwd(),
        )

    def _going_on(self, kept: StoredLoad) -> LoadRun:
        """The record of a load that goes on, its windows still there; the lines of one that was cut off go.

        Raises InputError where servers, prompts or tokenizer are not what they were: two loads are never one.
        """
        now, run = self._record(), kept.run
        asked, then = ([each.model_copy(update={"key": None}) for each in of.endpoints] for of in (now, run))
        libraries = [dict(of.environment.get("libraries") or {}) for of in (now, run)]
        differing = {
            "a server or how it is asked": asked != then,
            "the prompts": now.prompts.sha256 != run.prompts.sha256,
            "the tokenizer": now.tokenizer != run.tokenizer,
            "the settings": now.settings != run.settings or now.objectives != run.objectives,
            "dlmbench": now.dlmbench_version != run.dlmbench_version,
            **{name: libraries[0].get(name) != libraries[1].get(name) for name in ("aiohttp", "uvloop")},
        }
        refuse_changes(self.folder, differing)
        rewrite_requests(self.folder, kept.requests)
        self._before_s = run.duration_s or 0.0
        return run

    def _order(self, round_number: int) -> Sequence[int]:
        """Endpoints A B, then B A: a drift of what lies between cancels."""
        places = range(len(self.targets))
        return places if round_number % 2 == 0 else places[::-1]

    def _window(self, round_number: int, endpoint: int, load: Load, record: LoadRun) -> Window:
        plan, number = self.plan, len(self._windows)
        if number < len(self._kept):
            return self._kept_window(self._kept[number], (round_number, endpoint, load))
        target = self.targets[endpoint]
        warmup = plan.warmup if plan.warmup is not None else default_warmup(load)
        expected = None if plan.requests is None else plan.requests + warmup + _in_ramp(load, plan)
        window_plan = WindowPlan(
            load=load,
            requests=plan.requests,
            duration_s=plan.duration_s,
            ramp_s=plan.ramp_s,
            warmup=warmup,
            retries=plan.retries,
            # Both servers of a round get the same arrivals.
            seed=f"{self.options.seed}/{round_number}/{load.key}",
            fresh=self.options.fresh,
            most_open=self.most_open,
            limits=Limits(timeout_s=plan.timeout_s, connect_s=min(10.0, plan.timeout_s)),
        )
        pool = self._bodies[endpoint].window(expected)
        write_load(self.folder, self._summed(record))  # how many prompts are used, should this window be cut off
        which = f"round {round_number + 1} of {plan.rounds}, " if plan.rounds > 1 else ""
        self.said(f"{which}{target.endpoint.name}: {load.key}")
        began = datetime.now(UTC).isoformat(timespec="milliseconds")
        opened = run_loop(run_window(target.endpoint, window_plan, pool))
        requests = read_window(number, opened, target.endpoint, self.counting.tokenizer, self.options.prompt_tokens)
        counted = [request for request in requests if request.part == "counted"]
        window = Window(
            number=number,
            round=round_number,
            endpoint=endpoint,
            load=load,
            began=began,
            seconds=_seconds(counted),
            stopped_by=opened.stopped_by,
            most_open=opened.most_open,
            late_p99_s=round(max(float(np.quantile(opened.late_s, 0.99)), 0.0), 6) if opened.late_s else None,
            sha256_of_bodies=pool.sha256,
            warnings=tuple(_warnings(load, counted, opened, target.endpoint, self.options.output_tokens, pool)),
        )
        append_requests(self.folder, requests)
        self._add(window, counted)
        write_load(self.folder, self._summed(record))
        return window

    @property
    def _kept(self) -> Sequence[Window]:
        return () if self.kept is None else self.kept.run.windows

    def _kept_window(self, window: Window, wanted: tuple[int, int, Load]) -> Window:
        """A window that had ended before the load was cut off, in its place."""
        assert self.kept is not None
        if (window.round, window.endpoint, window.load) != wanted:
            raise InputError(f"--resume {self.folder}: its windows are not in the order of this load; start a new one")
        own = [each for each in self.kept.requests if each.window == window.number and each.part == "counted"]
        self._add(window, own)
        return window

    def _add(self, window: Window, counted: list[RequestRecord]) -> None:
        """A window that has ended, and its level with it."""
        load, endpoint = window.load, window.endpoint
        self._windows.append(window)
        self._requests[window.number] = counted
        own = [w for w in self._windows if (w.load, w.endpoint) == (load, endpoint)]
        self._levels[load, endpoint] = level_of(
            own, self._requests, self.plan.objectives, self.options.together_s, price_of(self.options)
        )

    def _sweep(self, record: LoadRun) -> Saturation:
        """Double the load until it brings nothing more: the levels' throughput, and where it is saturated."""
        kind, value = self.plan.levels[0].kind, self.plan.levels[0].value
        rates: list[tuple[float, float]] = []
        flat, why = 0, "the most levels"
        for _ in range(_MOST_LEVELS):
            load = Load(kind=kind, value=value)
            windows = [self._window(n, 0, load, record) for n in range(self.plan.rounds)]
            counted = [request for window in windows for request in self._requests[window.number]]
            ok = [request for request in counted if request.status == "ok"]
            seconds = sum(window.seconds for window in windows)
            rate = len(ok) / seconds if seconds > 0 else 0.0
            flat = flat + 1 if rates and rate < rates[-1][1] * (1 + _GAIN) else 0
            rates.append((value, rate))
            if not counted or len(ok) < (1 - _FAILED) * len(counted):
                why = f"more than {_FAILED:.0%} of requests failed"
                break
            if flat == 2:
                why = f"doubling the load twice raised the throughput by less than {_GAIN:.0%} each time"
                break
            if kind == "closed" and value * 2 > min(self.most_open, _MOST_CLIENTS):
                why = f"{value:g} open requests, of which this client can hold no more than {self.most_open:,}"
                break
            value *= 2
        best = max(rate for _, rate in rates)
        level = next(value for value, rate in rates if rate >= _SATURATED * best)
        return Saturation(
            kind=kind,
            levels=tuple(Offered(value=value, requests_s=rate) for value, rate in rates),
            at=level if best > 0 else None,
            rule=f"the least load with {_SATURATED:.0%} of the highest rate of answered requests",
            ended=why,
        )

    def _summed(self, record: LoadRun) -> LoadRun:
        """The record with all that is known by now."""
        return record.model_copy(
            update={
                "duration_s": round(self._before_s + time.monotonic() - self._begin, 3),
                "prompts": record.prompts.model_copy(update=self._sent()),
                "windows": tuple(self._windows),
                "levels": tuple(self._levels.values()),
                "ratios": tuple(self._ratios(record)),
                "fault_meanings": {code: meaning(code) for level in self._levels.values() for code in level.faults},
            }
        )

    def _sent(self) -> dict[str, tuple[object, ...]]:
        """What has been made for each server, and the sum of what it was sent in whole windows."""
        sums = [hashlib.sha256() for _ in self.targets]
        for window in self._windows:
            sums[window.endpoint].update(window.sha256_of_bodies.encode())
        return {
            "used": tuple(each.first for each in self._bodies),
            "sha256_of_bodies": tuple(each.hexdigest() for each in sums),
        }

    def _ratios(self, record: LoadRun) -> list[Ratio]:
        """Diffusion over AR, or second over first, for every load that both have seen."""
        if len(self.targets) != 2:
            return []
        first, _ = ordered(record.endpoints)
        reference = record.endpoints.index(first)
        found = []
        for load in dict.fromkeys(window.load for window in self._windows):
            rounds: dict[int, dict[int, Window]] = {}
            for window in self._windows:
                if window.load == load:
                    rounds.setdefault(window.round, {})[window.endpoint] = window
            pairs = []
            for windows in rounds.values():
                if len(windows) == 2:
                    a, b = windows[reference], windows[1 - reference]
                    pairs.append((self._requests[a.number], a.seconds, self._requests[b.number], b.seconds))
            if pairs:
                found.append(Ratio(load=load, metrics=ratios(pairs, self.options.together_s)))
        return found


def level_of(
    windows: Sequence[Window],
    requests: Mapping[int, Sequence[RequestRecord]],
    objectives: Mapping[str, float],
    together_s: float,
    price: Price | None,
) -> Level:
    """A level's summary from the requests of its windows that count."""
    counted = [request for window in windows for request in requests[window.number]]
    faults: dict[str, int] = {}
    for request in counted:
        if request.reason is not None:
            faults[request.reason.code] = faults.get(request.reason.code, 0) + 1
    notes = [note for window in windows for note in window.warnings]
    notes += [note for request in counted for note in request.notes]
    return Level(
        endpoint=windows[0].endpoint,
        load=windows[0].load,
        windows=len(windows),
        requests=len(counted),
        metrics=level_metrics(windows, requests, objectives, together_s, price),
        faults=dict(sorted(faults.items(), key=lambda item: (-item[1], item[0]))),
        usage_differs=usage_warning(counted),
        notes=tuple(dict.fromkeys(notes))[:20],
    )


def _seconds(counted: Sequence[RequestRecord]) -> float:
    """From the first counted request sent to the end of the last."""
    if not counted:
        return 0.0
    return max(r.sent_s + r.closed_s for r in counted) - min(r.sent_s for r in counted)


def _in_ramp(load: Load, plan: LoadPlan) -> int:
    """About how many requests a ramp sends of an open loop; of a closed one nobody knows."""
    return round(load.value * plan.ramp_s / 2) if load.kind != "closed" else 0


def _warnings(
    load: Load, counted: Sequence[RequestRecord], opened: Opened, endpoint: Endpoint, wanted: int, pool: Pool
) -> list[str]:
    """What makes a window another load than it says."""
    found = []
    if pool.repeated:
        found.append("more requests were sent than prompts were made: prompts came again")
    if load.kind != "closed" and counted:
        lags = sorted(request.sent_s - request.due_s for request in counted)
        late = lags[int(0.99 * (len(lags) - 1))]
        if late > max(_LATE / load.value, _LATE_S):
            found.append(f"the client was late by {1e3 * late:.0f} ms at its p99: this machine cannot send that load")
    answered = [request for request in counted if request.status == "ok"]
    lengths = [request.usage_output_tokens or request.tokens for request in answered]
    short = sum(length is not None and length < wanted for length in lengths)
    if endpoint.ignore_eos is not None and short:
        found.append(f"{short} of {len(answered)} answers were shorter than asked for, though told not to stop early")
    if opened.late_s and (late_s := float(np.quantile(opened.late_s, 0.99))) > _LATE_S:
        found.append(f"the client's loop was late by {1e3 * late_s:.0f} ms at its p99, and so were its stamps")
    cached = sum(request.status == "ok" and request.reused is False for request in counted)
    if cached and cached < len(counted):
        found.append(f"{cached} of {len(counted)} requests made a new connection")
    if any(request.reason is not None and request.reason.code == "client_full" for request in counted):
        found.append(f"the client's limit of open requests was reached ({opened.most_open:,})")
    return found
