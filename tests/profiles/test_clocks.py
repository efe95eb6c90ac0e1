"""Clocks: stamps in order, read in seconds since the first."""

import time

import pytest
import torch

from dlmbench.profiles.clocks import CudaClock, HostClock, clock_for

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_host_stamps_are_nanoseconds_since_the_first() -> None:
    assert HostClock().seconds([5_000_000_000, 5_000_000_000, 5_250_000_000, 7_000_000_000]) == [0.0, 0.0, 0.25, 2.0]
    assert HostClock().seconds([]) == []


def test_host_stamps_span_what_lies_between_them() -> None:
    clock = HostClock()
    clock.settle()
    before = time.perf_counter_ns()
    marks = [clock.mark(), clock.mark(), clock.mark()]
    after = time.perf_counter_ns()
    seconds = clock.seconds(marks)
    assert seconds[0] == 0
    assert seconds == sorted(seconds)
    assert seconds[-1] <= (after - before) * 1e-9


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_has_its_own_clock(device: str) -> None:
    assert isinstance(clock_for(device), CudaClock)


def test_a_cpu_has_the_hosts() -> None:
    assert isinstance(clock_for("cpu"), HostClock)


@pytest.mark.gpu
@needs_gpu
def test_cuda_stamps_are_the_devices() -> None:
    """The host runs ahead: its own stamps would not see the matrix product that lies between two events."""
    clock = CudaClock()
    x = torch.randn(4096, 4096, device="cuda")
    for _ in range(2):  # the second time on pooled events
        clock.settle()
        marks = [clock.mark()]
        for _ in range(10):
            x @ x
        marks.append(clock.mark())
        marks.append(clock.mark())
        seconds = clock.seconds(marks)
        assert seconds[0] == 0
        assert seconds == sorted(seconds)
        assert seconds[1] - seconds[0] > 5 * (seconds[2] - seconds[1])
