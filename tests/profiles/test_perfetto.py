"""A trace file, read back as the JSON that it is: every track, time, nesting and counter, from spans made by hand."""

from __future__ import annotations

import gzip
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlmbench.profiles import perfetto
from dlmbench.profiles.hardware import Telemetry
from dlmbench.profiles.kernels import Profiled, Span
from dlmbench.profiles.perfetto import perfetto_trace, trace_tracks
from dlmbench.profiles.record import Commit, ForwardSpan, Phase, Timeline

Event = dict[str, Any]


def ms(value: float) -> float:
    return value * 1e-3


def kernel(name: str, begin: float, end: float, stream: int = 7, category: Any = "matmul") -> Span:
    """A kernel from `begin` to `end` ms."""
    return Span(name, "kernel", category, ms(begin), ms(end), ms(end - begin), stream, phase="denoise")


def on_host(name: str, kind: Any, begin: float, end: float, depth: int = 0, leaf: bool = True) -> Span:
    """An operator, launch or region of thread 1 from `begin` to `end` ms, which is its own time as well."""
    return Span(name, kind, "other", ms(begin), ms(end), ms(end - begin), 1, depth, leaf)


def forward(phase: Phase, begin: float, end: float) -> ForwardSpan:
    return ForwardSpan(
        phase=phase, network="target", begin_s=ms(begin), end_s=ms(end), rows=2, q_len=3, kv_len=5, logit_rows=4,
        mask="causal",
    )  # fmt: skip


def commit(at: float, step: int, positions: Iterable[int], final: bool = True) -> Commit:
    places = tuple(positions)
    return Commit(at_s=ms(at), step=step, positions=places, tokens=(9,) * len(places), final=final)


# A prefill, which leads to no token, and two denoising forwards; the second commit of the first one is not final.
TIMELINE = Timeline(
    sample_order=0,
    latency_s=ms(12),
    length=4,
    forwards=(forward("prefill", 1, 3), forward("denoise", 4, 6), forward("denoise", 8, 10)),
    commits=(commit(6.5, 0, (0, 1)), commit(7, 0, (2, 3), final=False), commit(11, 1, (1, 2, 3))),
)
# Kernels of two streams, two of which overlap in one; an operator that launched the first.
CUDA = Profiled(
    "cuda",
    ms(12),
    100.0,
    (
        on_host("dlmbench.generation", "region", 0, 12),
        on_host("aten::linear", "op", 0.5, 2, leaf=False),
        on_host("aten::addmm", "op", 0.6, 1.9, depth=1),
        on_host("cudaLaunchKernel", "launch", 1, 1.1),
        kernel("gemm", 1, 3),
        kernel("softmax", 2, 2.5, category="attention"),
        kernel("copy", 2.2, 2.4, stream=8, category="copy"),
    ),
)
READINGS = Telemetry(
    source="NVML",
    window_s=0.02,
    generations=2,
    series={
        "at_s": (0.0, 0.01, 0.02, None),
        "power_w": (100.0, None, 300.0, 1.0),
        "made_up": (1.0, math.nan, 3.0, 1.0),
        "sm_clock_mhz": (None, None, None, None),
    },
)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A function that writes a trace with the arguments that matter to a test and reads it as JSON."""

    def write_it(seen: Profiled = CUDA, **more: Any) -> dict[str, Any]:
        wanted: dict[str, Any] = {
            "timeline": TIMELINE, "telemetry": None, "telemetry_offset_s": 0.0, "title": "a cell", "metadata": {},
        }  # fmt: skip
        path = tmp_path / "trace.json.gz"
        assert perfetto_trace(path, profiled=seen, **wanted | more) == path
        trace_tracks(path)  # whatever else a test asks, what is written is valid
        document: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
        return document

    return write_it


def by_track(document: dict[str, Any]) -> dict[str, list[Event]]:
    """The events of "process/track", in the file's order."""
    events = document["traceEvents"]
    named = {(e["name"], e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"].endswith("_name")}
    found = defaultdict(list)
    for event in events:
        if event["ph"] != "M":
            process = named["process_name", event["pid"], 0]
            track = event["name"] if event["ph"] == "C" else named["thread_name", event["pid"], event["tid"]]
            found[f"{process}/{track}"].append(event)
    return dict(found)


def spans(events: Iterable[Event]) -> list[tuple[str, float, float]]:
    """Name, begin and duration in µs."""
    return [(e["name"], e["ts"], e["dur"]) for e in events]


def test_what_was_announced(write: Callable[..., Any]) -> None:
    tracks = by_track(write())
    forwards = tracks["generation/forwards"]
    assert spans(forwards) == [("prefill", 1000, 2000), ("denoise", 4000, 2000), ("denoise", 8000, 2000)]
    assert forwards[0]["args"] == {
        "network": "target", "rows": 2, "q_len": 3, "kv_len": 5, "logit_rows": 4, "mask": "causal",
    }  # fmt: skip
    # A run of one phase lasts to the next one; what a forward led to, sampling, ends with its last commit.
    assert spans(tracks["generation/phases"]) == [
        ("prefill", 1000, 3000),
        ("denoise", 4000, 7000),
        ("sampling", 6000, 1000),
        ("sampling", 10_000, 1000),
    ]
    assert [e["args"] for e in tracks["generation/phases"][:2]] == [{"forwards": 1}, {"forwards": 2}]
    commits = tracks["generation/commits"]
    assert [(e["ph"], e["name"], e["ts"]) for e in commits] == [
        ("i", "step 0", 6500),
        ("i", "step 0", 7000),
        ("i", "step 1", 11_000),
    ]
    assert [e["args"] for e in commits] == [
        {"step": 0, "positions": 2, "final": True},
        {"step": 0, "positions": 2, "final": False},
        {"step": 1, "positions": 3, "final": True},
    ]
    # Position 1 was final before: four are committed, not five, and those of a revisable write not at all.
    counter = tracks["generation/committed tokens"]
    assert [(e["ph"], e["ts"], e["args"]["value"]) for e in counter] == [("C", 6500, 2), ("C", 11_000, 4)]


def test_what_ran(write: Callable[..., Any]) -> None:
    tracks = by_track(write())
    # Kernels that overlap in one stream cannot be drawn on one line.
    assert spans(tracks["device/stream 7"]) == [("gemm", 1000, 2000)]
    assert spans(tracks["device/stream 7 (2)"]) == [("softmax", 2000, 500)]
    assert spans(tracks["device/stream 8"]) == [("copy", 2200, 200)]
    (gemm,) = tracks["device/stream 7"]
    assert (gemm["cat"], gemm["args"]) == ("matmul", {"phase": "denoise"})
    operators = tracks["host/operators, thread 1"]
    assert spans(operators) == [
        ("dlmbench.generation", 0, 12_000),
        ("aten::linear", 500, 1500),
        ("aten::addmm", 600, 1300),
    ]
    assert [e["cat"] for e in operators] == ["region", "other", "other"]
    # An operator that calls others says how long it was at work itself.
    assert [e["args"].get("own_us") for e in operators] == [None, 1500, None]
    assert spans(tracks["host/launches, thread 1"]) == [("cudaLaunchKernel", 1000, 100)]


def test_on_a_cpu_operators_are_the_device(write: Callable[..., Any]) -> None:
    seen = Profiled("cpu", ms(5), 0.0, (on_host("aten::mm", "op", 1, 2),))
    tracks = by_track(write(seen, timeline=None))
    assert list(tracks) == ["device/thread 1"]


def test_without_a_timeline_forwards_are_the_profiles(write: Callable[..., Any]) -> None:
    regions = (on_host("dlmbench.forward:draft", "region", 1, 2), on_host("dlmbench.write", "region", 2, 2.5))
    tracks = by_track(write(Profiled("cpu", ms(5), 0.0, regions), timeline=None))
    assert spans(tracks["generation/forwards"]) == [("draft", 1000, 1000)]
    assert set(tracks) == {"generation/forwards", "device/thread 1"}


def test_counters_are_on_the_generations_clock(write: Callable[..., Any]) -> None:
    document = write(telemetry=READINGS, telemetry_offset_s=0.002)
    tracks = by_track(document)
    # Readings that failed, and a series of nothing else, are left out; a name that is not known is shown as it is.
    assert {name for name in tracks if name.startswith("counters/")} == {"counters/power (W)", "counters/made_up"}
    power, made_up = tracks["counters/power (W)"], tracks["counters/made_up"]
    assert [(e["ts"], e["args"]) for e in power] == [(2000, {"value": 100.0}), (22_000, {"value": 300.0})]
    assert [e["args"]["value"] for e in made_up] == [1.0, 3.0]
    assert document["otherData"]["generation_begins_us"] == 0


def test_readings_from_before_the_generation_shift_everything(write: Callable[..., Any]) -> None:
    """The viewer has no negative times: the first reading, 5 ms before, becomes the zero of all tracks."""
    plain = by_track(write())
    document = write(telemetry=READINGS, telemetry_offset_s=-0.005)
    shifted = by_track(document)
    assert document["otherData"]["generation_begins_us"] == 5000
    assert [e["ts"] for e in shifted["counters/power (W)"]] == [0, 20_000]
    for name, events in plain.items():
        assert [e["ts"] + 5000 for e in events] == [e["ts"] for e in shifted[name]]


def test_a_long_window_is_thinned_out(write: Callable[..., Any]) -> None:
    count = 25_000
    series = {"at_s": tuple(i * 1e-3 for i in range(count)), "power_w": tuple(float(i) for i in range(count))}
    readings = Telemetry(source="NVML", window_s=25.0, generations=1, series=series)
    power = by_track(write(telemetry=readings))["counters/power (W)"]
    assert [e["args"]["value"] for e in power] == [float(i) for i in range(0, count, 3)]  # at most 10,000


def test_metadata_names_processes_and_tracks_in_order(write: Callable[..., Any]) -> None:
    document = write(telemetry=READINGS, metadata={"overhead": 0.25, "worse": math.nan, "path": Path("a")})
    names = [e for e in document["traceEvents"] if e["ph"] == "M"]
    assert document["traceEvents"][: len(names)] == names
    processes = {e["pid"]: e["args"]["name"] for e in names if e["name"] == "process_name"}
    order = {e["pid"]: e["args"]["sort_index"] for e in names if e["name"] == "process_sort_index"}
    assert [processes[pid] for pid in sorted(order, key=order.__getitem__)] == [
        "generation",
        "device",
        "host",
        "counters",
    ]
    threads = [e["tid"] for e in names if e["name"] == "thread_name"]
    assert threads == sorted(set(threads))
    assert document["displayTimeUnit"] == "ns"
    assert document["otherData"] == {
        "overhead": 0.25, "worse": None, "path": "a", "title": "a cell", "dropped_events": 0,
        "generation_begins_us": 0, "wall_s": ms(12),
    }  # fmt: skip


HOSTILE = 'a"b\\c</script>\x00\x1b[31m\u202edrow\nline\ud800'


def test_hostile_names_are_text(write: Callable[..., Any]) -> None:
    telemetry = Telemetry(source="x", window_s=1.0, generations=1, series={"at_s": (0.0,), HOSTILE: (1.0,)})
    document = write(telemetry=telemetry, title=HOSTILE, metadata={HOSTILE: HOSTILE, "long": "x" * 10_000})
    (name,) = (track for track in by_track(document) if track.startswith("counters/"))
    for text in (name, document["otherData"]["title"]):
        assert 'a"b\\c</script>' in text
        assert not set("\x00\x1b\u202e\n\ud800") & set(text)
    assert len(document["otherData"]["long"]) == 200


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    how: dict[str, Any] = {
        "profiled": CUDA, "timeline": TIMELINE, "telemetry": READINGS, "telemetry_offset_s": -1.0, "title": "t",
    }  # fmt: skip
    first, second = (perfetto_trace(tmp_path / name, **how, metadata={"a": 1}) for name in ("a.json.gz", "b.json.gz"))
    assert first.read_bytes() == second.read_bytes()
    # gzip's own header holds no time and no file name.
    assert first.read_bytes()[:2] == b"\x1f\x8b"
    assert first.read_bytes()[3:8] == bytes(5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json.gz", "b.json.gz"]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    taken = tmp_path / "trace.json.gz"
    taken.mkdir()
    with pytest.raises(OSError):
        perfetto_trace(
            taken, profiled=CUDA, timeline=None, telemetry=None, telemetry_offset_s=0.0, title="t", metadata={}
        )
    assert list(tmp_path.iterdir()) == [taken]


def test_too_many_events_lose_the_shortest_leaves_first(
    write: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten operators, each around three of 1, 2 and 3 µs, and ten kernels: 50 spans, and room for 25 of them."""
    found = []
    for i in range(10):
        found.append(on_host(f"around {i}", "op", i, i + 0.5, leaf=False))
        found += [on_host(f"leaf {k}", "op", i + k / 100, i + k / 100 + k / 1000, depth=1) for k in (1, 2, 3)]
        found.append(kernel("gemm", i, i + 0.9))
    generation = len(by_track(write(Profiled("cuda", ms(12), 0.0, ()))))
    assert generation == 4
    monkeypatch.setattr(perfetto, "MOST_EVENTS", 12 + 25)
    document = write(Profiled("cuda", ms(12), 0.0, tuple(found)))
    names = [e["name"] for e in document["traceEvents"] if e["ph"] == "X"]
    assert document["otherData"]["dropped_events"] == 25
    assert [names.count(f"leaf {k}") for k in (1, 2, 3)] == [0, 0, 5]
    assert names.count("gemm") == 10
    assert len([name for name in names if name.startswith("around")]) == 10
    # With room for kernels alone, and for fewer than those.
    monkeypatch.setattr(perfetto, "MOST_EVENTS", 12 + 10)
    assert [e["name"] for e in by_track(write(Profiled("cuda", ms(12), 0.0, tuple(found))))["device/stream 7"]] == [
        "gemm"
    ] * 10
    monkeypatch.setattr(perfetto, "MOST_EVENTS", 1)
    document = write(Profiled("cuda", ms(12), 0.0, tuple(found)))
    assert document["otherData"]["dropped_events"] == 50
    assert "generation/forwards" in by_track(document)


def test_too_many_bytes_halve_the_events(
    write: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    many = tuple(kernel(f"kernel {i * 7919 % 10007}", i, i + 0.5) for i in range(4000))
    whole = write(Profiled("cuda", 4.0, 0.0, many))
    assert whole["otherData"]["dropped_events"] == 0
    monkeypatch.setattr(perfetto, "MOST_EVENTS", 2000)
    quarter = write(Profiled("cuda", 4.0, 0.0, many))
    monkeypatch.setattr(perfetto, "MOST_EVENTS", 8000)
    monkeypatch.setattr(perfetto, "MOST_BYTES", (tmp_path / "trace.json.gz").stat().st_size)
    # 8000 and 4000 events are too many bytes, 2000 fit, 12 of them what was announced.
    assert write(Profiled("cuda", 4.0, 0.0, many)) == quarter
    assert quarter["otherData"]["dropped_events"] == 4000 - (2000 - 12)


def nested(draw: st.DrawFn, begin: int, end: int, depth: int) -> list[Span]:
    """Operators inside [begin, end) ns, each with operators inside."""
    found: list[Span] = []
    while begin < end and draw(st.booleans()):
        start = draw(st.integers(begin, end - 1))
        stop = draw(st.integers(start, end))
        inner = nested(draw, start, stop, depth + 1) if depth < 3 else []
        found.append(
            Span("op", "op", "other", start * 1e-9, stop * 1e-9, 0.0, draw(st.integers(1, 2)), depth, not inner)
        )
        found += inner
        begin = stop
    return found


@st.composite
def anything_profiled(draw: st.DrawFn) -> Profiled:
    """Operators that nest, and kernels of two streams that lie as they like."""
    ends = st.tuples(st.integers(0, 10**6), st.integers(0, 10**6))
    kernels = [
        Span("k", "kernel", "matmul", min(pair) * 1e-9, max(pair) * 1e-9, 0.0, draw(st.integers(7, 8)))
        for pair in draw(st.lists(ends, max_size=12))
    ]
    found = nested(draw, 0, 10**6, 0) + kernels
    return Profiled(draw(st.sampled_from(["cpu", "cuda"])), 1e-3, 0.0, tuple(found))


@given(seen=anything_profiled())
@settings(max_examples=60)
def test_any_profile_makes_a_valid_trace(seen: Profiled, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("trace") / "t.json.gz"
    how: dict[str, Any] = {"timeline": None, "telemetry": None, "telemetry_offset_s": 0.0, "title": "", "metadata": {}}
    tracks = trace_tracks(perfetto_trace(path, profiled=seen, **how))
    assert sum(tracks.values()) == len(seen.spans)
    document = json.loads(gzip.decompress(path.read_bytes()))
    for track in by_track(document).values():
        # Any two are apart, or one lies in the other.
        ends = [(round(e["ts"] * 1000), round((e["ts"] + e["dur"]) * 1000)) for e in track]
        for i, (a, b) in enumerate(ends):
            for c, d in ends[i + 1 :]:
                assert b <= c or d <= a or (a <= c and d <= b) or (c <= a and b <= d)
