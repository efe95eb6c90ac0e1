"""What the machine is, read from the files that Linux offers.

Every reader takes the root of the file system, so that a test can hand it a made-up tree. Whatever is missing or
makes no sense becomes None: a reader never raises. Nothing that names the machine or its user is read.
"""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
from collections.abc import Collection, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

Section = dict[str, Any]

# The instruction sets that decide which kernel MKL, oneDNN or llama.cpp picks; the other hundred flags do not.
_ISA = re.compile(r"avx|avx2|avx_vnni\w*|avx512\w*|avx10\w*|amx_\w+|fma|f16c|sse4_2|asimd|asimddp|i8mm|bf16|sve|sve2")

# `scaling_cur_freq` can wait for a fresh sample (10 ms a processor on older kernels): a few say enough.
_FREQUENCIES_READ = 4


def read_text(path: Path) -> str | None:
    """The stripped text of a small file; None if it is missing, unreadable or not text."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None


def read_int(path: Path) -> int | None:
    """The file's content as an integer; None if it is anything else."""
    text = read_text(path)
    return int(text) if text and re.fullmatch(r"-?\d+", text) else None


def parse_cpu_list(text: str | None) -> frozenset[int] | None:
    """The kernel's list format: "0-2,8" is {0, 1, 2, 8}. None for what is not in that format."""
    if not text or not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        return None
    cpus: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return frozenset(cpus)


def usable_cpus(tasks: Path = Path("/proc/self/task")) -> frozenset[int] | None:
    """The logical processors that this process may run on; None where the system does not say.

    The union over its threads: once OpenMP has bound its threads, the main thread alone may show a single processor.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    try:
        threads = [int(name) for name in os.listdir(tasks)]
    except (OSError, ValueError):
        threads = []
    cpus: set[int] = set()
    for thread in (0, *threads):
        try:
            cpus |= os.sched_getaffinity(thread)
        except OSError:  # the thread has ended since it was listed
            continue
    return frozenset(cpus) or None


def read_system(root: Path = Path("/")) -> Section:
    """Operating system, kernel release and clock source; never the host's name."""
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', read_text(root / "etc/os-release") or "", re.MULTILINE))
    # A clock source outside the processor makes each `perf_counter` cost about a microsecond instead of 30 ns.
    clock = read_text(root / "sys/devices/system/clocksource/clocksource0/current_clocksource")
    return {
        "system": platform.system() or None,
        "distribution": release.get("PRETTY_NAME"),
        "kernel": read_text(root / "proc/sys/kernel/osrelease") or platform.release() or None,
        "architecture": platform.machine() or None,
        "clock_source": clock,
    }


def read_cpu(root: Path = Path("/"), affinity: Collection[int] | None = None) -> Section:
    """The processors: model, counts, frequency limits (MHz), caches (KiB), NUMA nodes and instruction sets.

    `affinity` is the set of logical processors this process may use (`usable_cpus`); None if not known.
    """
    info = _cpuinfo(read_text(root / "proc/cpuinfo") or "")
    first = info[0] if info else {}
    base = root / "sys/devices/system/cpu"
    online = parse_cpu_list(read_text(base / "online")) or frozenset(range(len(info)))
    cores = core_names(online, root)
    if None in cores.values():  # no topology in /sys: the cpuinfo of x86 has it too
        cores = {i: _core_of(block) for i, block in enumerate(info)}
    physical = len(set(cores.values())) if cores and None not in cores.values() else None
    usable = sorted(affinity) if affinity is not None else None
    known = usable is not None and physical is not None
    smt = {"1": True, "0": False}.get(read_text(base / "smt/active") or "")
    if smt is None and physical:
        smt = len(online) > physical
    flags = set((first.get("flags") or first.get("Features") or "").split())
    return {
        "model": _model(first),
        "vendor": first.get("vendor_id"),
        "physical_cores": physical,
        "logical_cores": len(online) or None,
        "affinity": usable,
        "usable_cores": len(usable) if usable is not None else None,
        "usable_physical_cores": len({cores.get(cpu) for cpu in usable or ()}) if known else None,
        "smt": smt,
        "performance_cores": read_text(root / "sys/devices/cpu_core/cpus"),  # hybrid x86 only
        "efficiency_cores": read_text(root / "sys/devices/cpu_atom/cpus"),
        "frequency": _frequency(base),
        "power": _power(root / "sys/class/powercap"),
        "caches": _caches(base / "cpu0/cache"),
        "numa_nodes": len(_children(root / "sys/devices/system/node", r"node\d+")) or None,
        "isa": sorted(flag for flag in flags if _ISA.fullmatch(flag)) if flags else None,
        "hypervisor": _hypervisor(root, flags),
    }


def read_memory(root: Path = Path("/")) -> Section:
    """Memory and swap in bytes, and the policy for transparent huge pages (`always`, `madvise` or `never`)."""
    table = _meminfo(root)
    chosen = re.search(r"\[(\w+)\]", read_text(root / "sys/kernel/mm/transparent_hugepage/enabled") or "")
    return {
        "total_b": table.get("MemTotal"),
        "swap_total_b": table.get("SwapTotal"),
        "transparent_huge_pages": chosen.group(1) if chosen else None,
    }


def read_timer(readings: int = 2000) -> Section:
    """The host clock's grain and price, in seconds: the least step between two readings that differ, and the time of
    one reading (median). No sample can be known better than to both."""
    stamps = [time.perf_counter_ns() for _ in range(readings)]
    steps = sorted(later - earlier for earlier, later in pairwise(stamps))
    moved = next((step for step in steps if step), 0)
    return {"resolution_s": moved * 1e-9, "overhead_s": steps[len(steps) // 2] * 1e-9}


def read_now(root: Path = Path("/")) -> Section:
    """What changes from one second to the next: load, pressure, free memory (bytes) and frequency (MHz).

    `cpu_pressure_percent` is the share of the last 10 s in which some runnable task waited for a processor.
    """
    load = re.match(r"([\d.]+) ([\d.]+) ([\d.]+) ", read_text(root / "proc/loadavg") or "")
    pressure = re.match(r"some avg10=([\d.]+)", read_text(root / "proc/pressure/cpu") or "")
    table = _meminfo(root)
    swap_total, swap_free = table.get("SwapTotal"), table.get("SwapFree")
    frequencies = current_mhz(root)
    return {
        "load_average": [float(value) for value in load.groups()] if load else None,
        "cpu_pressure_percent": float(pressure.group(1)) if pressure else None,
        "memory_available_b": table.get("MemAvailable"),
        "swap_used_b": swap_total - swap_free if swap_total is not None and swap_free is not None else None,
        "frequency_mhz": {
            "lowest": round(min(frequencies)),
            "median": round(statistics.median(frequencies)),
            "highest": round(max(frequencies)),
        }
        if frequencies
        else None,
    }


def current_mhz(root: Path = Path("/")) -> list[float]:
    """The processors' frequencies now, in MHz: all of them on x86, a few elsewhere, none where nothing is readable."""
    blocks = _cpuinfo(read_text(root / "proc/cpuinfo") or "")
    found = [float(b["cpu MHz"]) for b in blocks if re.fullmatch(r"[\d.]+", b.get("cpu MHz", ""))]
    if found:
        return found
    policies = _children(root / "sys/devices/system/cpu/cpufreq", r"policy\d+")[:_FREQUENCIES_READ]
    return [khz / 1000 for khz in (read_int(policy / "scaling_cur_freq") for policy in policies) if khz]


def _cpuinfo(text: str) -> list[dict[str, str]]:
    """One mapping a logical processor."""
    blocks = []
    for block in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^([^:\n\t]+?)[ \t]*:[ \t]*(.*)$", block, re.MULTILINE))
        if "processor" in fields:  # a trailing block on ARM describes the board, not a processor
            blocks.append(fields)
    return blocks


def _model(block: dict[str, str]) -> str | None:
    if "model name" in block:
        return block["model name"]
    if "CPU implementer" in block:
        return f"ARM implementer {block['CPU implementer']} part {block.get('CPU part', '?')}"
    return None


def core_names(cpus: Collection[int], root: Path = Path("/")) -> dict[int, str | None]:
    """The physical core of each logical processor, by a name that those of one core share; None where not known."""
    return {cpu: _core(root / f"sys/devices/system/cpu/cpu{cpu}/topology") for cpu in cpus}


def _core(topology: Path) -> str | None:
    """A name for the physical core: the list of logical processors that share it."""
    return read_text(topology / "core_cpus_list") or read_text(topology / "thread_siblings_list")


def _core_of(block: dict[str, str]) -> str | None:
    return f"{block.get('physical id', '0')}/{block['core id']}" if "core id" in block else None


def _frequency(base: Path) -> Section:
    """What the hardware can do (`min_mhz`, `max_mhz`), what policy allows (`limit_mhz`) and who decides."""
    policies = _children(base / "cpufreq", r"policy\d+")

    def mhz(name: str) -> list[int]:
        return [khz // 1000 for khz in (read_int(policy / name) for policy in policies) if khz]

    def words(name: str) -> str | None:
        return ", ".join(sorted({w for w in (read_text(policy / name) for policy in policies) if w})) or None

    boost = read_int(base / "cpufreq/boost")
    no_turbo = read_int(base / "intel_pstate/no_turbo")
    return {
        "min_mhz": min(mhz("cpuinfo_min_freq"), default=None),
        "max_mhz": max(mhz("cpuinfo_max_freq"), default=None),
        "limit_mhz": max(mhz("scaling_max_freq"), default=None),
        "governor": words("scaling_governor"),
        "driver": words("scaling_driver"),
        "energy_preference": words("energy_performance_preference"),
        "boost": bool(boost) if boost is not None else not no_turbo if no_turbo is not None else None,
    }


def _power(base: Path) -> Section:
    """The packages' long-term power limit (W), the lowest of them, and the rated power it is to be judged by."""
    zones = [zone for zone in _children(base, r"intel-rapl:\d+") if (read_text(zone / "name") or "")[:7] == "package"]
    pairs = [
        (limit / 1e6, rated / 1e6)
        for zone in zones
        if (limit := read_int(zone / "constraint_0_power_limit_uw"))
        and (rated := read_int(zone / "constraint_0_max_power_uw"))
        and min(limit, rated) > 0
    ]
    limit_w, rated_w = min(pairs, default=(None, None), key=lambda pair: pair[0] / pair[1])
    return {"limit_w": limit_w, "rated_w": rated_w}


def _caches(folder: Path) -> list[Section] | None:
    found = []
    for index in _children(folder, r"index\d+"):
        size = re.fullmatch(r"(\d+)K", read_text(index / "size") or "")
        shared = parse_cpu_list(read_text(index / "shared_cpu_list"))
        found.append(
            {
                "level": read_int(index / "level"),
                "type": read_text(index / "type"),
                "size_kib": int(size.group(1)) if size else None,
                "shared_by": len(shared) if shared else None,
            }
        )
    return found or None


def _hypervisor(root: Path, flags: Iterable[str]) -> Section:
    """Whether this is a virtual machine, and whose. `present` is None where the processor does not say (ARM)."""
    kind = read_text(root / "sys/hypervisor/type") or None
    present: bool | None = True if kind or "hypervisor" in flags else False if flags else None
    if platform.machine().startswith(("aarch64", "arm")) and not kind:
        present = None  # no such flag there
    if present is not False and kind is None:
        kind = read_text(root / "sys/class/dmi/id/sys_vendor") or None
    return {"present": present, "kind": kind}


def _meminfo(root: Path) -> dict[str, int]:
    """`/proc/meminfo` in bytes."""
    text = read_text(root / "proc/meminfo") or ""
    return {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}


def _children(folder: Path, pattern: str) -> list[Path]:
    """The folder's entries whose whole name matches, in numeric order; none if it cannot be listed."""
    try:
        names = [name for name in os.listdir(folder) if re.fullmatch(pattern, name)]
    except OSError:
        return []
    return [folder / name for name in sorted(names, key=lambda name: (len(name), name))]
