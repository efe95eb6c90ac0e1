"""What else used the processors while something was timed.

A sample is harmed by others only when they want more than the processors it leaves free, so both sides are kept: what
others took, and (`Disturbance.excess`) how far that went beyond the free processors. Two readings bracket a window:

    window = CpuWindow(extra_own_pids=[peer])
    window.start()
    ...
    disturbance = window.stop()

Foreign time is what the kernel says all processes used on the processors this process may run on, less this process
(with its threads) and the processes named as its own. The kernel counts in ticks of 10 ms for each processor, so a
window of s seconds over n processors resolves about 0.01 · n / s cores: one shorter than 0.2 s says nothing.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from .host import usable_cpus

try:
    import resource
except ImportError:  # not a POSIX system: no /proc there either
    resource = None  # type: ignore[assignment]

SHORTEST_S = 0.2

_STEAL = 7  # user nice system idle iowait irq softirq steal guest guest_nice; guests are inside user and nice
_BUSY = (0, 1, 2, 5, 6)


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Who used the processors during a window, in cores (1.0: one processor all the time).

    `own_cores` is this process and those named as its own, `foreign_cores` everyone else, `steal_cores` the time in
    which the hypervisor ran something else although a task was ready. All three are None for a window too short to
    resolve, or where the system does not say. `switches` counts how often a thread of this process lost its
    processor against its will: exact for any window, None only where the system does not count it. `cores` is how many
    processors were watched (those this process may use).
    """

    seconds: float
    own_cores: float | None
    foreign_cores: float | None
    steal_cores: float | None
    switches: int | None
    cores: int | None = None

    def excess(self, threads: int, cores: int | None = None) -> float:
        """Demand of others beyond the processors that `threads` threads leave free of `cores`, in cores: the harm.

        `cores` is by default the number of processors watched; give it where a quota leaves fewer.
        0.0 says that others fitted beside the sample. NaN where the window could not be resolved: any comparison
        with a limit is then false, and no sample is discarded on a number that was not measured.
        """
        cores = self.cores if cores is None else cores
        if self.foreign_cores is None or self.steal_cores is None or cores is None:
            return math.nan
        return max(0.0, self.foreign_cores + self.steal_cores - max(0, cores - threads))


@dataclass(frozen=True, slots=True)
class OwnUse:
    """This process, all threads together: processor seconds and involuntary switches since it began."""

    cpu_s: float
    switches: int | None


@dataclass(frozen=True, slots=True)
class _Reading:
    at_s: float
    own: OwnUse
    busy: int | None
    steal: int | None
    cores: int | None
    extra: dict[int, int]


def own_use() -> OwnUse:
    """Read from `getrusage`: microseconds, where /proc/self/stat has ticks, and in one call (1 µs)."""
    if resource is None:
        return OwnUse(time.process_time(), None)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return OwnUse(usage.ru_utime + usage.ru_stime, usage.ru_nivcsw)


def kept_waiting_s(tasks: Path = Path("/proc/self/task")) -> float:
    """Seconds that this process's threads have been ready to run and had no processor, since each began.

    The kernel counts nanoseconds, so a difference means something over any window; NaN where it does not tell. A thread
    that sleeps or waits for input is not counted. Cost: 12 µs a thread.
    """
    total = 0
    try:
        for thread in os.listdir(tasks):
            total += int(_read_bytes(f"{tasks}/{thread}/schedstat").split()[1])
    except (OSError, ValueError, IndexError):
        return math.nan
    return total * 1e-9


class CpuWindow:
    """Measures one window after another: `start()` … `stop()`, or a `with` block and then `.disturbance`.

    Cost of each end: 25 µs on a 2-processor machine, 16 µs more for each extra process (medians, Linux 6.18). Most
    of it is the kernel writing /proc/stat, which grows with processors and interrupt lines (expect some hundred
    µs at 100 processors). Take both ends outside the timed region: `stop` reads the clock first, `start` last.

    `extra_own_pids` are processes that belong to the measurement (the peer worker, the parent), so that they are not
    called foreign. One that ends inside the window is then counted as foreign: its time can no longer be read.
    `cpus` are the processors to count; by default those this process may use when the object is made. The other
    arguments are for tests.
    """

    def __init__(
        self,
        extra_own_pids: Iterable[int] = (),
        *,
        cpus: Collection[int] | None = None,
        root: Path = Path("/"),
        clock: Callable[[], float] = time.perf_counter,
        own: Callable[[], OwnUse] = own_use,
        ticks_per_s: int | None = None,
    ) -> None:
        self._pids = tuple(dict.fromkeys(pid for pid in extra_own_pids if pid != os.getpid()))
        self._cpus = frozenset(cpus) if cpus is not None else usable_cpus()
        self._proc = root / "proc"
        self._clock = clock
        self._own = own
        self._ticks_per_s = ticks_per_s or _ticks_per_s()
        self._begin: _Reading | None = None
        self._disturbance: Disturbance | None = None

    def start(self) -> None:
        """Begin a window, or begin it again."""
        self._begin = self._read(clock_first=False)

    def stop(self) -> Disturbance:
        """End the window. Raises RuntimeError if none was started."""
        if self._begin is None:
            raise RuntimeError("CpuWindow.stop() without start(): start the window before the timed region")
        begin, end = self._begin, self._read(clock_first=True)
        self._begin = None
        self._disturbance = self._between(begin, end)
        return self._disturbance

    def __enter__(self) -> CpuWindow:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def disturbance(self) -> Disturbance:
        """The last window that was stopped. Raises RuntimeError if there is none."""
        if self._disturbance is None:
            raise RuntimeError("no CpuWindow has ended yet: call stop() or leave the `with` block first")
        return self._disturbance

    def _between(self, begin: _Reading, end: _Reading) -> Disturbance:
        seconds = end.at_s - begin.at_s
        switches = None
        if begin.own.switches is not None and end.own.switches is not None:
            switches = end.own.switches - begin.own.switches
        if begin.busy is None or end.busy is None or begin.steal is None or end.steal is None or seconds < SHORTEST_S:
            return Disturbance(seconds, None, None, None, switches, end.cores)
        busy_s = (end.busy - begin.busy) / self._ticks_per_s
        steal_s = (end.steal - begin.steal) / self._ticks_per_s
        extra_s = sum(end.extra[pid] - begin.extra[pid] for pid in end.extra.keys() & begin.extra.keys())
        own_s = end.own.cpu_s - begin.own.cpu_s + extra_s / self._ticks_per_s
        # Ticks and microseconds disagree by up to a tick a processor, and kernels have let steal run backwards: below
        # zero is that error, not time given back.
        foreign_s = max(0.0, busy_s - own_s)
        stolen = max(0.0, steal_s) / seconds
        return Disturbance(seconds, own_s / seconds, foreign_s / seconds, stolen, switches, end.cores)

    def _read(self, clock_first: bool) -> _Reading:
        at_s = self._clock() if clock_first else 0.0
        own = self._own()
        busy, steal, cores = self._processors()
        extra = {pid: ticks for pid in self._pids if (ticks := self._process_ticks(pid)) is not None}
        return _Reading(at_s if clock_first else self._clock(), own, busy, steal, cores, extra)

    def _processors(self) -> tuple[int, int, int] | tuple[None, None, None]:
        """(busy ticks, stolen ticks, processors) over the processors counted; Nones where /proc/stat does not say."""
        text = _read_bytes(self._proc / "stat")
        busy = steal = seen = 0
        for line in text.splitlines():
            if not line.startswith(b"cpu"):
                break  # the processors come first; the interrupts after them are most of the file
            name, *fields = line.split()
            if len(fields) <= _STEAL or not name[3:].isdigit():
                continue  # the line that sums them all
            if self._cpus is None or int(name[3:]) in self._cpus:
                seen += 1
                busy += sum(int(fields[i]) for i in _BUSY)
                steal += int(fields[_STEAL])
        return (busy, steal, seen) if seen else (None, None, None)

    def _process_ticks(self, pid: int) -> int | None:
        """User and system ticks of a process, all threads; None if it is gone."""
        # The command's name is in brackets and may hold spaces and brackets itself: count from the last one.
        fields = _read_bytes(self._proc / str(pid) / "stat").rpartition(b")")[2].split()
        return int(fields[11]) + int(fields[12]) if len(fields) > 12 else None


def _read_bytes(path: Path | str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return b""


def _ticks_per_s() -> int:
    return os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
