"""Which processors the workers of a pairing share, and keeping them there.

Workers that alternate never compete, so both may run on the same processors; and there they should, because a
neighbour behind a processor (the other hardware thread of its core, another guest of the host) slows the one core and
not the next, for tens of milliseconds at a time. On one core both sides meet the same neighbour, and it cancels in
their ratio; on two it is a difference between the sides. Seen on two shared cores: a pair's log-ratio of cells of 16 ms
spread by 8 % with each worker on a core of its own, by 1.8 % on the same one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from .host import core_names, parse_cpu_list, read_int, read_text, usable_cpus

# Whoever sets one of these has bound the threads already.
_BOUND_BY = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")


def shared_cpus(
    threads: int,
    turn: int,
    *,
    usable: Sequence[int] | None = None,
    cores: Mapping[int, str | None] | None = None,
    variables: Mapping[str, str] = os.environ,
) -> tuple[int, ...] | None:
    """The processors on which workers of so many threads take their turns, others at each `turn` where there are more.

    One hardware thread a core as far as that goes, and none but the fastest kind of core if there are enough of them:
    processes on others would differ by the core, not by the program. None where there is no choice: a system that does
    not pin, no processor to spare, or threads that the user's environment variables bind. `usable` and `cores` (a
    core's name by processor) are by default those of this machine.
    """
    if usable is None:
        usable = sorted(usable_cpus() or ())
        best = fastest_cpus(usable)
        usable = best if threads < len(best) else usable
    if not hasattr(os, "sched_setaffinity") or threads >= len(usable) or any(variables.get(n) for n in _BOUND_BY):
        return None
    names = core_names(usable) if cores is None else cores
    # The first hardware thread of every core, then the second ones.
    seen: dict[str, int] = {}
    rank = {}
    for cpu in usable:
        name = names.get(cpu) or str(cpu)
        rank[cpu] = seen[name] = seen.get(name, -1) + 1
    ordered = sorted(usable, key=lambda cpu: (rank[cpu], cpu))
    first = turn * threads % len(ordered)
    return tuple(sorted((ordered + ordered)[first : first + threads]))


def other_cpus(taken: Sequence[int], usable: Sequence[int] | None = None) -> tuple[int, ...]:
    """The processors of this process that are not `taken`, and whose cores are not: what starts there leaves whoever
    runs on `taken` alone."""
    usable = sorted(usable_cpus() or ()) if usable is None else usable
    names = core_names(usable)
    busy = {names.get(cpu) or str(cpu) for cpu in taken}
    return tuple(cpu for cpu in usable if (names.get(cpu) or str(cpu)) not in busy)


def fastest_cpus(cpus: Sequence[int], root: Path = Path("/")) -> list[int]:
    """Those of `cpus` that are on the fastest kind of core (hybrid x86, big.LITTLE); all where there is one kind."""
    performance = parse_cpu_list(read_text(root / "sys/devices/cpu_core/cpus"))
    if performance:
        return [cpu for cpu in cpus if cpu in performance]
    folder = root / "sys/devices/system/cpu"
    capacities = {cpu: read_int(folder / f"cpu{cpu}/cpu_capacity") or 0 for cpu in cpus}
    most = max(capacities.values(), default=0)
    return [cpu for cpu in cpus if capacities[cpu] == most]


def pin(pid: int, cpus: Sequence[int], tasks: Path | None = None) -> bool:
    """Keep all threads of a process on `cpus`, and with them those that they start; False where that is refused."""
    try:
        for thread in os.listdir(tasks or f"/proc/{pid}/task"):
            with contextlib.suppress(ProcessLookupError):  # it has ended since it was listed
                os.sched_setaffinity(int(thread), cpus)
    except (OSError, ValueError, AttributeError):
        return False
    return True
