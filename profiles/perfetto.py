"""A profiled generation as a Perfetto trace: what was announced, what ran, and what the counters said, on one clock.

The file is the Chrome Trace Event format (JSON, gzip), which https://ui.perfetto.dev opens from disk. Tracks, by
process: "generation" (forwards, phases, commits and a counter of committed tokens), "device" (kernels by stream; on a
CPU operators by thread), "host" (operators and launches that fed a GPU) and "counters" (one for each series of
telemetry). Equal input gives equal bytes. `trace_tracks` reads a trace back and refuses one that is no valid trace.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import InputError
from .annotated import FORWARD
from .hardware import Telemetry
from .kernels import Profiled, Span, clean_name
from .record import ForwardSpan, Timeline

MOST_EVENTS = 200_000
MOST_BYTES = 16_000_000
_MOST_READINGS = 10_000
_MOST_JSON_BYTES = 512_000_000

_PROCESSES = {"generation": 1, "device": 2, "host": 3, "counters": 4}
_SERIES = {
    "power_w": "power (W)",
    "sm_clock_mhz": "SM clock (MHz)",
    "memory_clock_mhz": "memory clock (MHz)",
    "temperature_c": "temperature (°C)",
    "gpu_util_nvml": "GPU util (NVML)",
    "memory_used_b": "memory used (B)",
}

_Event = dict[str, Any]


@dataclass(slots=True)
class _Tracks:
    """Events gathered track by track; thread numbers are given out in order, so that the viewer sorts them alike."""

    shift_ns: int
    events: list[_Event] = field(default_factory=list)
    _named: dict[tuple[str, str], int] = field(default_factory=dict)

    def tid(self, process: str, track: str) -> int:
        """The thread number of a track, named at its first use."""
        if (process, track) not in self._named:
            self._named[process, track] = len(self._named) + 1
        return self._named[process, track]

    def at(self, seconds: float) -> float:
        """Microseconds in the trace, whole nanoseconds, never negative."""
        return (round(seconds * 1e9) + self.shift_ns) / 1000

    def slice(
        self, process: str, track: str, name: str, begin_s: float, end_s: float, cat: str, args: Mapping[str, Any]
    ) -> None:
        begin, end = round(begin_s * 1e9), round(end_s * 1e9)
        self.events.append(
            {
                "ph": "X", "pid": _PROCESSES[process], "tid": self.tid(process, track), "name": name, "cat": cat,
                "ts": (begin + self.shift_ns) / 1000, "dur": max(0, end - begin) / 1000, "args": dict(args),
            }
        )  # fmt: skip

    def instant(self, process: str, track: str, name: str, at_s: float, args: Mapping[str, Any]) -> None:
        self.events.append(
            {
                "ph": "i", "s": "t", "pid": _PROCESSES[process], "tid": self.tid(process, track), "name": name,
                "ts": self.at(at_s), "args": dict(args),
            }
        )  # fmt: skip

    def counter(self, process: str, name: str, at_s: float, value: float) -> None:
        self.events.append(
            {"ph": "C", "pid": _PROCESSES[process], "name": name, "ts": self.at(at_s), "args": {"value": value}}
        )

    def names(self) -> list[_Event]:
        """The metadata events: processes and tracks by name, in the order of their numbers."""
        used = {event["pid"] for event in self.events}
        found = []
        for process, pid in _PROCESSES.items():
            if pid in used:
                found.append(_meta("process_name", pid, 0, {"name": process}))
                found.append(_meta("process_sort_index", pid, 0, {"sort_index": pid}))
        for (process, track), tid in self._named.items():
            found.append(_meta("thread_name", _PROCESSES[process], tid, {"name": track}))
            found.append(_meta("thread_sort_index", _PROCESSES[process], tid, {"sort_index": tid}))
        return found


def _meta(name: str, pid: int, tid: int, args: _Event) -> _Event:
    return {"ph": "M", "pid": pid, "tid": tid, "name": name, "args": args}


def perfetto_trace(
    path: Path,
    *,
    profiled: Profiled,
    timeline: Timeline | None,
    telemetry: Telemetry | None,
    telemetry_offset_s: float,
    title: str,
    metadata: Mapping[str, object],
) -> Path:
    """Write one profiled generation to `path` (`….json.gz`) and return it; a crash leaves the old file or the new one.

    All times are seconds since the begin of the generation's region; telemetry's begin `telemetry_offset_s` after it
    (negative: before). Without a timeline the forwards are those of the profile, and there are no commits. At most
    `MOST_EVENTS` events and `MOST_BYTES` bytes: the shortest operators that call no other go first, and
    `otherData.dropped_events` says how many are missing.
    """
    cap = MOST_EVENTS
    while True:
        data = _encoded(profiled, timeline, telemetry, telemetry_offset_s, title, metadata, cap)
        if len(data) <= MOST_BYTES or cap < 1000:
            break
        cap //= 2
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def _encoded(
    profiled: Profiled,
    timeline: Timeline | None,
    telemetry: Telemetry | None,
    telemetry_offset_s: float,
    title: str,
    metadata: Mapping[str, object],
    cap: int,
) -> bytes:
    readings = _readings(telemetry, telemetry_offset_s)
    earliest = min((at for series in readings.values() for at, _ in series), default=0.0)
    tracks = _Tracks(shift_ns=max(0, -round(earliest * 1e9)))
    _generation(tracks, profiled, timeline)
    for name, series in readings.items():
        for at, value in series:
            tracks.counter("counters", name, at, value)
    kept, dropped = _longest(profiled.spans, cap - len(tracks.events))
    _work(tracks, kept, profiled.device)
    other = {clean_name(str(key)): _plain(value) for key, value in metadata.items()}
    other |= {
        "title": clean_name(title),
        "dropped_events": dropped,
        "generation_begins_us": tracks.shift_ns / 1000,
        "wall_s": profiled.wall_s,
    }
    document = {"displayTimeUnit": "ns", "otherData": other, "traceEvents": tracks.names() + tracks.events}
    text = json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return gzip.compress(text.encode("ascii"), compresslevel=6, mtime=0)


def _plain(value: object) -> object:
    """A value that JSON can hold: numbers as they are, None for those that are not finite, the rest as clean text."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return clean_name(str(value))


def _generation(tracks: _Tracks, profiled: Profiled, timeline: Timeline | None) -> None:
    """What the generator announced: forwards, runs of one phase with the sampling in them, commits."""
    if timeline is None:
        for span in profiled.spans:
            if span.kind == "region" and span.name.startswith(FORWARD):
                phase = span.name.removeprefix(FORWARD)
                tracks.slice("generation", "forwards", phase, span.begin_s, span.end_s, "forward", {})
        return
    commits = sorted(timeline.commits, key=lambda commit: commit.at_s)
    forwards = sorted(timeline.forwards, key=lambda forward: forward.begin_s)
    for forward in forwards:
        work = {
            "network": forward.network, "rows": forward.rows, "q_len": forward.q_len, "kv_len": forward.kv_len,
            "logit_rows": forward.logit_rows, "mask": forward.mask,
        }  # fmt: skip
        tracks.slice("generation", "forwards", forward.phase, forward.begin_s, forward.end_s, "forward", work)
    _phases(tracks, forwards, [commit.at_s for commit in commits])
    for commit in commits:
        counts = {"step": commit.step, "positions": len(commit.positions), "final": commit.final}
        tracks.instant("generation", "commits", f"step {commit.step}", commit.at_s, counts)
    committed: set[int] = set()
    for commit in commits:
        if commit.final:
            committed.update(commit.positions)
            tracks.counter("generation", "committed tokens", commit.at_s, len(committed))


def _phases(tracks: _Tracks, forwards: Sequence[ForwardSpan], commits: Sequence[float]) -> None:
    """One span for each run of forwards of a phase; in it, sampling from a forward's end to the last commit it led to.

    A run lasts until the next one begins or, the last one, until its last commit.
    """
    begin, count, next_commit = 0.0, 0, 0
    sampled: list[tuple[float, float]] = []
    for index, forward in enumerate(forwards):
        begin, count = (forward.begin_s, 1) if count == 0 else (begin, count + 1)
        following = forwards[index + 1] if index + 1 < len(forwards) else None
        until, last = math.inf if following is None else following.begin_s, forward.end_s
        while next_commit < len(commits) and commits[next_commit] <= until:
            last = max(last, commits[next_commit])
            next_commit += 1
        if last > forward.end_s:
            sampled.append((forward.end_s, last))
        if following is None or following.phase != forward.phase:
            end = last if following is None else following.begin_s
            tracks.slice("generation", "phases", forward.phase, begin, end, "phase", {"forwards": count})
            for sampling in sampled:
                tracks.slice("generation", "phases", "sampling", *sampling, "sampling", {})
            sampled.clear()
            count = 0


def _readings(telemetry: Telemetry | None, offset_s: float) -> dict[str, list[tuple[float, float]]]:
    """Counter track -> (seconds since the region's begin, value) in order; failed readings are left out."""
    if telemetry is None:
        return {}
    at = telemetry.series.get("at_s", ())
    found: dict[str, list[tuple[float, float]]] = {}
    for name in sorted(telemetry.series, key=lambda name: (list(_SERIES).index(name) if name in _SERIES else 99, name)):
        if name == "at_s":
            continue
        points = sorted(
            (float(when) + offset_s, float(value))
            for when, value in zip(at, telemetry.series[name], strict=False)
            if when is not None and value is not None and math.isfinite(when) and math.isfinite(value)
        )
        if points:
            found[_SERIES.get(name, clean_name(name))] = points[:: -(-len(points) // _MOST_READINGS)]
    return found


def _longest(spans: Sequence[Span], most: int) -> tuple[list[Span], int]:
    """The spans to draw, in order, and how many were dropped: operators that call no other first, the shortest first.

    After them go launches, then operators around others and regions, then kernels. Nesting survives any of it.
    """
    excess = len(spans) - max(0, most)
    if excess <= 0:
        return list(spans), 0
    rank = {"op": 2, "launch": 1, "region": 3, "kernel": 4, "copy": 4}
    order = sorted(
        range(len(spans)),
        key=lambda i: (
            0 if spans[i].kind == "op" and spans[i].leaf else rank[spans[i].kind],
            spans[i].end_s - spans[i].begin_s,
            i,
        ),
    )
    dropped = set(order[:excess])
    return [span for i, span in enumerate(spans) if i not in dropped], excess


def _work(tracks: _Tracks, spans: Iterable[Span], device: str) -> None:
    """What ran, on as many lanes a track as it takes for spans to nest: kernels of a graph may overlap in a stream."""
    by_track: dict[tuple[int, str, int], list[Span]] = defaultdict(list)
    for span in spans:
        if span.kind in ("kernel", "copy"):
            by_track[0, f"stream {span.track}", span.track].append(span)
        elif span.kind == "launch":
            by_track[2, f"launches, thread {span.track}", span.track].append(span)
        else:
            by_track[1, f"{'thread' if device == 'cpu' else 'operators, thread'} {span.track}", span.track].append(span)
    for key in sorted(by_track, key=lambda key: (key[0], key[2])):
        kind, track, _ = key
        process = "device" if kind == 0 or (kind == 1 and device == "cpu") else "host"
        for lane, members in enumerate(_lanes(by_track[key], nest=kind != 0), start=1):
            for span in members:
                args: dict[str, Any] = {} if span.kind == "region" else {"phase": span.phase}
                if span.kind == "op" and not span.leaf:
                    args["own_us"] = round(span.own_s * 1e9) / 1000
                cat = span.category if span.kind in ("op", "kernel", "copy") else span.kind
                label = track if lane == 1 else f"{track} ({lane})"
                tracks.slice(process, label, span.name, span.begin_s, span.end_s, cat, args)


def _lanes(spans: Iterable[Span], nest: bool) -> list[list[Span]]:
    """Spread spans so that on a lane any two are apart or (with `nest`) one lies in the other, parents first."""
    lanes: list[tuple[list[Span], list[int]]] = []
    whole = [(round(span.begin_s * 1e9), round(span.end_s * 1e9), span) for span in spans]
    for begin, end, span in sorted(whole, key=lambda item: (item[0], -item[1], item[2].depth)):
        lane = next((lane for lane in lanes if _fits(lane[1], begin, end, nest)), None)
        if lane is None:
            lane = ([], [])
            lanes.append(lane)
        lane[0].append(span)
        lane[1].append(end)
    return [members for members, _ in lanes]


def _fits(open_until: list[int], begin: int, end: int, nest: bool) -> bool:
    while open_until and open_until[-1] <= begin:
        open_until.pop()
    return not open_until or (nest and end <= open_until[-1])


def trace_tracks(path: Path) -> dict[str, int]:
    """Track ("process/track") -> its number of events, of a trace in Chrome's format (JSON, gzip or plain).

    Raises InputError where the file is no such trace: an event without what its kind needs, a negative duration, spans
    that overlap without nesting, an end without a begin, a counter that goes back in time, a track without a name.
    """
    events = _read_events(path)
    processes, threads = _names(events, path)
    counts: Counter[str] = Counter()
    begun: dict[str, list[int]] = defaultdict(list)
    counted: dict[str, int] = {}
    slices: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for number, event in enumerate(events):
        kind, where = event.get("ph"), f"{path}: event {number} ({event.get('name')!r})"[:300]
        if kind == "M":
            continue
        pid, tid = (key if isinstance(key, (int, str)) else None for key in (event.get("pid"), event.get("tid")))
        process, track = processes.get(pid), event.get("name") if kind == "C" else threads.get((pid, tid))
        if process is None or not isinstance(track, str):
            raise InputError(f"{where}: is on a track without a name, expected process_name and thread_name for it")
        label, at = f"{process}/{track}", _nanoseconds(event.get("ts"), "ts", where)
        counts[label] += 1
        if kind == "X":
            length = _nanoseconds(event.get("dur"), "dur", where)
            if length < 0:
                raise InputError(f"{where}: lasts {length} ns, expected 0 or more")
            slices[label].append((at, at + length))
        elif kind == "B":
            begun[label].append(at)
        elif kind == "E":
            if not begun[label] or begun[label].pop() > at:
                raise InputError(f"{where}: ends a span that did not begin before")
        elif kind == "C":
            _check_counter(event.get("args"), where)
            if at < counted.get(label, at):
                raise InputError(f"{where}: counter goes back from {counted[label]} ns to {at} ns, expected order")
            counted[label] = at
        elif kind not in ("i", "I"):
            raise InputError(f"{where}: is of kind {kind!r}, expected one of X, B, E, i, C, M")
    for label, times in begun.items():
        if times:
            raise InputError(f"{path}: {len(times)} spans of track {label!r} begin and never end")
    for label, spans in slices.items():
        _check_nesting(spans, f"{path}: track {label!r}")
    return dict(sorted(counts.items()))


def _names(events: Iterable[_Event], path: Path) -> tuple[dict[object, str], dict[tuple[object, object], str]]:
    """The names of processes by pid and of threads by (pid, tid)."""
    processes: dict[object, str] = {}
    threads: dict[tuple[object, object], str] = {}
    for event in events:
        if event.get("ph") != "M" or event.get("name") not in ("process_name", "thread_name"):
            continue
        args = event.get("args")
        name = args.get("name") if isinstance(args, dict) else None
        pid, tid = event.get("pid"), event.get("tid", 0)
        if not isinstance(name, str) or not isinstance(pid, (int, str)) or not isinstance(tid, (int, str)):
            raise InputError(f"{path}: a {event['name']} event without a name, a pid or a tid")
        if event["name"] == "process_name":
            processes[pid] = name
        else:
            threads[pid, tid] = name
    return processes, threads


def _check_nesting(spans: Iterable[tuple[int, int]], where: str) -> None:
    around: list[tuple[int, int]] = []
    for begin, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        while around and around[-1][1] <= begin:
            around.pop()
        if around and end > around[-1][1]:
            raise InputError(
                f"{where}: a span [{begin}, {end}) ns crosses the end of [{around[-1][0]}, {around[-1][1]}) ns"
            )
        around.append((begin, end))


def _read_events(path: Path) -> list[_Event]:
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            with gzip.open(path) as file:
                data = file.read(_MOST_JSON_BYTES + 1)
        if len(data) > _MOST_JSON_BYTES:
            raise InputError(f"{path}: holds more than {_MOST_JSON_BYTES} bytes of JSON")
        document = json.loads(data)
    except OSError as error:
        raise InputError(f"{path}: cannot be read as a trace: {error.strerror or error}") from error
    except (EOFError, zlib.error, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: is no trace (JSON, gzip or plain): {str(error)[:200]}") from error
    events = document.get("traceEvents") if isinstance(document, dict) else document
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise InputError(f"{path}: has no list traceEvents of objects, expected Chrome's trace event format")
    return events


def _nanoseconds(value: object, name: str, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{where}: {name} is {value!r}, expected a number of microseconds")
    return round(value * 1000)


def _check_counter(args: object, where: str) -> None:
    values = list(args.values()) if isinstance(args, dict) else []
    if not values or any(
        isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) for value in values
    ):
        raise InputError(f"{where}: a counter's args are {str(args)[:80]}, expected finite numbers")
