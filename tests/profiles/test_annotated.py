"""The recorder that also names its regions: as the profiler sees them, and in what order its stamps are taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from dlmbench.models.generator import Observer
from dlmbench.profiles.annotated import FORWARD, GENERATION, WRITE, Annotated
from dlmbench.profiles.clocks import HostClock
from dlmbench.profiles.kernels import BETWEEN, Profiled, Span, profiled
from dlmbench.profiles.observer import Recorder, Trace


@dataclass
class SeenClock:
    """A clock whose stamps are regions of the profile themselves; it moves by one a stamp."""

    stamps: list[int] = field(default_factory=list)

    def mark(self) -> int:
        with record_function("stamp"):
            self.stamps.append(len(self.stamps))
        return self.stamps[-1]

    def seconds(self, marks: Sequence[object]) -> list[float]:
        return [float(mark) for mark in marks if isinstance(mark, int)]

    def settle(self) -> None:
        return None


DECODE = FORWARD + "decode"
IDS = torch.tensor([[5, 6]])


def generation(observer: Annotated | Recorder) -> None:
    """Two forwards with a product each, and a write after the second one."""
    observer.start()
    for phase in ("prefill", "denoise"):
        with observer.forward("target", phase, 1, 2, 2, 2, "causal"):  # type: ignore[arg-type]
            torch.mm(torch.ones(8, 8), torch.ones(8, 8))
    observer.write(torch.tensor([[True, False]]), IDS, 1, offset=3, committed=False)
    observer.stop()


@pytest.fixture(scope="module")
def seen() -> tuple[Profiled, Trace]:
    observer = Annotated(Recorder(SeenClock()))
    _, found = profiled(lambda: generation(observer), "cpu")
    return found, observer.trace()


def regions(found: Profiled, name: str) -> list[Span]:
    return [span for span in found.spans if span.kind == "region" and span.name == name]


def inside(inner: Span, outer: Span) -> bool:
    return outer.begin_s <= inner.begin_s and inner.end_s <= outer.end_s


def test_it_is_an_observer() -> None:
    observer: Observer = Annotated(Recorder(HostClock()))
    assert isinstance(observer, Annotated)


def test_regions_nest_as_the_generation_does(seen: tuple[Profiled, Trace]) -> None:
    found, _ = seen
    (whole,) = regions(found, GENERATION)
    (prefill,), (denoise,) = (regions(found, FORWARD + phase) for phase in ("prefill", "denoise"))
    (write,) = regions(found, WRITE)
    assert all(inside(region, whole) for region in (prefill, denoise, write))
    assert prefill.end_s <= denoise.begin_s
    assert denoise.end_s <= write.begin_s
    # The profile is cut to the generation: its zero is the region's.
    assert whole.begin_s == 0.0
    assert whole.end_s == pytest.approx(found.wall_s)


def test_operators_belong_to_the_phase_of_their_forward(seen: tuple[Profiled, Trace]) -> None:
    found, _ = seen
    assert [span.phase for span in found.spans if span.name == "aten::mm"] == ["prefill", "denoise"]
    paths = [path for path, _ in found.stacks()]
    assert ("prefill", "matmul", "aten::mm") in paths
    assert all(path[0] in ("prefill", "denoise", BETWEEN) for path in paths)


def test_stamps_are_taken_inside_their_regions(seen: tuple[Profiled, Trace]) -> None:
    """So that opening a region counts into no forward: start, two a forward, one of the write, stop."""
    found, _ = seen
    stamps = regions(found, "stamp")
    assert len(stamps) == 1 + 2 * 2 + 1 + 1
    (whole,) = regions(found, GENERATION)
    around = [*regions(found, FORWARD + "prefill"), *regions(found, FORWARD + "denoise"), *regions(found, WRITE)]
    held = [sum(inside(stamp, region) for stamp in stamps) for region in around]
    assert held == [2, 2, 1]
    assert all(inside(stamp, whole) for stamp in stamps)
    products = [span for span in found.spans if span.name == "aten::mm"]
    for product, (begin, end) in zip(products, ((stamps[1], stamps[2]), (stamps[3], stamps[4])), strict=True):
        assert begin.end_s <= product.begin_s
        assert product.end_s <= end.begin_s


def test_the_trace_is_the_recorders(seen: tuple[Profiled, Trace]) -> None:
    _, trace = seen
    plain = Recorder(SeenClock())
    generation(plain)
    expected = plain.trace()
    assert trace.forwards == expected.forwards
    assert (trace.latency_s, trace.events) == (expected.latency_s, expected.events) == (6.0, 5)
    (write,) = trace.writes
    assert (write.step, write.offset, write.committed) == (1, 3, False)
    assert write.tokens.tolist() == [[5, 6]]
    assert write.written.tolist() == [[True, False]]


def test_an_error_goes_through_and_closes_its_regions() -> None:
    clock = SeenClock()
    observer = Annotated(Recorder(clock))

    def fails() -> None:
        observer.start()
        with observer.forward("target", "decode", 1, 1, 1, 1, "causal"):
            raise ZeroDivisionError

    # Not through `profiled`, which keeps one generation.
    with profile(activities=[ProfilerActivity.CPU]) as session:
        with pytest.raises(ZeroDivisionError):
            fails()
        generation(observer)  # the failed one's region is still open, and ends here
    ranges = {name: [e.time_range for e in session.events() if e.name == name] for name in (GENERATION, DECODE)}
    first, second = ranges[GENERATION]
    (decode,) = ranges[DECODE]
    assert first.start <= decode.start <= decode.end <= first.end <= second.start
    # The forward was stamped at its end as well, and the next generation's trace knows nothing of it.
    assert len(clock.stamps) == (1 + 2) + (1 + 2 * 2 + 1 + 1)
    assert [forward.phase for forward in observer.trace().forwards] == ["prefill", "denoise"]


@pytest.mark.parametrize("stops", [1, 2])
def test_it_observes_without_a_profiler_and_may_stop_twice(stops: int) -> None:
    observer = Annotated(Recorder(SeenClock()))
    generation(observer)
    for _ in range(stops - 1):
        observer.stop()
    assert len(observer.trace().forwards) == 2
