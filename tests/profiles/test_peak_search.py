"""Burst, sustained and best size, on a clock and work that follow a script: every number is worked out by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from dlmbench.profiles.hardware import Peak
from dlmbench.profiles.peak_search import Effort, Task, find_peak

EFFORT = Effort(search_s=100.0, rest_s=0.5, stretch_s=0.1, hold_s=1.0)


@dataclass
class Machine:
    """A device of whose work each size has a rate in units a second; `heat` slows it once it has worked so long.

    It is its own clock. A rest cools it. What it was asked is in `calls`; `first_s` is added to a size's first call.
    """

    rates: Mapping[int, float]
    heat: Callable[[float], float] = lambda worked_s: 1.0
    first_s: float = 0.0
    refuses: frozenset[int] = frozenset()
    now: float = 100.0
    worked: float = 0.0
    rests: list[float] = field(default_factory=list)
    calls: dict[int, int] = field(default_factory=dict)

    def mark(self) -> float:
        return self.now

    def seconds(self, marks: Sequence[object]) -> list[float]:
        stamps = [mark for mark in marks if isinstance(mark, float)]
        return [stamp - stamps[0] for stamp in stamps]

    def settle(self) -> None:
        return None

    def rest(self, seconds: float) -> None:
        self.rests.append(seconds)
        self.worked = 0.0

    def task(self) -> Task:
        def prepare(size: int) -> Callable[[], None]:
            if size in self.refuses:
                raise RuntimeError('"mm" not implemented\nfor "Half"')

            def run() -> None:
                taken = size / (self.rates[size] * self.heat(self.worked))
                taken += self.first_s if size not in self.calls else 0.0
                self.calls[size] = self.calls.get(size, 0) + 1
                self.worked += taken
                self.now += taken

            return run

        return Task(tuple(self.rates), float, prepare)

    def peak(self, effort: Effort = EFFORT) -> Peak | str:
        return find_peak(self.task(), effort, self, self.rest)


def test_a_steady_device_has_one_rate_at_its_best_size() -> None:
    # 1 unit at 10/s, 2 at 40/s, 4 at 50/s: the best is 4, and the burst and the hold see the same 50/s.
    machine = Machine({1: 10.0, 2: 40.0, 4: 50.0})
    peak = machine.peak()
    assert isinstance(peak, Peak)
    assert (peak.size, peak.burst, peak.sustained) == (4, pytest.approx(50.0), pytest.approx(50.0))
    assert machine.rests == [0.5]


def test_the_burst_is_the_cool_device_and_sustained_the_hot_half_of_the_hold() -> None:
    # 1 unit at 10/s takes 0.1 s, one call a stretch. Cool for 0.45 s of work after the rest, then at half its rate:
    # three bursts of 0.1 s, then a hold whose stretches take 0.1, 0.1 (begun at 0.3 and 0.4 s), then 0.2 s each until
    # 1 s is held: 0.1 + 0.1 + 4 x 0.2. The second half of these six: three of 0.2 s, 5/s.
    peak = Machine({1: 10.0}, heat=lambda worked: 1.0 if worked < 0.45 else 0.5).peak()
    assert isinstance(peak, Peak)
    assert peak.burst == pytest.approx(10.0)
    assert peak.sustained == pytest.approx(5.0)


def test_sustained_is_work_over_time_not_a_mean_of_rates() -> None:
    # From 0.75 s on every call takes longer. Hold (begun at 0.3 s): 0.1 x 5, then 0.4 and 0.4 at a quarter of the rate:
    # seven stretches, of which the last four took 0.1, 0.1, 0.4, 0.4: 4 units in 1 s.
    peak = Machine({1: 10.0}, heat=lambda worked: 1.0 if worked < 0.75 else 0.25).peak()
    assert isinstance(peak, Peak)
    assert peak.sustained == pytest.approx(4.0)


def test_a_first_call_counts_for_nothing() -> None:
    steady, slow_start = (Machine({1: 10.0, 2: 20.0}, first_s=first).peak() for first in (0.0, 5.0))
    assert steady == slow_start


def test_short_calls_are_timed_many_at_once() -> None:
    # 1 unit at 1000/s takes 1 ms, a stretch 0.1 s: 100 calls. Search: 2 + 3 x 100; then 2, three bursts, ten of a hold.
    machine = Machine({1: 1000.0})
    machine.peak()
    assert machine.calls == {1: 302 + 2 + 1300}


def test_growing_stops_after_two_sizes_that_are_no_faster() -> None:
    # 2 % more is not faster: 101.9 stays with the smaller size. 4 and 8 are the two misses, 16 is never tried.
    machine = Machine({1: 50.0, 2: 100.0, 4: 101.9, 8: 90.0, 16: 1e9})
    peak = machine.peak()
    assert isinstance(peak, Peak)
    assert peak.size == 2
    assert 16 not in machine.calls


def test_one_slow_size_between_is_no_end() -> None:
    peak = Machine({1: 50.0, 2: 40.0, 4: 100.0}).peak()
    assert isinstance(peak, Peak)
    assert peak.size == 4


def test_a_size_that_would_take_too_long_is_left_out() -> None:
    # At 10/s, size 8 takes five calls of 0.8 s: 4 s, more than the 3 s of the search. It would be faster; nobody knows.
    machine = Machine({1: 10.0, 8: 1000.0})
    peak = machine.peak(Effort(search_s=3.0, rest_s=0.1, stretch_s=0.01, hold_s=0.1))
    assert isinstance(peak, Peak)
    assert peak.size == 1
    assert 8 not in machine.calls


def test_what_was_spent_counts() -> None:
    # Size 1 takes 5 x 0.1 s, size 2 another 5 x 0.2 s; size 4 would take 5 x 0.4 s: 3.5 s in all.
    for search, reached in ((3.4, {1, 2}), (3.6, {1, 2, 4})):
        machine = Machine({1: 10.0, 2: 10.3, 4: 10.6})
        machine.peak(Effort(search_s=search, rest_s=0.1, stretch_s=0.01, hold_s=0.1))
        assert set(machine.calls) == reached


def test_a_device_without_a_fast_kernel_gives_the_reason_and_little_time() -> None:
    machine = Machine({1: 0.1, 2: 0.1})
    found = machine.peak(Effort(search_s=1.0, rest_s=0.1, stretch_s=0.1, hold_s=1.0))
    assert found == "no fast kernel: the smallest size took 10 s"
    assert machine.calls == {1: 2}


def test_a_refusal_of_the_smallest_size_is_the_callers() -> None:
    with pytest.raises(RuntimeError, match="not implemented"):
        Machine({1: 1.0}, refuses=frozenset({1})).peak()


def test_memory_that_ends_at_a_larger_size_ends_the_search() -> None:
    peak = Machine({1: 10.0, 2: 20.0, 4: 40.0}, refuses=frozenset({4})).peak()
    assert isinstance(peak, Peak)
    assert (peak.size, peak.burst) == (2, pytest.approx(20.0))


def test_no_size_at_all_has_a_reason() -> None:
    assert Machine({}).peak() == "no size of it fits into the free memory"


def test_a_clock_that_stands_still_gives_no_infinite_rate() -> None:
    peak = Machine({1: float("inf")}).peak(Effort(search_s=1.0, rest_s=0.0, stretch_s=0.0, hold_s=1e-8))
    assert isinstance(peak, Peak)
    assert peak.burst == pytest.approx(1e9)  # one unit in the shortest time that is believed, a nanosecond


@pytest.mark.parametrize("seconds", [0.5, 1.25, 4.4, 60.0])
def test_an_effort_adds_up_to_what_it_was_given(seconds: float) -> None:
    effort = Effort.within(seconds)
    assert effort.search_s + effort.rest_s + effort.hold_s + 3 * effort.stretch_s <= seconds
    assert effort.hold_s <= 2.0
    assert effort.stretch_s <= effort.hold_s / 10


def test_a_gpus_clocks_get_two_seconds_to_settle() -> None:
    assert Effort.within(22.0 / 5).hold_s >= 1.9
