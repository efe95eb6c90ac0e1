"""Readings of a GPU's counters at a fixed rate, and the answers to what is asked of them.

While timed samples run the counters are read seldom and GPM not at all; while replays fill a window, often and with
GPM. The clock and the device are passed in; `telemetry_process` waits between readings and carries requests.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from .gpm import Gpm, Shares
from .gpu_counters import UTILISATION_S, GpuCounters, Reading
from .gpu_window import Watched
from .hardware import Telemetry
from .pinned_gpu import PinnedGpu

SELDOM_S, OFTEN_S = 0.2, 0.05
_MOST_READINGS = 20_000  # an hour of the seldom ones, a quarter of an hour of the others; some megabytes


class GpuSampler:
    """Reads one device, keeps the latest readings and answers for stretches of them, all on `clock`."""

    def __init__(
        self,
        nvml: Any,
        gpu: PinnedGpu,
        own: Callable[[int], bool],
        *,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self._clock = clock
        self._counters = GpuCounters(nvml, gpu, own, clock=clock, cpu=cpu)
        self._gpm = Gpm(nvml, gpu)
        self._readings: deque[Reading] = deque(maxlen=_MOST_READINGS)
        self._source = _source(nvml, gpu)
        self._often = False
        self._due_s = clock()
        self._idle: float | str = "the idle device was not watched"

    def wait_s(self) -> float:
        """How long until the next reading is due, 0 if it is late."""
        return max(0.0, self._due_s - self._clock())

    def read(self) -> None:
        """Take a reading now; the next is due one period after this one was, or from now if that time is gone."""
        self._readings.append(self._counters.read())
        now = self._clock()
        if self._often and self._gpm.due(now):
            self._gpm.take(now)
        period = OFTEN_S if self._often else SELDOM_S
        self._due_s = self._due_s + period if self._due_s + period > now else now + period

    def closely(self, *, on: bool) -> None:
        """From now on read often and with GPM, or seldom and without."""
        self._often = on
        self._due_s = self._clock()
        self._gpm.clear()

    def window(self, *, begin_s: float, end_s: float, generations: int, output_tokens: int) -> Telemetry:
        """What the counters say of [begin_s, end_s]; see `gpu_window`."""
        shares: Shares = self._gpm.between(begin_s, end_s)
        work = {"generations": generations, "output_tokens": output_tokens}
        return self._watched().window(begin_s, end_s, shares=shares, idle_w=self._idle, **work)

    def stretch(self, *, begin_s: float, end_s: float) -> Telemetry:
        """The readings of a stretch as they came."""
        return self._watched().stretch(begin_s, end_s)

    def reasons(self, *, begin_s: float, end_s: float) -> tuple[tuple[str, ...] | None, int | None]:
        """What held the clocks in a stretch (its last hour), and the most processes of others; None: unknown."""
        return self._watched().reasons(begin_s, end_s)

    def idle(self, *, begin_s: float, end_s: float) -> None:
        """Remember the power of a stretch in which nothing ran."""
        self._idle = self._watched().idle_w(begin_s, end_s)

    def _watched(self) -> Watched:
        reach_s = {"gpu_util_nvml": UTILISATION_S, "power_w": self._counters.power_reach_s}
        return Watched(self._source, self._readings, self._counters.missing, reach_s)


def _source(nvml: Any, gpu: PinnedGpu) -> str:
    try:
        version = nvml.nvmlSystemGetDriverVersion()
    except Exception:
        return "NVML"
    driver = version.decode(errors="replace") if isinstance(version, bytes) else version
    return f"NVML, driver {driver}" + (", one part of a split GPU (MIG)" if gpu.split else "")
