"""Checks of the processors: clocks, power, heat, who else runs, virtual machines."""

from __future__ import annotations

from .check_remedies import busiest, on_host, run_with
from .check_threads import check_threads
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
# Firmware states the rated power to a watt or so.
_POWER_CAPPED = 0.95
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
    yield from _boost(environment)
    yield from _power(environment)
    yield from _load(environment, threads)
    yield from _others(environment, live, threads)
    yield from check_threads(environment, threads)
    yield from _virtual(environment, live)
    yield from _heat(environment, live, threads)
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
            "the host decides the clock: a change during a run cannot be seen, only the spread of latency_s it causes",
            "no command reaches it from here: trust speedup (interleaved) more than one side's latency_s",
        )
    elif governor == "performance":
        yield Finding(code, "ok", subject, "performance")
    else:
        lowest = governor == "powersave" and driver not in ("intel_pstate", "amd-pstate-epp", "amd_pstate_epp")
        preference = look(environment, "cpu.frequency.energy_preference")
        least, top = number(environment, "cpu.frequency.min_mhz"), number(environment, "cpu.frequency.max_mhz")
        times = f" (up to {top / least:.1f} times)" if least and top else ""
        yield Finding(
            code,
            "warning",
            subject,
            f"{governor} (driver {driver or 'unknown'}"
            + (f", energy preference {preference})" if isinstance(preference, str) else ")"),
            f"the clock stays at its lowest: latency_s of compute-bound forwards (denoising) is longer{times}, of "
            "memory-bound ones (decoding) less"
            if lowest
            else f"the clock follows the load: a sample that begins after a wait starts slow{times}: ttft_s and "
            "latency_s of short generations suffer more than those of long ones",
            on_host(environment, "sudo cpupower frequency-set --governor performance"),
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
            f"compute-bound forwards (denoising) take up to {top / limit:.2f} times as long, memory-bound ones "
            "(decoding) less: speedup falls"
            if limit > 0
            else "latency_s is longer than this machine needs",
            on_host(environment, f"sudo cpupower frequency-set --max {top:.0f}MHz"),
        )
    elif busy is not None and busy < _SLOW * top:
        yield Finding(
            code,
            "warning",
            subject,
            f"{busy:.0f} of {top:.0f} MHz while a processor was kept busy",
            "heat, a power limit or other processes hold the clock down: latency_s is longer, and depends on what ran "
            "before",
            "let the machine cool and stop other work, then look again: dlmbench doctor",
        )
    elif busy is not None:
        yield Finding(code, "ok", subject, f"{busy:.0f} of {top:.0f} MHz under load")


def _boost(environment: Document) -> Findings:
    if look(environment, "cpu.frequency.boost") is not False:
        return
    driver = look(environment, "cpu.frequency.driver")
    intel = isinstance(driver, str) and driver.startswith("intel")
    switch = "0 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo"
    yield Finding(
        "cpu.boost",
        "info",
        "boost (turbo)",
        "off",
        "latency_s is steadier, and longer by the boost, most for compute-bound forwards (denoising): compare only "
        "with runs that had it off as well",
        "to have the machine's best: "
        + on_host(environment, f"echo {switch if intel else '1 | sudo tee /sys/devices/system/cpu/cpufreq/boost'}"),
    )


def _power(environment: Document) -> Findings:
    limit, rated = number(environment, "cpu.power.limit_w"), number(environment, "cpu.power.rated_w")
    if limit is None or rated is None or limit >= _POWER_CAPPED * rated:
        return
    yield Finding(
        "cpu.power_limit",
        "warning",
        "processor's power limit",
        f"{limit:.0f} W, rated {rated:.0f} W",
        "the clock falls once the limit is reached, which compute-bound forwards (denoising) do before memory-bound "
        "ones (decoding): speedup falls",
        on_host(
            environment,
            f"echo {rated * 1e6:.0f} | sudo tee /sys/class/powercap/intel-rapl:?/constraint_0_power_limit_uw",
        ),
    )


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
            "threads wait for a processor at every barrier: one busy neighbour can multiply latency_s",
            _make_room(cores - load, wanted),
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
            "latency_s grows, and samples are discarded",
            _make_room(cores - foreign, wanted),
        )
    elif foreign > _BUSY:
        yield Finding(
            code,
            "info",
            subject,
            message,
            "they fit on the processors left free, but share caches and memory bandwidth: memory-bound forwards "
            "(decoding) take longer",
            f"stop them for figures to publish; to name them: {busiest()}",
        )
    else:
        yield Finding(code, "ok", subject, "none busy")


def _make_room(free: float, wanted: int) -> str:
    """Fewer threads, if that many still have a processor each; else only stopping the others helps."""
    stop = f"stop them; to name them: {busiest()}"
    return f"stop other work, or leave it its processors: {run_with(int(free))}" if 1 <= free < wanted else stop


def _virtual(environment: Document, live: Document) -> Findings:
    stolen = number(live, "steal_cores")
    if stolen is not None and stolen > _STOLEN:
        yield Finding(
            "cpu.steal",
            "warning",
            "stolen time",
            f"the hypervisor took {stolen:.2f} cores away",
            "a stolen processor stops the thread on it, whatever else is free: latency_s gets a long tail, and samples "
            "are discarded",
            "no command here helps: measure when the host is quieter, or on a dedicated machine",
        )
    if look(environment, "cpu.hypervisor.present") is True:
        kind = look(environment, "cpu.hypervisor.kind")
        yield Finding(
            "cpu.hypervisor",
            "info",
            "virtual machine",
            f"yes{f' ({kind})' if kind else ''}"
            + (f"; {stolen:.2f} cores stolen" if stolen is not None and stolen <= _STOLEN else ""),
            "neighbours on the host share caches, memory bandwidth and clock unseen: latency_s drifts by the hour, "
            "speedup (interleaved) less",
            "no command here helps: compare only sides that alternated in one run, and repeat on another day",
        )


def _heat(environment: Document, live: Document, threads: int | None) -> Findings:
    events = number(live, "thermal_throttle_events")
    hottest, limit = number(live, "temperature.celsius"), number(live, "temperature.critical_celsius")
    near = hottest is not None and hottest >= (limit - 10 if limit else 90)
    code, subject = "cpu.temperature", "processor temperature"
    wanted = threads or default_threads(environment) or 1
    if events or near:
        shown = f"{hottest:.0f} °C" if hottest is not None else "not readable"
        yield Finding(
            code,
            "warning",
            subject,
            shown
            + (f" (critical at {limit:.0f} °C)" if limit else "")
            + (f"; slowed {events:.0f} times within a second" if events else ""),
            "the clock falls as the machine warms: whichever side is measured later has the longer latency_s",
            "let it cool and clear the air inlets (no command can)"
            + (f", or make less heat: {run_with(wanted // 2)}" if wanted > 1 else ""),
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
            "each reading of the clock is a system call of about a microsecond: the observer's cost is in latency_s, "
            "most where steps are short (decoding)",
            on_host(
                environment, "echo tsc | sudo tee /sys/devices/system/clocksource/clocksource0/current_clocksource"
            ),
        )
