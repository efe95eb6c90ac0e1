"""What a container may use: the processor quota and memory limit of its control groups, versions 1 and 2.

A program in a container sees all of the machine's processors; the kernel still stops it once the quota of a period
(100 ms, as a rule) is spent. A benchmark that starts a thread on each visible processor then measures those stops.
"""

from __future__ import annotations

import re
from pathlib import Path

from .host import Section, read_int, read_text

# Version 1 writes "no limit" as the largest multiple of a page that fits into 63 bits.
_UNLIMITED_B = 1 << 60


def read_limits(root: Path = Path("/")) -> Section:
    """Control-group version, `cpu_quota_cores` and `memory_limit_b`; None where there is no limit or none is readable.

    A limit may be set on any ancestor: the narrowest one counts.
    """
    quotas: list[float] = []
    limits: list[int] = []
    for folder in _v2_folders(root):
        quota = re.fullmatch(r"(\d+) (\d+)", read_text(folder / "cpu.max") or "")
        if quota and int(quota.group(2)):
            quotas.append(int(quota.group(1)) / int(quota.group(2)))
        limits.append(read_int(folder / "memory.max") or 0)
    for folder in _v1_folders(root, "cpu"):
        allowed, period = read_int(folder / "cpu.cfs_quota_us"), read_int(folder / "cpu.cfs_period_us")
        if allowed and allowed > 0 and period:
            quotas.append(allowed / period)
    limits += [read_int(folder / "memory.limit_in_bytes") or 0 for folder in _v1_folders(root, "memory")]
    return {
        "cgroup": 2 if _v2_folders(root) else 1 if _v1_folders(root, "cpu") else None,
        "container": any((root / mark).exists() for mark in (".dockerenv", "run/.containerenv")),
        "cpu_quota_cores": min(quotas, default=None),
        "memory_limit_b": min((limit for limit in limits if 0 < limit < _UNLIMITED_B), default=None),
    }


def read_throttling(root: Path = Path("/")) -> Section:
    """How often this control group has run into its quota since it was made, and for how long (seconds)."""
    periods: int | None = None
    seconds: float | None = None
    for folder in [*_v2_folders(root), *_v1_folders(root, "cpu")]:
        stat = dict(re.findall(r"^(\w+) (\d+)$", read_text(folder / "cpu.stat") or "", re.MULTILINE))
        if "nr_throttled" in stat and int(stat["nr_throttled"]) >= (periods or 0):
            periods = int(stat["nr_throttled"])
            # microseconds in version 2, nanoseconds in version 1
            seconds = int(stat.get("throttled_usec", 0)) / 1e6 or int(stat.get("throttled_time", 0)) / 1e9
    return {"throttled_periods": periods, "throttled_s": seconds}


def _v2_folders(root: Path) -> list[Path]:
    mount = root / "sys/fs/cgroup"
    if not (mount / "cgroup.controllers").exists():
        return []
    found = re.search(r"^0::(\S*)$", read_text(root / "proc/self/cgroup") or "", re.MULTILINE)
    return _upwards(mount, found.group(1) if found else "/")


def _v1_folders(root: Path, controller: str) -> list[Path]:
    text = read_text(root / "proc/self/cgroup") or ""
    for controllers, path in re.findall(r"^\d+:([^:\n]+):(\S*)$", text, re.MULTILINE):
        if controller in controllers.split(","):
            # Mounted under all of its controllers' names or under its own.
            for mount in (root / "sys/fs/cgroup" / controllers, root / "sys/fs/cgroup" / controller):
                if mount.is_dir():
                    return _upwards(mount, path)
    return []


def _upwards(mount: Path, path: str) -> list[Path]:
    """The group's folder and its ancestors up to the mount, as far as they exist.

    Inside a container the path may be the host's: only the mount itself exists then, and it is the container's group.
    """
    parts = [part for part in path.split("/") if part not in ("", "..")]
    folders = [mount.joinpath(*parts[:length]) for length in range(len(parts), -1, -1)]
    return [folder for folder in folders if folder.is_dir()]
