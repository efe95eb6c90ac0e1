"""Checks of threads against processors: how many, how many can really run, and whether waiting ones keep spinning."""

from __future__ import annotations

import re

from .check_remedies import in_container, on_host, run_with
from .finding import (
    Document,
    Finding,
    Findings,
    cores_text,
    default_threads,
    look,
    number,
    threads_text,
    usable_cores,
)

# The two sides of a pair live side by side; one computes while the other blocks.
_WORKERS = 2
# Intel's and LLVM's OpenMP count in milliseconds, GNU's in turns of an empty loop.
_LONG_BLOCKTIME_MS = 200
_LONG_SPINCOUNT = 1_000_000_000


def check_threads(environment: Document, threads: int | None) -> Findings:
    """`threads`: how many a run would use; None: what it would choose itself."""
    wanted = threads or default_threads(environment)
    if wanted is not None:
        yield from _count(environment, wanted)
        yield from _variables(environment, wanted)
        yield from _spinning(environment, wanted)
    yield from _kinds(environment)
    yield from _affinity(environment)
    yield from _quota(environment, wanted)


def _count(environment: Document, wanted: int) -> Findings:
    cores, physical = usable_cores(environment), number(environment, "cpu.usable_physical_cores")
    code, subject = "cpu.threads", "threads"
    if cores is None:
        return
    if wanted > cores:
        yield Finding(
            code,
            "warning",
            subject,
            f"{threads_text(wanted)} for {cores_text(cores)} usable processors",
            f"threads take turns: latency_s is {wanted / cores:.1f} times what the processors allow, often far more: "
            "every barrier waits for the thread that is not running",
            run_with(int(cores) - 1),
        )
    elif look(environment, "cpu.smt") is True and physical is not None and wanted > physical:
        yield Finding(
            code,
            "warning",
            subject,
            f"{threads_text(wanted)} on {physical:.0f} physical cores",
            "two threads share one core's vector units: matrix products get no faster, latency_s spreads more",
            run_with(int(physical) - 1),
        )
    elif wanted > cores - 1 and cores > 1:
        yield Finding(
            code,
            "warning",
            subject,
            f"{threads_text(wanted)} on all {cores_text(cores)} usable processors",
            "whatever else wakes up takes a processor from a thread that all the others wait for: latency_s gets a "
            "long tail",
            f"leave one free: {run_with(int(cores) - 1)}",
        )
    else:
        yield Finding(code, "ok", subject, f"{wanted} of {cores_text(cores)} usable processors")


def _variables(environment: Document, wanted: int) -> Findings:
    cores = usable_cores(environment)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        count = _whole(look(environment, f"variables.{name}"))
        if cores is None or count is None or count <= cores:
            continue
        yield Finding(
            f"cpu.{name}",
            "warning",
            name,
            f"{count} in each of {_WORKERS} workers: {_WORKERS * count} threads for {cores_text(cores)} usable "
            "processors",
            f"workers inherit it: what torch does not limit itself starts {count / cores:.1f} threads a processor, and "
            "latency_s grows at least as much there, more where forwards are short (decoding)",
            f"export {name}={wanted}",
        )


def _spinning(environment: Document, wanted: int) -> Findings:
    """A waiting thread that spins takes the processor of the side that is measured."""
    cores = usable_cores(environment)
    if cores is None or _WORKERS * wanted <= cores:
        return
    for name, remedy in (
        ("OMP_WAIT_POLICY", "export OMP_WAIT_POLICY=passive"),
        ("KMP_BLOCKTIME", "export KMP_BLOCKTIME=1"),
        ("GOMP_SPINCOUNT", "unset GOMP_SPINCOUNT"),
    ):
        value = look(environment, f"variables.{name}")
        if isinstance(value, str) and _spins(name, value.strip().lower()):
            yield Finding(
                f"cpu.spinning.{name}",
                "warning",
                name,
                f"{value}: {_WORKERS} workers x {threads_text(wanted)} may all spin on {cores_text(cores)} usable "
                "processors",
                "the idle side spins on processors that the measured side needs: latency_s of both grows up to "
                f"{_WORKERS * wanted / cores:.1f} times, most for the side with more and shorter forwards (decoding)",
                remedy,
            )


def _spins(name: str, value: str) -> bool:
    if name == "OMP_WAIT_POLICY":
        return value == "active"
    count = _whole(re.sub(r"(ms|s)$", "", value))
    return value in ("infinite", "infinity") or (
        count is not None and count > (_LONG_BLOCKTIME_MS if name == "KMP_BLOCKTIME" else _LONG_SPINCOUNT)
    )


def _whole(value: object) -> int | None:
    """The first number of "8" or "8,2" (one for each level of nesting)."""
    found = re.fullmatch(r"\s*(\d{1,18})\s*(,.*)?", value) if isinstance(value, str) else None
    return int(found.group(1)) if found else None


def _kinds(environment: Document) -> Findings:
    cores, physical = usable_cores(environment), number(environment, "cpu.usable_physical_cores")
    if look(environment, "cpu.smt") is True and physical is not None and cores is not None:
        off = on_host(environment, "echo off | sudo tee /sys/devices/system/cpu/smt/control")
        yield Finding(
            "cpu.smt",
            "info",
            "simultaneous multithreading",
            f"on: {cores_text(cores)} usable processors are {physical:.0f} physical cores",
            "a neighbour on the other half of a core lengthens latency_s of the thread on it without taking its "
            "processor",
            f"use at most {threads_text(int(physical))}, or switch it off: {off}",
        )
    fast, slow = look(environment, "cpu.performance_cores"), look(environment, "cpu.efficiency_cores")
    if fast and slow:
        yield Finding(
            "cpu.hybrid",
            "warning",
            "two kinds of core",
            f"fast cores {fast}, slow cores {slow}",
            "every barrier waits for the slow cores, and where a thread runs changes from sample to sample: latency_s "
            "is longer and jumps",
            f"taskset -c {fast} dlmbench run",
        )


def _affinity(environment: Document) -> Findings:
    usable, cores = number(environment, "cpu.usable_cores"), number(environment, "cpu.logical_cores")
    if usable is not None and cores is not None and usable < cores:
        every = f"0-{cores - 1:.0f}"
        yield Finding(
            "cpu.affinity",
            "info",
            "affinity",
            f"this process may use {usable:.0f} of {cores:.0f} processors",
            "throughput_tok_s is that of a part of the machine; the default number of threads follows the part",
            f"to use all: docker run --cpuset-cpus {every} IMAGE"
            if in_container(environment)
            else f"to use all: taskset -c {every} dlmbench run",
        )


def _quota(environment: Document, wanted: int | None) -> Findings:
    quota = number(environment, "limits.cpu_quota_cores")
    visible = number(environment, "cpu.usable_cores") or number(environment, "cpu.logical_cores")
    code, subject = "cpu.quota", "container's processor quota"
    if quota is None or visible is None or quota <= 0:
        return
    if quota < visible:
        stops, seconds = number(environment, "now.throttled_periods"), number(environment, "now.throttled_s")
        kept = f"docker run --cpuset-cpus {f'0-{int(quota) - 1}' if quota >= 2 else '0'} IMAGE"
        over = f" (at {threads_text(wanted)}: {wanted / quota:.1f} times)" if wanted and wanted > quota else ""
        yield Finding(
            code,
            "warning",
            subject,
            f"{cores_text(quota)} cores of {visible:.0f} visible"
            + (f"; it has stopped this container in {stops:.0f} periods" if stops else "")
            + (f", for {seconds:.1f} s" if stops and seconds else ""),
            "more threads than the quota are stopped together for the rest of each period (tens of ms): latency_s "
            f"jumps by that much, and its mean grows by threads / quota{over}",
            f"whole processors instead of a quota ({kept}), or: {run_with(int(quota) - 1)}",
        )
    else:
        yield Finding(code, "ok", subject, f"{cores_text(quota)} cores: not below the visible")
