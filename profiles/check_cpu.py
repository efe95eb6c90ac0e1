"""Checks of the processors: clocks, who else runs, threads against cores, virtual machines and containers."""

from __future__ import annotations

from .finding import (
    Document,
    Finding,
    Findings,
    cores_text,
    default_threads,
    look,
    number,
    records,
    threads_text,
    usable_cores,
)

# A policy that forbids the top tenth of the clock is a setting, not the rounding between two ways to state a maximum.
_CAPPED = 0.9
# All-core turbo of large server parts is legitimately a quarter below the single-core figure.
_SLOW = 0.7
# A load of half a processor is a desktop at rest.
_IDLE_LOAD = 0.5
# The tick resolution of the half-second probe is 0.02 cores a process; a tenth is a process that means it.
_BUSY = 0.1
_STOLEN = 0.02
# Clock sources that `perf_counter` reads without a system call.
_FAST_CLOCKS = {"tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page", "riscv_clocksource"}


def check_cpu(environment: Document, live: Document, threads: int | None) -> Findings:
    """Everything about processors. `threads`: how many a run would use; None: what it would choose itself."""
    yield from _governor(environment)
    yield from _frequency(environment, live)
    yield from _load(environment, threads)
    yield from _others(environment, live, threads)
    yield from _threads(environment, threads)
    yield from _affinity(environment)
    yield from _quota(environment)
    yield from _virtual(environment, live)
    yield from _heat(live)
    yield from _clock(environment)


def _governor(environment: Document) -> Findings:
    governor, driver = look(environment, "cpu.frequency.governor"), look(environment, "cpu.frequency.driver")
    code, subject = "cpu.governor", "frequency governor"
    if not isinstance(governor, str):
        yield Finding(
            code,
            "info",
            subject,
            "not readable here (usual in a virtual machine)",
            "the host decides the clock: a change of it during a run cannot be seen, only the spread that it causes",
            "trust the interleaved comparison more than one side's absolute time",
        )
    elif governor == "performance":
        yield Finding(code, "ok", subject, "performance")
    else:
        lowest = governor == "powersave" and driver not in ("intel_pstate", "amd-pstate-epp", "amd_pstate_epp")
        yield Finding(
            code,
            "warning",
            subject,
            f"{governor} (driver {driver or 'unknown'})",
            "the clock stays at its lowest"
            if lowest
            else "the clock follows the load: a sample that begins after a wait starts slow, so that short generations "
            "suffer more than long ones",
            "sudo cpupower frequency-set --governor performance",
        )


def _frequency(environment: Document, live: Document) -> Findings:
    top, limit = number(environment, "cpu.frequency.max_mhz"), number(environment, "cpu.frequency.limit_mhz")
    busy = number(live, "busy_mhz")
    code, subject = "cpu.frequency", "processor frequency"
    if not top:
        return
    if limit is not None and limit < _CAPPED * top:
        yield Finding(
            code,
            "warning",
            subject,
            f"limited to {limit:.0f} of {top:.0f} MHz",
            "all times are longer than this machine needs, compute-bound forwards (denoising) more than memory-bound "
            "ones (decoding)",
            f"sudo cpupower frequency-set --max {top:.0f}MHz",
        )
    elif busy is not None and busy < _SLOW * top:
        yield Finding(
            code,
            "warning",
            subject,
            f"{busy:.0f} of {top:.0f} MHz while a processor was kept busy",
            "heat, a power limit or other processes hold the clock down; times depend on what ran before",
            "let the machine cool and stop other work, then run `dlmbench doctor` again",
        )
    elif busy is not None:
        yield Finding(code, "ok", subject, f"{busy:.0f} of {top:.0f} MHz under load")


def _load(environment: Document, threads: int | None) -> Findings:
    averages, cores = look(environment, "now.load_average"), usable_cores(environment)
    wanted = threads or default_threads(environment)
    load = number({"last_minute": averages[0]}, "last_minute") if isinstance(averages, list) and averages else None
    if load is None or cores is None or wanted is None:
        return
    free = max(0.0, cores - wanted)
    code, subject = "cpu.load", "load average"
    if load > free + _IDLE_LOAD:
        yield Finding(
            code,
            "warning",
            subject,
            f"{load:.1f} over the last minute; {threads_text(wanted)} would leave {cores_text(free)} "
            f"of {cores_text(cores)} processors free",
            "threads wait for a processor at every barrier: one busy neighbour can slow a forward several times over",
            "stop other work and wait a minute, or measure with fewer threads",
        )
    else:
        yield Finding(code, "ok", subject, f"{load:.1f} on {cores_text(cores)} processors")


def _others(environment: Document, live: Document, threads: int | None) -> Findings:
    busy = [p for p in records(look(live, "busy_processes")) if (number(p, "cores") or 0.0) >= _BUSY]
    foreign, cores = number(live, "foreign_cores"), usable_cores(environment)
    wanted = threads or default_threads(environment)
    if foreign is None or cores is None or wanted is None:
        return
    code, subject = "cpu.others", "other processes"
    names = ", ".join(f"{look(p, 'name') or '?'} {number(p, 'cores') or 0.0:.1f}" for p in busy)
    message = f"{foreign:.1f} cores in use" + (f": {names}" if names else "")
    if foreign > max(0.0, cores - wanted) + _BUSY:
        yield Finding(
            code,
            "warning",
            subject,
            message,
            f"more than the {cores_text(max(0.0, cores - wanted))} left free by {threads_text(wanted)}: "
            "samples will be discarded",
            "stop them, or measure with fewer threads",
        )
    elif foreign > _BUSY:
        yield Finding(
            code,
            "info",
            subject,
            message,
            "they fit on the processors left free, but share caches and memory bandwidth",
            "stop them for figures to publish",
        )
    else:
        yield Finding(code, "ok", subject, "none busy")


def _threads(environment: Document, threads: int | None) -> Findings:
    cores, physical = usable_cores(environment), number(environment, "cpu.usable_physical_cores")
    smt = look(environment, "cpu.smt") is True
    code, subject = "cpu.threads", "threads"
    wanted = threads or default_threads(environment)
    if cores is None or wanted is None:
        return
    if wanted > cores:
        yield Finding(
            code,
            "warning",
            subject,
            f"{threads_text(wanted)} for {cores_text(cores)} usable processors",
            "threads take turns and every barrier waits for the one that is not running: the times mean nothing",
            f"measure with {threads_text(max(1, int(cores) - 1))}",
        )
    elif smt and physical is not None and wanted > physical:
        yield Finding(
            code,
            "warning",
            subject,
            f"{threads_text(wanted)} on {physical:.0f} physical cores",
            "two threads share one core's vector units: matrix products get no faster and the spread grows",
            f"measure with {threads_text(max(1, int(physical) - 1))}",
        )
    elif wanted > cores - 1 and cores > 1:
        yield Finding(
            code,
            "warning",
            subject,
            f"{threads_text(wanted)} on all {cores_text(cores)} usable processors",
            "whatever else wakes up takes a processor from a thread that all the others wait for",
            f"leave one free: {threads_text(max(1, int(cores) - 1))}",
        )
    else:
        yield Finding(code, "ok", subject, f"{wanted} of {cores_text(cores)} usable processors")
    if smt and physical is not None:
        yield Finding(
            "cpu.smt",
            "info",
            "simultaneous multithreading",
            f"on: {cores_text(cores)} usable processors are {physical:.0f} physical cores",
            "a neighbour on the other half of a core slows the thread on it without taking its processor",
            f"use at most {threads_text(int(physical))}; off: echo off | sudo tee /sys/devices/system/cpu/smt/control",
        )
    fast, slow = look(environment, "cpu.performance_cores"), look(environment, "cpu.efficiency_cores")
    if fast and slow:
        yield Finding(
            "cpu.hybrid",
            "warning",
            "two kinds of core",
            f"fast cores {fast}, slow cores {slow}",
            "every barrier waits for the slow cores, and where a thread runs changes from sample to sample",
            f"taskset -c {fast} dlmbench run",
        )


def _affinity(environment: Document) -> Findings:
    usable, cores = number(environment, "cpu.usable_cores"), number(environment, "cpu.logical_cores")
    if usable is not None and cores is not None and usable < cores:
        yield Finding(
            "cpu.affinity",
            "info",
            "affinity",
            f"this process may use {usable:.0f} of {cores:.0f} processors",
            "figures are those of a part of the machine; the default number of threads follows the part",
            "to use all: start dlmbench without taskset, numactl or a cpuset",
        )


def _quota(environment: Document) -> Findings:
    quota = number(environment, "limits.cpu_quota_cores")
    visible = number(environment, "cpu.usable_cores") or number(environment, "cpu.logical_cores")
    if quota is None or visible is None:
        return
    if quota < visible:
        stops = number(environment, "now.throttled_periods")
        yield Finding(
            "cpu.quota",
            "warning",
            "container's processor quota",
            f"{cores_text(quota)} cores of {visible:.0f} visible"
            + (f"; it has stopped this container in {stops:.0f} periods" if stops else ""),
            "more threads than the quota are stopped together for the rest of each period (tens of ms): times jump",
            f"measure with {threads_text(max(1, int(quota) - 1))}, or give the container a cpuset instead of a quota",
        )
    else:
        yield Finding(
            "cpu.quota", "ok", "container's processor quota", f"{cores_text(quota)} cores: not below the visible"
        )


def _virtual(environment: Document, live: Document) -> Findings:
    stolen = number(live, "steal_cores")
    if stolen is not None and stolen > _STOLEN:
        yield Finding(
            "cpu.steal",
            "warning",
            "stolen time",
            f"the hypervisor took {stolen:.2f} cores away",
            "a stolen processor stops the thread on it, whatever else is free: long tails, and samples discarded",
            "measure when the host is quieter, or on a dedicated machine",
        )
    if look(environment, "cpu.hypervisor.present") is True:
        kind = look(environment, "cpu.hypervisor.kind")
        yield Finding(
            "cpu.hypervisor",
            "info",
            "virtual machine",
            f"yes{f' ({kind})' if kind else ''}"
            + (f"; {stolen:.2f} cores stolen" if stolen is not None and stolen <= _STOLEN else ""),
            "neighbours on the host share caches, memory bandwidth and clock unseen",
            "compare only sides that alternated in the same run; repeat on another day before publishing",
        )


def _heat(live: Document) -> Findings:
    events = number(live, "thermal_throttle_events")
    hottest, limit = number(live, "temperature.celsius"), number(live, "temperature.critical_celsius")
    near = hottest is not None and hottest >= (limit - 10 if limit else 90)
    code, subject = "cpu.temperature", "processor temperature"
    if events or near:
        shown = f"{hottest:.0f} °C" if hottest is not None else "not readable"
        yield Finding(
            code,
            "warning",
            subject,
            shown + (f" (critical at {limit:.0f} °C)" if limit else "") + ("; throttling now" if events else ""),
            "the clock falls as the machine warms: whichever side is measured later looks slower",
            "let it cool, clear the air inlets, or measure with fewer threads",
        )
    elif hottest is not None:
        yield Finding(code, "ok", subject, f"{hottest:.0f} °C")


def _clock(environment: Document) -> Findings:
    source = look(environment, "system.clock_source")
    if isinstance(source, str) and source not in _FAST_CLOCKS:
        yield Finding(
            "system.clock",
            "warning",
            "clock source",
            source,
            "each reading of the clock is a system call of about a microsecond: the observer's cost grows",
            "echo tsc | sudo tee /sys/devices/system/clocksource/clocksource0/current_clocksource",
        )
