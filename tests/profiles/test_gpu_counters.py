"""One reading of a GPU's counters: units, what a device lacks, and what fails while it runs."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import pynvml
import pytest

from dlmbench.profiles.gpu_counters import SHARED, GpuCounters
from dlmbench.profiles.pinned_gpu import PinnedGpu, pin


def counters(nvml: ModuleType, *, absent: tuple[str, ...] = (), ours: int = 7, **gpu: Any) -> tuple[Any, Any, Any]:
    """(counters, their clock, the binding) of one made-up GPU; pid `ours` is our own."""
    clock = nvml.FakeClock()
    binding = nvml.FakeNvml([nvml.Gpu(**gpu)], clock, absent=absent)
    pinned = PinnedGpu(board=binding._gpus[0])
    return GpuCounters(binding, pinned, lambda pid: pid == ours, clock=clock, cpu=lambda: 0.25), clock, binding


def test_one_reading_in_the_units_of_the_record(nvml: ModuleType) -> None:
    found, _, _ = counters(nvml, power_w=lambda _: 312.5, clock_reasons=lambda _: 0x4, pids=lambda _: (7, 9, 11))
    assert found.missing == {}
    assert found.read()._asdict() == {
        "at_s": 1000.0,
        "cpu_s": 0.25,
        "energy_j": 300_000.0,  # 300 W for 1000 s
        "power_w": 312.5,
        "gpu_util_nvml": 0.8,
        "sm_clock_mhz": 1700.0,
        "memory_clock_mhz": 2600.0,
        "temperature_c": 55.0,
        "memory_used_b": float(1 << 33),
        "clock_reasons": 4,
        "own": 1,
        "foreign": 2,
    }


def test_processes_are_listed_less_often_than_the_rest_and_a_pid_counts_once(nvml: ModuleType) -> None:
    found, clock, binding = counters(nvml, pids=lambda _: (9, 9))
    listed = []
    for _ in range(21):
        listed.append(found.read().foreign)
        clock.now_s += 0.0625
    assert [place for place, count in enumerate(listed) if count is not None] == [0, 8, 16]  # every half second
    assert set(listed) == {None, 1}
    assert binding.calls.count("nvmlDeviceGetComputeRunningProcesses") == 4  # one of them to see whether it works


FUNCTIONS = {
    "energy_j": "nvmlDeviceGetTotalEnergyConsumption",
    "gpu_util_nvml": "nvmlDeviceGetUtilizationRates",
    "sm_clock_mhz": "nvmlDeviceGetClockInfo",
    "memory_used_b": "nvmlDeviceGetMemoryInfo",
    "processes": "nvmlDeviceGetComputeRunningProcesses",
}


@pytest.mark.parametrize(("name", "function"), FUNCTIONS.items())
@pytest.mark.parametrize("how", ["absent", "NOT_SUPPORTED", "REFUSED"])
def test_what_a_device_does_not_offer_is_none_with_a_reason_and_asked_for_no_more(
    nvml: ModuleType, name: str, function: str, how: str
) -> None:
    if how == "absent":
        found, _, binding = counters(nvml, absent=(function,))
        reason = f"the NVML binding lacks {function}; a newer nvidia-ml-py may have it"
    else:
        error = getattr(nvml, how)
        found, _, binding = counters(nvml, fails={function: error})
        reason = f"NVML answers {function} with: {error}"
    assert found.missing[name] == reason
    asked = binding.calls.count(function)
    reading = found.read()
    assert binding.calls.count(function) == asked
    assert getattr(reading, "foreign" if name == "processes" else name) is None
    others = {"energy_j", "gpu_util_nvml", "temperature_c", "power_w"} - {name}
    assert all(getattr(reading, other) is not None for other in others)


def test_power_is_the_instantaneous_where_there_is_one(nvml: ModuleType) -> None:
    new, _, _ = counters(nvml, power_w=lambda _: 400.0, average_power_w=lambda _: 90.0)
    assert (new.read().power_w, new.power_reach_s) == (400.0, 0.1)
    fails = {"NVML_FI_DEV_POWER_INSTANT": nvml.NOT_SUPPORTED}
    old, _, _ = counters(nvml, power_w=lambda _: 400.0, average_power_w=lambda _: 90.0, fails=fails)
    assert (old.read().power_w, old.power_reach_s, old.missing) == (90.0, 1.0, {})


@pytest.mark.parametrize(
    ("absent", "reading"),
    [
        ("nvmlDeviceGetCurrentClocksEventReasons", "clock_reasons"),  # its name before driver 535 is another
        ("nvmlDeviceGetTemperature", "temperature_c"),  # and this one's from CUDA 14 on
    ],
)
def test_a_function_that_was_renamed_is_found_under_either_name(nvml: ModuleType, absent: str, reading: str) -> None:
    found, _, _ = counters(nvml, absent=(absent,), clock_reasons=lambda _: 8)
    assert getattr(found.read(), reading) == {"clock_reasons": 8, "temperature_c": 55.0}[reading]
    assert found.missing == {}


def test_a_failure_now_and_then_is_a_gap(nvml: ModuleType) -> None:
    fails = {"nvmlDeviceGetTemperature": lambda t: nvml.UNKNOWN if 1001 <= t < 1001.5 else None}
    found, clock, _ = counters(nvml, fails=fails)
    temperatures = []
    for _ in range(4):
        temperatures.append(found.read().temperature_c)
        clock.now_s += 0.6
    assert temperatures == [55.0, 55.0, None, 55.0]
    assert found.missing == {}


def test_a_counter_that_fails_again_and_again_is_dropped(nvml: ModuleType) -> None:
    fails = {"nvmlDeviceGetTemperature": lambda t: nvml.UNKNOWN if t > 1000 else None}
    found, clock, binding = counters(nvml, fails=fails)
    clock.now_s += 1
    for _ in range(610):
        assert found.read().temperature_c is None
    assert found.missing == {
        "temperature_c": "the counter failed 600 times in a row during the run: "
        "NVML answers nvmlDeviceGetTemperature with: Unknown Error"
    }
    assert binding.calls.count("nvmlDeviceGetTemperature") == 601


def test_a_lost_device_costs_its_counters_and_no_run(nvml: ModuleType) -> None:
    found, clock, binding = counters(nvml, fails={"*": lambda t: nvml.LOST if t > 1000 else None})
    assert found.read().energy_j == 300_000.0
    clock.now_s += 1
    lost = found.read()
    assert (lost.at_s, set(lost[2:])) == (1001.0, {None})
    assert set(found.missing) == {*FUNCTIONS, "power_w", "memory_clock_mhz", "temperature_c", "clock_reasons"}
    assert all(why.startswith("the counter failed during the run: ") for why in found.missing.values())
    assert all(why.endswith("GPU is lost") for why in found.missing.values())
    before = len(binding.calls)
    found.read()
    assert len(binding.calls) == before


def test_a_part_of_a_split_gpu_has_what_is_its_own_and_what_is_shared(nvml: ModuleType) -> None:
    parts = ("MIG-1", "MIG-2")
    binding = nvml.FakeNvml([nvml.Gpu(uuid="GPU-0", parts=parts, pids=lambda _: (7,))], lambda: 5.0)
    gpu = pin(binding, uuid="2", index=0, variables={})
    found = GpuCounters(binding, gpu, lambda _: True, clock=lambda: 5.0)
    assert found.missing == dict.fromkeys(("energy_j", "power_w", "gpu_util_nvml"), SHARED)
    reading = found.read()
    assert (reading.sm_clock_mhz, reading.temperature_c, reading.memory_used_b) == (1700.0, 55.0, float(1 << 33))
    assert (reading.own, reading.energy_j, reading.gpu_util_nvml) == (1, None, None)


def test_of_a_split_gpu_whose_part_is_not_known_only_the_board_is_read(nvml: ModuleType) -> None:
    binding = nvml.FakeNvml([nvml.Gpu(uuid="GPU-0", parts=("MIG-1", "MIG-2"))], lambda: 5.0)
    found = GpuCounters(binding, pin(binding, uuid="0", index=0, variables={}), lambda _: True, clock=lambda: 5.0)
    assert "CUDA_VISIBLE_DEVICES" in found.missing["processes"]
    reading = found.read()
    assert (reading.sm_clock_mhz, reading.memory_used_b, reading.own) == (1700.0, None, None)


def test_the_fake_takes_what_the_installed_binding_takes(nvml: ModuleType) -> None:
    functions = [name for name in vars(nvml.FakeNvml) if name.startswith("nvml")]
    assert len(functions) > 25
    for name in functions:
        real = list(inspect.signature(getattr(pynvml, name)).parameters)
        assert list(inspect.signature(getattr(nvml.FakeNvml, name)).parameters)[1:] == real, name
