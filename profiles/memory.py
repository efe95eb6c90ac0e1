"""Memory of a stretch of work: the allocator's on CUDA, the process's resident size on a CPU."""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)
_NOW = re.compile(r"^VmRSS:\s+(\d+) kB", re.MULTILINE)

PoolId = tuple[int, int]
# torch's name of the pool that belongs to no graph.
_COMMON: PoolId = (0, 0)


@dataclass(frozen=True, slots=True)
class Pool:
    """A captured graph's own memory: `total_b` that it keeps, `live_b` of it in tensors that still exist."""

    total_b: int
    live_b: int


@dataclass(frozen=True, slots=True)
class MemoryMeter:
    """Reads the memory of this process on one device. A method gives None where the system does not tell."""

    device: str
    proc: Path = Path("/proc/self")

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")

    def return_freed(self) -> None:
        """Give freed memory back to the system, so that what is in use is what is resident."""
        if self.cuda:
            return
        # glibc's alone; other C libraries keep little.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)

    def start(self) -> int | None:
        """Begin a stretch: the peak is counted from here on. Bytes in use now."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            return int(torch.cuda.memory_allocated())
        # Linux: 5 resets the high-water mark of the resident size (man 5 proc_pid_clear_refs). Where that is not
        # allowed, the mark is that of the process's whole life.
        with contextlib.suppress(OSError):
            (self.proc / "clear_refs").write_text("5")
        return self._resident(_NOW)

    def peak_b(self) -> int | None:
        """The most bytes in use since `start`. On a CPU the whole process counts."""
        return int(torch.cuda.max_memory_allocated()) if self.cuda else self._resident(_PEAK)

    def pools(self, snapshot: Callable[[], Sequence[Any]] = torch.cuda.memory_snapshot) -> dict[PoolId, Pool]:
        """The pools of captured graphs, of which the allocator counts only what is live; none on a CPU."""
        found: dict[PoolId, Pool] = {}
        for segment in snapshot() if self.cuda else ():
            name = tuple(segment["segment_pool_id"])
            if name != _COMMON:
                known = found.get(name, Pool(0, 0))
                total, live = segment["total_size"], segment["allocated_size"]
                found[name] = Pool(known.total_b + total, known.live_b + live)
        return found

    def _resident(self, what: re.Pattern[str]) -> int | None:
        try:
            match = what.search((self.proc / "status").read_text())
        except OSError:
            return None
        return None if match is None else int(match[1]) * 1024
