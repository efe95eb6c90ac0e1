"""Clocks that a recorder stamps events with: the host's on a CPU, the device's own on CUDA.

A stamp is taken without waiting for the device; `seconds` reads them all afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

import torch


class Clock(Protocol):
    """`mark` takes a stamp now (cheap, asynchronous); `seconds` turns stamps into seconds since the first one."""

    def mark(self) -> object: ...

    def seconds(self, marks: Sequence[object]) -> list[float]: ...

    def settle(self) -> None:
        """Wait until all work queued so far is done, so that a region starts from an idle device."""
        ...


class HostClock:
    """`perf_counter_ns`: on a CPU the host is the device, and work is done when the call returns."""

    def mark(self) -> int:
        return time.perf_counter_ns()

    def seconds(self, marks: Sequence[object]) -> list[float]:
        stamps = [mark for mark in marks if isinstance(mark, int)]
        return [(stamp - stamps[0]) * 1e-9 for stamp in stamps]

    def settle(self) -> None:
        return None


class CudaClock:
    """CUDA events on the current stream: stamped by the device when it reaches them, read after the generation."""

    def __init__(self) -> None:
        self._pool: list[torch.cuda.Event] = []
        self._used = 0

    def mark(self) -> torch.cuda.Event:
        if self._used == len(self._pool):
            self._pool.append(torch.cuda.Event(enable_timing=True))
        event = self._pool[self._used]
        self._used += 1
        event.record()
        return event

    def seconds(self, marks: Sequence[object]) -> list[float]:
        torch.cuda.synchronize()
        events = [mark for mark in marks if isinstance(mark, torch.cuda.Event)]
        result = [events[0].elapsed_time(event) * 1e-3 for event in events]
        self._used = 0
        return result

    def settle(self) -> None:
        torch.cuda.synchronize()


def clock_for(device: str) -> Clock:
    """The clock of a device: "cpu", "cuda" or "cuda:N"."""
    return CudaClock() if device.startswith("cuda") else HostClock()
