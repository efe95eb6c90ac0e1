"""The NVIDIA GPUs of a machine, through NVML: what they are, and what they are doing now.

The NVML binding is an argument (None: not installed), so that a test hands in a fake one. A reading that a GPU or a
driver does not offer is None. `nvmlInit` costs milliseconds with a warm driver, seconds where persistence mode is off.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

from .host import Section

# Bits of nvmlClocksEventReasons; the names are stable, the constants were renamed between releases of the binding.
_CLOCK_REASONS = {
    0x001: "idle",
    0x002: "application_clocks",
    0x004: "software_power_cap",
    0x008: "hardware_slowdown",
    0x010: "sync_boost",
    0x020: "software_thermal",
    0x040: "hardware_thermal",
    0x080: "power_brake",
    0x100: "display_clocks",
}
_COMPUTE_MODES = {0: "default", 1: "exclusive_thread", 2: "prohibited", 3: "exclusive_process"}
_GRAPHICS, _SM, _MEMORY = 0, 1, 2  # nvmlClockType_t
_CORE, _SLOWDOWN, _MEMORY_MAX = 0, 1, 2  # nvmlTemperatureSensors_t, nvmlTemperatureThresholds_t
_MEMORY_TEMPERATURE = 82  # NVML_FI_DEV_MEMORY_TEMP
# nvmlReturn_t: invalid argument, not supported, no permission, function not found, GPU lost, reset required, other
# version of an argument, deprecated.
_FOR_GOOD = frozenset({2, 3, 4, 13, 15, 16, 25, 26})


class NoGpuError(Exception):
    """NVML cannot be used here; the message says why."""


def load_nvml() -> Any | None:
    """The NVML binding (`pynvml`), or None if it is not installed. Imports it: about 20 ms."""
    try:
        import pynvml
    except Exception:  # a broken binding is as good as none
        return None
    return pynvml


def read_gpus(nvml: Any) -> Section:
    """Driver versions and one section a GPU; `{"gpus": None, "why": ...}` where there is no usable NVML."""
    try:
        with _session(nvml) as handles:
            return {
                "gpus": [_describe(nvml, index, handle) for index, handle in enumerate(handles)],
                "why": None,
                "driver": _try(lambda: _text(nvml.nvmlSystemGetDriverVersion())),
                "cuda_driver": _try(lambda: _cuda_version(int(nvml.nvmlSystemGetCudaDriverVersion()))),
            }
    except NoGpuError as error:
        return {"gpus": None, "why": str(error)}


def read_gpu_activity(nvml: Any) -> list[Section] | None:
    """What each GPU is doing: processes, why its clocks are held, temperatures (°C), use; None without NVML.

    `memory_used_b` leaves out what the driver reserves for itself, where the driver tells them apart.
    """
    try:
        with _session(nvml) as handles:
            return [_activity(nvml, index, handle) for index, handle in enumerate(handles)]
    except NoGpuError:
        return None


@contextmanager
def running(nvml: Any) -> Iterator[None]:
    """NVML between init and shutdown. Raises NoGpuError where it is not installed or does not start."""
    if nvml is None:
        raise NoGpuError("the NVML binding is not installed (package nvidia-ml-py)")
    try:
        nvml.nvmlInit()
    except Exception as error:
        raise NoGpuError(f"NVML does not start: {error}") from None
    try:
        yield
    finally:
        _try(nvml.nvmlShutdown)


@contextmanager
def _session(nvml: Any) -> Iterator[list[Any]]:
    """NVML running, with the handles of all GPUs. Raises NoGpuError."""
    with running(nvml):
        try:
            handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        except Exception as error:
            raise NoGpuError(f"NVML cannot list the GPUs: {error}") from None
        if not handles:
            raise NoGpuError("NVML runs but lists no GPU")
        yield handles


def clock_reasons(bits: int) -> list[str]:
    """Names of what holds the clocks, from the bits of nvmlDeviceGetCurrentClocksEventReasons."""
    return [name for bit, name in _CLOCK_REASONS.items() if bits & bit]


def for_good(error: Exception) -> bool:
    """Whether asking again is of no use: the driver or the binding has no such function, or the device is lost."""
    return isinstance(error, AttributeError) or getattr(error, "value", None) in _FOR_GOOD


def refusal(function: str, error: Exception) -> str:
    """One sentence (without its full stop) on an NVML function that failed."""
    if isinstance(error, AttributeError):
        return f"the NVML binding lacks {function}; a newer nvidia-ml-py may have it"
    return f"NVML answers {function} with: {' '.join(str(error).split())}"


def _describe(nvml: Any, index: int, handle: Any) -> Section:
    memory = _try(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    limits = _try(lambda: nvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)) or (None, None)
    ecc, ecc_pending = _try(lambda: nvml.nvmlDeviceGetEccMode(handle)) or (None, None)
    mig = _try(lambda: nvml.nvmlDeviceGetMigMode(handle)[0])
    persistence = _try(lambda: nvml.nvmlDeviceGetPersistenceMode(handle))
    mode = _try(lambda: nvml.nvmlDeviceGetComputeMode(handle))
    capability = _try(lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle))

    def clock(read: str, kind: int) -> Any:
        return _try(lambda: getattr(nvml, read)(handle, kind))

    def watts(read: str) -> float | None:
        return _watts(_try(lambda: getattr(nvml, read)(handle)))

    return {
        "index": index,
        "name": _try(lambda: _text(nvml.nvmlDeviceGetName(handle))),
        # Enough to tell two GPUs of one machine apart, too little to trace a machine.
        "uuid": _try(lambda: _text(nvml.nvmlDeviceGetUUID(handle))[:12]),
        "memory_total_b": getattr(memory, "total", None),
        "compute_capability": ".".join(str(part) for part in capability) if capability else None,
        "power_limit_w": watts("nvmlDeviceGetEnforcedPowerLimit"),
        "power_limit_default_w": watts("nvmlDeviceGetPowerManagementDefaultLimit"),
        "power_limit_max_w": _watts(limits[1]),
        "sm_clock_max_mhz": clock("nvmlDeviceGetMaxClockInfo", _SM),
        "memory_clock_max_mhz": clock("nvmlDeviceGetMaxClockInfo", _MEMORY),
        "application_clock_mhz": clock("nvmlDeviceGetApplicationsClock", _GRAPHICS),
        "application_clock_default_mhz": clock("nvmlDeviceGetDefaultApplicationsClock", _GRAPHICS),
        "application_memory_clock_mhz": clock("nvmlDeviceGetApplicationsClock", _MEMORY),
        "application_memory_clock_default_mhz": clock("nvmlDeviceGetDefaultApplicationsClock", _MEMORY),
        "memory_bus_bits": _try(lambda: nvml.nvmlDeviceGetMemoryBusWidth(handle)),
        "persistence": bool(persistence) if persistence is not None else None,
        "ecc": bool(ecc) if ecc is not None else None,
        "ecc_pending": bool(ecc_pending) if ecc_pending is not None else None,
        "mig": bool(mig) if mig is not None else None,
        "mig_slices": _slices(nvml, handle) if mig else None,
        "compute_mode": _COMPUTE_MODES.get(mode) if mode is not None else None,
        "now": {
            "sm_clock_mhz": clock("nvmlDeviceGetClockInfo", _SM),
            "memory_clock_mhz": clock("nvmlDeviceGetClockInfo", _MEMORY),
            "power_w": watts("nvmlDeviceGetPowerUsage"),
        },
    }


def _activity(nvml: Any, index: int, handle: Any) -> Section:
    reasons = _try(lambda: int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)))
    if reasons is None:  # the name before driver 535
        reasons = _try(lambda: int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)))
    use = _try(lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
    running = _try(lambda: list(nvml.nvmlDeviceGetComputeRunningProcesses(handle)))
    drawing = _try(lambda: list(nvml.nvmlDeviceGetGraphicsRunningProcesses(handle)))
    computing = {process.pid for process in running or ()}
    return {
        "index": index,
        "processes": None
        if running is None
        else [
            {
                "name": _process_name(nvml, process.pid),
                "memory_b": getattr(process, "usedGpuMemory", None),
                "own": process.pid == os.getpid(),
            }
            for process in running
        ],
        # A program that computes and draws is listed twice.
        "graphics_processes": None
        if drawing is None
        else [_process_name(nvml, process.pid) for process in drawing if process.pid not in computing],
        "memory_used_b": _memory_used(nvml, handle),
        "clock_reasons": None if reasons is None else clock_reasons(reasons),
        "temperature_c": _try(lambda: nvml.nvmlDeviceGetTemperature(handle, _CORE)),
        "slowdown_c": _try(lambda: nvml.nvmlDeviceGetTemperatureThreshold(handle, _SLOWDOWN)),
        "margin_c": _try(lambda: int(nvml.nvmlDeviceGetMarginTemperature(handle))),
        "memory_temperature_c": _try(lambda: _field(nvml, handle, _MEMORY_TEMPERATURE)),
        "memory_limit_c": _try(lambda: nvml.nvmlDeviceGetTemperatureThreshold(handle, _MEMORY_MAX)),
        "utilisation_percent": getattr(use, "gpu", None),
        "sm_clock_mhz": _try(lambda: nvml.nvmlDeviceGetClockInfo(handle, _SM)),
        "memory_clock_mhz": _try(lambda: nvml.nvmlDeviceGetClockInfo(handle, _MEMORY)),
        "power_w": _watts(_try(lambda: nvml.nvmlDeviceGetPowerUsage(handle))),
    }


def _slices(nvml: Any, handle: Any) -> list[Section] | None:
    """The parts of a split GPU (MIG) that can be seen from here: name and memory."""

    def part(place: int) -> Section | None:
        part = _try(lambda: nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place))
        if part is None:  # a free place is an error to NVML
            return None
        memory = _try(lambda: nvml.nvmlDeviceGetMemoryInfo(part))
        return {"name": _try(lambda: _text(nvml.nvmlDeviceGetName(part))), "memory_b": getattr(memory, "total", None)}

    places = _try(lambda: int(nvml.nvmlDeviceGetMaxMigDeviceCount(handle))) or 0
    return [found for place in range(places) if (found := part(place))] or None


def _field(nvml: Any, handle: Any, field: int) -> int | None:
    (answer,) = nvml.nvmlDeviceGetFieldValues(handle, [field])
    return int(answer.value.uiVal) if answer.nvmlReturn == 0 else None


def _memory_used(nvml: Any, handle: Any) -> int | None:
    memory = _try(lambda: nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2))
    if memory is None:
        memory = _try(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    used = getattr(memory, "used", None)
    return int(used) if used is not None else None


def _process_name(nvml: Any, pid: int) -> str | None:
    """The program's name only: its folder and arguments are its owner's business."""
    command = _try(lambda: _text(nvml.nvmlSystemGetProcessName(pid)))
    return PurePosixPath(command.split()[0]).name if command and command.strip() else None


def _try(read: Callable[[], Any]) -> Any:
    """The reading, or None: an old driver, a MIG slice or an old binding each lack some of them, in their own way."""
    try:
        return read()
    except Exception:
        return None


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _watts(milliwatts: int | None) -> float | None:
    return milliwatts / 1000 if milliwatts is not None else None


def _cuda_version(number: int) -> str:
    """NVML writes CUDA 12.8 as 12080."""
    return f"{number // 1000}.{number % 1000 // 10}"
