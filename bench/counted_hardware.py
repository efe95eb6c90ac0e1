"""Metrics from what the hardware did in a cell: kernels, telemetry, memory. One process replays, so no interval."""

from __future__ import annotations

from collections.abc import Sequence

from ..profiles.hardware import TELEMETRY, Hardware, KernelProfile, MemorySplit
from ..profiles.record import Trial, Value

_KERNELS = ("kernel_busy", "launches_per_token", "profiler_overhead")
_MEMORY = ("weights_b", "kv_b", "logits_b", "activations_b", "rest_b")


def hardware_values(trials: Sequence[Trial]) -> dict[str, Value]:
    """The metrics of the first trial that recorded its hardware, by name; empty where none did."""
    found = next((trial.hardware for trial in trials if trial.hardware is not None), None)
    return {} if found is None else _values(found)


def _values(hardware: Hardware) -> dict[str, Value]:
    values = _of_kernels(hardware.kernels, hardware.missing.get("kernels"))
    telemetry = hardware.telemetry
    for name in TELEMETRY:
        if telemetry is not None and name in telemetry.values:
            values[name] = Value(value=telemetry.values[name], n=telemetry.generations)
        else:
            missing = hardware.missing.get("telemetry") if telemetry is None else telemetry.missing.get(name)
            values[name] = Value(value=None, why=missing or "not recorded")
    for name in _MEMORY:
        values[f"memory_{name}"] = _part(hardware.memory, name, hardware.missing.get("memory"))
    predicted = hardware.memory_predicted
    values["memory_predicted_b"] = (
        Value(value=None, why="not predicted") if predicted is None else Value(value=predicted.total_b, n=1)
    )
    return values


def _of_kernels(kernels: KernelProfile | None, why: str | None) -> dict[str, Value]:
    if kernels is None:
        return dict.fromkeys(_KERNELS, Value(value=None, why=why or "not profiled"))
    tokens = kernels.output_tokens
    return {
        "kernel_busy": Value(value=kernels.busy_s / kernels.wall_s, n=1),
        "launches_per_token": Value(value=kernels.launches / tokens, n=1)
        if tokens
        else Value(value=None, why="no token was emitted"),
        "profiler_overhead": Value(
            value=kernels.overhead, n=1, why=None if kernels.overhead is not None else "unknown"
        ),
    }


def _part(memory: MemorySplit | None, name: str, why: str | None) -> Value:
    if memory is None:
        return Value(value=None, why=why or "not recorded")
    return Value(value=getattr(memory, name), n=1)
