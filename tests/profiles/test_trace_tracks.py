"""The reader of traces: what it counts in a valid one, and that each kind of broken one is refused in one line."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from dlmbench import InputError
from dlmbench.profiles.perfetto import trace_tracks

Event = dict[str, Any]

NAMED = [
    {"ph": "M", "name": "process_name", "pid": 1, "args": {"name": "p"}},
    {"ph": "M", "name": "thread_name", "pid": 1, "tid": 1, "args": {"name": "t"}},
]


def span(ts: object, dur: object, **more: object) -> Event:
    return {"ph": "X", "pid": 1, "tid": 1, "name": "s", "ts": ts, "dur": dur} | more


def mark(kind: str, ts: float, **more: object) -> Event:
    return {"ph": kind, "pid": 1, "tid": 1, "name": "m", "ts": ts} | more


def saved(tmp_path: Path, document: object) -> Path:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(document))
    return path


def test_a_trace_of_every_kind_is_counted_by_track(tmp_path: Path) -> None:
    events = [
        span(0, 10),
        span(0, 4),  # begins with the one around it
        span(4, 6),  # ends with it
        span(10, 0),
        mark("B", 20),
        mark("B", 21),
        mark("E", 22),
        mark("E", 23),
        mark("i", 5),
        mark("C", 1, args={"value": 1}),
        mark("C", 1, args={"value": 2.5, "other": 0}),
    ]
    for document in ({"traceEvents": NAMED + events}, NAMED + events):
        assert trace_tracks(saved(tmp_path, document)) == {"p/m": 2, "p/t": 9}
    packed = tmp_path / "t.json.gz"
    packed.write_bytes(gzip.compress(json.dumps(NAMED).encode()))
    assert trace_tracks(packed) == {}


@pytest.mark.parametrize(
    ("events", "complaint"),
    [
        ([span(0, -1)], "lasts -1000 ns"),
        ([span(0, "long")], "dur is 'long', expected a number of microseconds"),
        ([span(True, 1)], "ts is True"),
        ([span(math.inf, 1)], "ts is inf"),
        ([span(None, 1)], "ts is None"),
        ([span(0, 10), span(5, 10)], r"a span \[5000, 15000\) ns crosses the end of \[0, 10000\) ns"),
        ([span(0, 1, tid=2)], "on a track without a name"),
        ([span(0, 1, pid=2)], "on a track without a name"),
        ([span(0, 1, pid=[1])], "on a track without a name"),
        ([mark("E", 1)], "ends a span that did not begin before"),
        ([mark("B", 2), mark("E", 1)], "ends a span that did not begin before"),
        ([mark("B", 1)], "1 spans of track 'p/t' begin and never end"),
        ([mark("C", 2, args={"v": 1}), mark("C", 1, args={"v": 1})], "counter goes back from 2000 ns to 1000 ns"),
        ([mark("C", 1)], "a counter's args are None"),
        ([mark("C", 1, args={})], "a counter's args are {}"),
        ([mark("C", 1, args={"v": "much"})], "expected finite numbers"),
        ([mark("C", 1, args={"v": math.nan})], "expected finite numbers"),
        ([mark("Z", 1)], "is of kind 'Z', expected one of X, B, E, i, C, M"),
        ([{"ph": "M", "name": "thread_name", "pid": 1, "tid": 1, "args": {}}], "without a name, a pid or a tid"),
        ([{"ph": "M", "name": "process_name", "args": {"name": "p"}}], "without a name, a pid or a tid"),
    ],
)
def test_a_broken_event_is_refused(tmp_path: Path, events: list[Event], complaint: str) -> None:
    path = saved(tmp_path, {"traceEvents": NAMED + events})
    with pytest.raises(InputError, match=complaint) as caught:
        trace_tracks(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is no trace"),
        (b"{", "is no trace"),
        (b"\xff\xfe", "is no trace"),
        (b"[" * 100_000, "is no trace"),
        (gzip.compress(b"[]")[:-9], "is no trace"),
        (b"\x1f\x8b\x08 and no more", "is no trace|cannot be read"),
        (b"3", "has no list traceEvents"),
        (b"{}", "has no list traceEvents"),
        (b'{"traceEvents": {}}', "has no list traceEvents"),
        (b"[1]", "has no list traceEvents of objects"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",  # gzip's hold the time
)
def test_a_file_that_is_no_trace_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "t"
    path.write_bytes(content)
    with pytest.raises(InputError, match=complaint) as caught:
        trace_tracks(path)
    assert str(caught.value).startswith(str(path))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as a trace: No such file"):
        trace_tracks(tmp_path / "none")
