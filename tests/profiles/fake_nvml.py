"""An NVML binding over made-up GPUs on a clock of its own: the real one's names, structures and errors, no driver.

Constants, structures and error classes are those of the installed binding, so that code which misuses them fails here
too; the functions are ours. `fake.absent` names functions that this binding lacks; `gpu.fails[function]` is an error to
raise, or a function of the time that returns one (or None). `steady`, `dying`, … make fakes for a process of their own.
"""

# ruff: noqa: N802, N803 - the names are NVML's

from __future__ import annotations

import ctypes
import itertools
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml

NOT_SUPPORTED, LOST, UNKNOWN, REFUSED = (
    pynvml.NVMLError(code)
    for code in (
        pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_UNKNOWN,
        pynvml.NVML_ERROR_NO_PERMISSION,
    )
)  # fmt: skip
Of = Callable[[float], float]


@dataclass
class Gpu:
    """One device, each quantity a function of the time in seconds.

    `energy_j` is the integral of `power_w` in closed form; its counter is renewed every `renewed_s`. `gpm` maps a
    metric's number to the integral of its percentage over time. `parts` are the UUIDs of a split GPU's parts.
    """

    uuid: str = "GPU-00000000-aaaa-0000-0000-000000000000"
    power_w: Of = lambda _: 300.0
    energy_j: Of = lambda t: 300.0 * t
    renewed_s: float = 0.02
    counted: Callable[[int], int] = lambda millijoules: millijoules
    average_power_w: Of | None = None
    util: Of = lambda _: 80.0
    sm_clock_mhz: Of = lambda _: 1700.0
    memory_clock_mhz: Of = lambda _: 2600.0
    temperature_c: Of = lambda _: 55.0
    clock_reasons: Callable[[float], int] = lambda _: 0
    pids: Callable[[float], tuple[int, ...]] = lambda _: ()
    memory_used_b: int = 1 << 33
    fails: Mapping[str, Exception | Callable[[float], Exception | None]] = field(default_factory=dict)
    gpm: Mapping[int, Of] | None = None
    gpm_fails: frozenset[int] = frozenset()
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """A part of a split GPU: a handle that few functions take."""

    gpu: Gpu
    number: int


class FakeNvml:
    """The functions that dlmbench calls. `calls` lists their names in order."""

    def __init__(self, gpus: list[Gpu], clock: Callable[[], float], absent: tuple[str, ...] = ()) -> None:
        self._gpus, self._clock, self._absent = gpus, clock, set(absent)
        self._samples: dict[int, tuple[float, Any]] = {}
        self._next = itertools.count(1)
        self.calls: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name != "nvmlMemory_v2":
            if name in self._absent:
                raise AttributeError(f"module 'pynvml' has no attribute '{name}'")
            self.calls.append(name)
        return object.__getattribute__(self, name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("NVML", "c_nvml")) or name == "nvmlMemory_v2":
            return getattr(pynvml, name)
        raise AttributeError(f"module 'pynvml' has no attribute '{name}'")

    @property
    def living_samples(self) -> int:
        return len(self._samples)

    def _at(self, handle: Any, function: str, *, part: bool = False) -> tuple[Gpu, float]:
        """The GPU behind a handle and the time, unless this function fails on it."""
        if isinstance(handle, Part):
            if not part:
                raise NOT_SUPPORTED
            handle = handle.gpu
        assert isinstance(handle, Gpu), f"{function} got {handle!r} for a handle"
        failure = handle.fails.get(function) or handle.fails.get("*")
        now = self._clock()
        error = failure if isinstance(failure, Exception) or failure is None else failure(now)
        if error is not None:
            raise error.with_traceback(None)
        return handle, now

    # The library and its devices

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None: ...

    def nvmlSystemGetDriverVersion(self) -> str:
        return "999.1"

    def nvmlDeviceGetCount(self) -> int:
        return len(self._gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:
        if index >= len(self._gpus):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return self._gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Gpu | Part:
        for gpu in self._gpus:
            if gpu.uuid == uuid:
                return gpu
            if uuid in gpu.parts:
                return Part(gpu, gpu.parts.index(uuid))
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceIsMigDeviceHandle(self, device: Any) -> ctypes.c_uint:
        return ctypes.c_uint(isinstance(device, Part))

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, migDevice: Part) -> Gpu:
        return migDevice.gpu

    def nvmlDeviceGetGpuInstanceId(self, device: Part) -> int:
        return 7 + device.number

    def nvmlDeviceGetMigMode(self, device: Gpu) -> list[int]:
        return [int(bool(device.parts))] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, device: Gpu) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: Gpu, index: int) -> Part:
        # Places are taken from the last one down, so that a reader has to look at all of them.
        number = index - (7 - len(device.parts))
        if number < 0:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return Part(device, number)

    # Readings

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int:
        gpu, now = self._at(handle, "nvmlDeviceGetTotalEnergyConsumption")
        renewed = now if not gpu.renewed_s else int(now / gpu.renewed_s + 1e-9) * gpu.renewed_s
        return gpu.counted(round(1000 * gpu.energy_j(renewed)))

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:
        gpu, now = self._at(handle, "nvmlDeviceGetPowerUsage")
        return round(1000 * (gpu.average_power_w or gpu.power_w)(now))

    def nvmlDeviceGetFieldValues(self, handle: Any, fieldIds: list[int]) -> Any:
        answers = (pynvml.c_nvmlFieldValue_t * len(fieldIds))()
        for answer, asked in zip(answers, fieldIds, strict=True):
            answer.fieldId = asked
            assert asked == pynvml.NVML_FI_DEV_POWER_INSTANT
            gpu, now = self._at(handle, "nvmlDeviceGetFieldValues")
            try:
                self._at(handle, "NVML_FI_DEV_POWER_INSTANT")
                answer.value.uiVal = round(1000 * gpu.power_w(now))
            except pynvml.NVMLError as error:
                answer.nvmlReturn = error.value
        return answers

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:
        gpu, now = self._at(handle, "nvmlDeviceGetUtilizationRates")
        return pynvml.c_nvmlUtilization_t(gpu=round(gpu.util(now)), memory=1)

    def nvmlDeviceGetClockInfo(self, handle: Any, type: int) -> int:
        gpu, now = self._at(handle, "nvmlDeviceGetClockInfo")
        return round((gpu.sm_clock_mhz if type == pynvml.NVML_CLOCK_SM else gpu.memory_clock_mhz)(now))

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int:
        gpu, now = self._at(handle, "nvmlDeviceGetTemperature")
        return round(gpu.temperature_c(now))

    def nvmlDeviceGetTemperatureV(self, handle: Any, sensor: int, version: int = 0) -> int:
        gpu, now = self._at(handle, "nvmlDeviceGetTemperatureV")
        return round(gpu.temperature_c(now))

    def nvmlDeviceGetMemoryInfo(self, handle: Any, version: int | None = None) -> Any:
        gpu, _ = self._at(handle, "nvmlDeviceGetMemoryInfo", part=True)
        made = pynvml.c_nvmlMemory_v2_t if version else pynvml.c_nvmlMemory_t
        return made(total=1 << 36, used=gpu.memory_used_b)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: Any) -> int:
        gpu, now = self._at(handle, "nvmlDeviceGetCurrentClocksEventReasons")
        return gpu.clock_reasons(now)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: Any) -> int:
        gpu, now = self._at(handle, "nvmlDeviceGetCurrentClocksThrottleReasons")
        return gpu.clock_reasons(now)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Any) -> list[Any]:
        gpu, now = self._at(handle, "nvmlDeviceGetComputeRunningProcesses", part=True)
        return [SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in gpu.pids(now)]

    # GPM

    def nvmlGpmQueryDeviceSupport(self, device: Any) -> Any:
        gpu, _ = self._at(device, "nvmlGpmQueryDeviceSupport")
        return pynvml.c_nvmlGpmSupport_t(version=1, isSupportedDevice=gpu.gpm is not None)

    def nvmlGpmSampleAlloc(self) -> Any:
        number = next(self._next)
        self._samples[number] = (0.0, None)
        return ctypes.cast(number, pynvml.c_nvmlGpmSample_t)

    def nvmlGpmSampleFree(self, gpmSample: Any) -> None:
        del self._samples[_address(gpmSample)]

    def nvmlGpmSampleGet(self, device: Any, gpmSample: Any) -> Any:
        gpu, now = self._at(device, "nvmlGpmSampleGet")
        assert not gpu.parts, "a split GPU is sampled part by part"
        self._samples[_address(gpmSample)] = (now, gpu)
        return gpmSample

    def nvmlGpmMigSampleGet(self, device: Any, gpuInstanceId: int, gpmSample: Any) -> Any:
        gpu, now = self._at(device, "nvmlGpmMigSampleGet")
        assert 7 <= gpuInstanceId < 7 + len(gpu.parts)
        self._samples[_address(gpmSample)] = (now, gpu)
        return gpmSample

    def nvmlGpmMetricsGet(self, metricsGet: Any) -> Any:
        assert metricsGet.version == pynvml.NVML_GPM_METRICS_GET_VERSION
        first, gpu = self._samples[_address(metricsGet.sample1)]
        last, same = self._samples[_address(metricsGet.sample2)]
        assert gpu is same is not None
        if last - first < 0.1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        for metric in metricsGet.metrics[: metricsGet.numMetrics]:
            if metric.metricId in gpu.gpm_fails:
                metric.nvmlReturn = pynvml.NVML_ERROR_NOT_SUPPORTED
            else:
                integral = gpu.gpm[metric.metricId]
                metric.value = (integral(last) - integral(first)) / (last - first)
        return metricsGet


def _address(sample: Any) -> int:
    found = ctypes.cast(sample, ctypes.c_void_p).value
    assert found is not None
    return found


def constant(percent: float) -> Of:
    """The integral of a percentage that never changes."""
    return lambda t: percent * t


GPM = {
    pynvml.NVML_GPM_METRIC_SM_UTIL: constant(75.0),
    pynvml.NVML_GPM_METRIC_SM_OCCUPANCY: constant(40.0),
    pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL: constant(50.0),
    pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL: constant(25.0),
    pynvml.NVML_GPM_METRIC_FP16_UTIL: constant(1.0),
    pynvml.NVML_GPM_METRIC_FP32_UTIL: constant(2.0),
    pynvml.NVML_GPM_METRIC_FP64_UTIL: constant(0.0),
}


class FakeClock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


# Bindings for a process of their own, by the name that `telemetry_process --nvml` is given


def steady() -> FakeNvml:
    """One GPU at 300 W on which the parent computes, with GPM, in real time."""
    return FakeNvml([Gpu(gpm=GPM, pids=lambda _: (os.getppid(),))], time.monotonic)


def absent() -> None:
    """No binding."""


def loud() -> FakeNvml:
    """Prints where replies go."""
    print('{"ok": true}', flush=True)
    os.write(1, b"noise\n")
    return steady()


def hanging() -> FakeNvml:
    """Opens the device and then never comes back from the driver."""

    def hang(now: float) -> None:
        if now > begun + 0.3:
            time.sleep(60)

    begun = time.monotonic()
    return FakeNvml([Gpu(fails={"nvmlDeviceGetClockInfo": hang})], time.monotonic)


def stuck() -> FakeNvml:
    """Hangs before it says that it is ready."""
    time.sleep(60)
    return steady()


def dying() -> FakeNvml:
    """Opens the device and dies soon after."""

    def die(now: float) -> None:
        if now > begun + 0.3:
            sys.stderr.write("Xid 79\n")
            sys.stderr.flush()
            os._exit(5)

    begun = time.monotonic()
    return FakeNvml([Gpu(fails={"nvmlDeviceGetClockInfo": die})], time.monotonic)
