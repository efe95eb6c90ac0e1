"""Peak memory of a stretch of work: the allocator's on CUDA, the process's resident size on a CPU."""

from __future__ import annotations

import re
from pathlib import Path

import torch

_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)


def reset_peak(device: str, proc: Path = Path("/proc/self")) -> None:
    """Start a new stretch: peaks read later are those reached from here on, where the system allows it."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        # Linux: 5 resets the high-water mark of the resident size (man 5 proc_pid_clear_refs).
        (proc / "clear_refs").write_text("5")
    except OSError:
        return


def read_peak_b(device: str, proc: Path = Path("/proc/self"), *, captured: bool = False) -> int | None:
    """Peak in bytes since `reset_peak`; None where the system does not tell. On a CPU the whole process counts.

    A `captured` graph works in a pool of its own, which only the allocator's reserved memory shows.
    """
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_reserved() if captured else torch.cuda.max_memory_allocated())
    try:
        match = _PEAK.search((proc / "status").read_text())
    except OSError:
        return None
    return None if match is None else int(match[1]) * 1024
