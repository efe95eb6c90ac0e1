"""One GPU's counters: which of them it offers, and one reading of them all.

Every NVML function may be missing from the binding or the driver, be refused, fail now and then, or fail for good when
a device is lost. What a device does not offer is found out once. Later a failure is a gap; a counter that fails for
good, or many times in a row, is dropped, and `missing` says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from .gpus import for_good, refusal
from .pinned_gpu import PinnedGpu

# How far back a value may reach: NVML's reference for nvmlUtilization_t and nvmlDeviceGetPowerUsage; the field of
# instantaneous power is renewed about every 0.1 s on data-centre GPUs (Yang, Adamek and Armour 2023).
UTILISATION_S = 1.0
_AVERAGE_POWER_S = 1.0
_INSTANT_POWER_S = 0.1
# A list of processes is the dearest thing to ask for and the slowest to change.
_PROCESSES_EVERY_S = 0.5
# Half a minute at the highest rate: what fails for so long will not come back.
_MOST_FAILURES = 600
SHARED = "the counter is the whole GPU's, and this is one part of a split one (MIG)"
_WHICH = "the GPU is split (MIG) into several parts; name one by its MIG- UUID in CUDA_VISIBLE_DEVICES"


class Reading(NamedTuple):
    """The counters at `at_s` (`time.monotonic`), None where one could not be read.

    `energy_j` is the total since the driver was loaded; `clock_reasons` the bits of NVML; `own` and `foreign` count the
    processes that compute on the device, less often than the rest; `cpu_s` is the processor time that reading has cost.
    """

    at_s: float
    cpu_s: float
    energy_j: float | None = None
    power_w: float | None = None
    gpu_util_nvml: float | None = None
    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    temperature_c: float | None = None
    memory_used_b: float | None = None
    clock_reasons: int | None = None
    own: int | None = None
    foreign: int | None = None


class _Way(NamedTuple):
    """One way to read a counter: the NVML function that gives it its name, and how far back a value may reach."""

    function: str
    read: Callable[[], Any]
    reach_s: float = 0.0


class _Counter:
    """One counter, read in the first of several ways that this device offers."""

    def __init__(self, ways: list[_Way], absent: str) -> None:
        self._ways = ways
        self._failures = 0
        self.why: str | None = None if ways else absent

    @property
    def reach_s(self) -> float:
        return self._ways[0].reach_s if self._ways else 0.0

    def probe(self) -> None:
        """Go to the first way that is offered here."""
        first: str | None = None
        while self._ways:
            try:
                self._ways[0].read()
                return
            except Exception as error:
                if not for_good(error):
                    return
                first = first or refusal(self._ways[0].function, error)
                del self._ways[0]
        self.why = self.why or first

    def read(self) -> Any:
        if not self._ways:
            return None
        try:
            value = self._ways[0].read()
        except Exception as error:
            self._failures += 1
            if for_good(error) or self._failures >= _MOST_FAILURES:
                often = "" if self._failures < _MOST_FAILURES else f" {self._failures} times in a row"
                self.why = f"the counter failed{often} during the run: {refusal(self._ways[0].function, error)}"
                self._ways.clear()
            return None
        self._failures = 0
        return value


class GpuCounters:
    """The counters of a device that NVML has opened.

    `own` says whether a pid belongs to this measurement; `clock` stamps the readings, `cpu` is our own processor time.
    """

    def __init__(
        self,
        nvml: Any,
        gpu: PinnedGpu,
        own: Callable[[int], bool],
        *,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self._own, self._clock, self._cpu = own, clock, cpu
        self._counters = _counters(nvml, gpu)
        self._listed_s: float | None = None
        for counter in self._counters.values():
            counter.probe()

    @property
    def missing(self) -> dict[str, str]:
        """Why a counter is not read, by name."""
        return {name: counter.why for name, counter in self._counters.items() if counter.why is not None}

    @property
    def power_reach_s(self) -> float:
        """Over how long before a reading its power may be averaged."""
        return self._counters["power_w"].reach_s

    def read(self) -> Reading:
        """Every counter now; the energy first, at the stamp, because what becomes of it depends on its time."""
        values = {"energy_j": self._counters["energy_j"].read()}
        at_s = self._clock()
        for name, counter in self._counters.items():
            if name not in ("energy_j", "processes"):
                values[name] = counter.read()
        if self._listed_s is None or at_s - self._listed_s >= _PROCESSES_EVERY_S:
            self._listed_s = at_s
            pids = self._counters["processes"].read()
            if pids is not None:
                values["own"] = sum(map(self._own, pids))
                values["foreign"] = len(pids) - values["own"]
        return Reading(at_s=at_s, cpu_s=self._cpu(), **values)


def _counters(nvml: Any, gpu: PinnedGpu) -> dict[str, _Counter]:
    board, own = gpu.board, gpu.own

    def called(function: str, of: Any, *arguments: Any, scale: float = 1.0, reach_s: float = 0.0) -> _Way:
        return _Way(function, lambda: float(getattr(nvml, function)(of, *arguments)) * scale, reach_s)

    def of_board(*ways: _Way) -> _Counter:
        return _Counter(list(ways), "")

    def of_whole(*ways: _Way) -> _Counter:
        return _Counter([] if gpu.split else list(ways), SHARED)

    def of_own(*ways: _Way) -> _Counter:
        return _Counter([] if own is None else list(ways), _WHICH)

    def reasons(function: str) -> _Way:
        return _Way(function, lambda: int(getattr(nvml, function)(board)))

    def temperature() -> float:
        return float(nvml.nvmlDeviceGetTemperature(board, nvml.NVML_TEMPERATURE_GPU))

    def memory(version: Callable[[], int | None]) -> _Way:
        return _Way("nvmlDeviceGetMemoryInfo", lambda: float(nvml.nvmlDeviceGetMemoryInfo(own, version()).used))

    def utilisation() -> float:
        return int(nvml.nvmlDeviceGetUtilizationRates(own).gpu) / 100

    def pids() -> set[int]:
        return {int(process.pid) for process in nvml.nvmlDeviceGetComputeRunningProcesses(own)}

    return {
        "energy_j": of_whole(called("nvmlDeviceGetTotalEnergyConsumption", board, scale=1e-3)),
        "power_w": of_whole(
            _Way("NVML_FI_DEV_POWER_INSTANT", lambda: _instant_power_w(nvml, board), _INSTANT_POWER_S),
            called("nvmlDeviceGetPowerUsage", board, scale=1e-3, reach_s=_AVERAGE_POWER_S),
        ),
        "gpu_util_nvml": of_whole(_Way("nvmlDeviceGetUtilizationRates", utilisation, UTILISATION_S)),
        "sm_clock_mhz": of_board(called("nvmlDeviceGetClockInfo", board, nvml.NVML_CLOCK_SM)),
        "memory_clock_mhz": of_board(called("nvmlDeviceGetClockInfo", board, nvml.NVML_CLOCK_MEM)),
        "temperature_c": of_board(
            _Way("nvmlDeviceGetTemperature", temperature),
            called("nvmlDeviceGetTemperatureV", board, nvml.NVML_TEMPERATURE_GPU),
        ),
        # The second version leaves out what the driver keeps for itself.
        "memory_used_b": of_own(memory(lambda: nvml.nvmlMemory_v2), memory(lambda: None)),
        # The first name is that since driver 535.
        "clock_reasons": of_board(
            reasons("nvmlDeviceGetCurrentClocksEventReasons"), reasons("nvmlDeviceGetCurrentClocksThrottleReasons")
        ),
        # Not the graphics processes: every desktop has some, which draw a window now and then, and would make each
        # cell on such a machine invalid. What computes, and so competes, is in this list.
        "processes": of_own(_Way("nvmlDeviceGetComputeRunningProcesses", pids)),
    }


def _instant_power_w(nvml: Any, board: Any) -> float:
    (answer,) = nvml.nvmlDeviceGetFieldValues(board, [nvml.NVML_FI_DEV_POWER_INSTANT])
    if answer.nvmlReturn != 0:
        raise nvml.NVMLError(answer.nvmlReturn)
    return int(answer.value.uiVal) / 1000
