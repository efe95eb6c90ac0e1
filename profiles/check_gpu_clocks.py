"""Checks of what a GPU is doing now: what holds its clocks, how far below their maximum they are, how hot it is.

An idle GPU's clocks are low because it is idle: they are judged only while it is busy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .check_remedies import on_host
from .finding import Document, Finding, Findings, Severity, look, number

_HOT_MARGIN_C = 5
_BUSY_PERCENT = 50
# Boost falls by some bins with temperature and from card to card; a fifth below the maximum has another cause.
_SLOW_SM = 0.8
# Consumer cards compute in a state whose memory clock is up to 9 % below the maximum.
_SLOW_MEMORY = 0.9


@dataclass(frozen=True, slots=True)
class _Held:
    """A reason why the clocks are held. `{smi}` in `remedy` is `nvidia-smi -i N`."""

    severity: Severity
    message: str
    effect: str
    remedy: str
    shows: tuple[str, ...] = ("clock",)


_LATER = "the clock follows the temperature: whichever side is measured later has the longer latency_s"
_HALVED = "the clock is cut to a half or less: compute-bound forwards (prefill, denoising) take twice as long or more"
_WATCH = "{smi} --query-gpu=temperature.gpu,clocks.sm,power.draw --format=csv -l 1"

_HELD = {
    "hardware_thermal": _Held(
        "warning",
        "heat: the hardware has cut the clock",
        f"{_HALVED}; such samples are invalid",
        f"improve the cooling (no command can); to watch it: {_WATCH}",
        ("clock", "temperature"),
    ),
    "software_thermal": _Held(
        "warning",
        "heat: the driver has lowered the clock",
        f"{_LATER}; such samples are invalid",
        f"let it cool, improve the air flow (no command can); to watch it: {_WATCH}",
        ("clock", "temperature"),
    ),
    "power_brake": _Held(
        "warning",
        "the power supply asks for less (power brake)",
        f"{_HALVED}; such samples are invalid",
        "check the supply and its cables (no command can); to see whether it ended: {smi} -q -d PERFORMANCE",
        ("clock", "power"),
    ),
    "hardware_slowdown": _Held(
        "warning",
        "the hardware has cut the clock",
        f"{_HALVED}; such samples are invalid",
        "for the reason (heat, power): {smi} -q -d PERFORMANCE",
        ("clock", "temperature", "power"),
    ),
    "software_power_cap": _Held(
        "info",
        "the power limit holds the clock",
        "compute-bound forwards (prefill, denoising) lose clock before memory-bound ones (decoding): speedup, mfu and "
        "energy_per_token_j hold for this limit (recorded with every sample)",
        "",  # depends on whether the limit can be raised
        ("clock", "power"),
    ),
    "application_clocks": _Held(
        "info",
        "fixed clocks are set",
        "times are steadier, and longer where the fixed clock is below what the card would choose",
        "to let it choose: sudo {smi} -rgc; sudo {smi} -rac",
    ),
    "sync_boost": _Held(
        "info",
        "tied to another GPU's clock (sync boost)",
        "work on another GPU of the group changes latency_s here",
        "take it out of its group (--sync-boost-list names it): sudo nvidia-smi clocks --sync-boost-remove GROUP",
    ),
    "display_clocks": _Held(
        "info",
        "the display's setting limits the clock",
        "latency_s depends on what the screen shows",
        "without a screen: sudo systemctl isolate multi-user.target",
    ),
}


def check_gpu_clocks(gpu: Document, activity: Document, subject: str, index: str, environment: Document) -> Findings:
    """`gpu` is how the GPU was described, `activity` what it does now."""
    reasons = look(activity, "clock_reasons")
    reasons = [reason for reason in reasons if isinstance(reason, str)] if isinstance(reasons, list) else []
    known = [reason for reason in reasons if reason in _HELD]
    for reason in known:
        held = _HELD[reason]
        measured = ", ".join(text for kind in held.shows for text in _measured(kind, gpu, activity))
        yield Finding(
            f"gpu.clock.{reason}",
            held.severity,
            subject,
            held.message + (f": {measured}" if measured else ""),
            held.effect,
            _raise_limit(gpu, index, environment)
            if reason == "software_power_cap"
            else _addressed(held.remedy, index, environment),
        )
    used = number(activity, "utilisation_percent")
    if used is not None and used >= _BUSY_PERCENT and "idle" not in reasons:
        yield from _low(gpu, activity, subject, index, environment, explained=bool(known))
    yield from _hot(activity, subject, index)


def _addressed(remedy: str, index: str, environment: Document) -> str:
    words, _, command = remedy.replace("{smi}", f"nvidia-smi -i {index}").rpartition(": ")
    return f"{words}: {on_host(environment, command) if command.startswith('sudo ') else command}"


def _raise_limit(gpu: Document, index: str, environment: Document) -> str:
    limit, top = number(gpu, "power_limit_w"), number(gpu, "power_limit_max_w")
    if limit is None or top is None:
        return f"where the card allows more than its limit: nvidia-smi -i {index} -q -d POWER"
    if limit < top - 1:
        return "a state, not a fault; the most that the card allows: " + on_host(
            environment, f"sudo nvidia-smi -i {index} -pl {top:.0f}"
        )
    return "none needed, and no command can: the limit is already the card's highest; clocks and power are recorded"


def _measured(kind: str, gpu: Document, activity: Document) -> Iterator[str]:
    if kind == "clock":
        now, of = number(activity, "sm_clock_mhz"), number(gpu, "sm_clock_max_mhz")
        if now is not None and of is not None:
            yield f"SM clock {now:.0f} of {of:.0f} MHz"
    elif kind == "power":
        now, of = number(activity, "power_w"), number(gpu, "power_limit_w")
        if now is not None and of is not None:
            yield f"{now:.0f} of {of:.0f} W"
    elif (now := number(activity, "temperature_c")) is not None:
        yield f"{now:.0f} °C"


def _low(
    gpu: Document, activity: Document, subject: str, index: str, environment: Document, *, explained: bool
) -> Findings:
    used = number(activity, "utilisation_percent")
    kinds = (
        ("sm", "SM", _SLOW_SM, "compute-bound forwards (prefill, denoising)", "falls", "-rgc"),
        ("memory", "memory", _SLOW_MEMORY, "memory-bound forwards (decoding)", "rises", "-rmc"),
    )
    for kind, name, share, slowed, ratio, reset in kinds:
        mhz, top = number(activity, f"{kind}_clock_mhz"), number(gpu, f"{kind}_clock_max_mhz")
        if not mhz or not top or mhz >= share * top or (kind == "sm" and explained):
            continue
        yield Finding(
            f"gpu.clock.{kind}",
            "warning",
            subject,
            f"{name} clock {mhz:.0f} of {top:.0f} MHz while {used:.0f} % busy, and the driver gives no reason",
            f"{slowed} take up to {top / mhz:.2f} times as long, the others hardly longer: speedup {ratio}",
            "if it was locked: " + on_host(environment, f"sudo nvidia-smi -i {index} {reset}"),
        )


def _hot(activity: Document, subject: str, index: str) -> Findings:
    sensors = (
        ("gpu.temperature", "", "temperature_c", "slowdown_c"),
        ("gpu.memory_temperature", "memory at ", "memory_temperature_c", "memory_limit_c"),
    )
    for code, name, now, at in sensors:
        celsius, limit = number(activity, now), number(activity, at)
        if code == "gpu.temperature" and celsius is not None and limit is None:
            margin = number(activity, "margin_c")  # newer drivers tell the distance instead of the point
            limit = celsius + margin if margin is not None else None
        if celsius is not None and limit is not None and celsius >= limit - _HOT_MARGIN_C:
            yield Finding(
                code,
                "warning",
                subject,
                f"{name}{celsius:.0f} °C, slows down at {limit:.0f} °C",
                f"the clock is about to fall, and {_LATER}",
                "let it cool, improve the air flow (no command can); to watch it: "
                + _WATCH.replace("{smi}", f"nvidia-smi -i {index}"),
            )
