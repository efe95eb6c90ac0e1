"""A made-up GPU read on a made-up clock: rates, windows, and numbers worked out by hand."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

from dlmbench.profiles import gpu_sampler
from dlmbench.profiles.gpu_sampler import OFTEN_S, SELDOM_S, GpuSampler
from dlmbench.profiles.hardware import TELEMETRY, Telemetry
from dlmbench.profiles.pinned_gpu import pin

OURS = 7


@dataclass
class Scene:
    """A sampler of one GPU. Times are seconds since it started."""

    sampler: GpuSampler
    clock: Any
    binding: Any

    def run(self, until_s: float) -> None:
        """Let time pass, with a reading whenever one is due."""
        while self.clock.now_s + self.sampler.wait_s() <= 1000 + until_s:
            self.clock.now_s += self.sampler.wait_s()
            self.sampler.read()
        self.clock.now_s = 1000 + until_s

    def window(self, begin_s: float, end_s: float, *, generations: int = 10, output_tokens: int = 400) -> Telemetry:
        found = self.sampler.window(
            begin_s=1000 + begin_s, end_s=1000 + end_s, generations=generations, output_tokens=output_tokens
        )
        # What is no value has a reason, and nothing has both.
        assert {*found.values, *found.missing} == set(TELEMETRY)
        assert not {*found.values} & {*found.missing}
        return Telemetry.model_validate_json(found.model_dump_json())


@pytest.fixture
def scene(nvml: ModuleType) -> Any:
    """`scene(power_w=…, …)`: a sampler of such a GPU; its quantities are functions of the seconds since the start."""

    def make(*, absent: tuple[str, ...] = (), uuid: str | None = None, cost_s: float = 0.0, **gpu: Any) -> Scene:
        clock = nvml.FakeClock()
        since = {
            name: (lambda of: lambda t: of(t - 1000))(value) if callable(value) and name != "counted" else value
            for name, value in gpu.items()
        }
        since.setdefault("energy_j", lambda t: 300 * (t - 1000))
        since.setdefault("pids", lambda _: (OURS,))
        binding = nvml.FakeNvml([nvml.Gpu(**since)], clock, absent=absent)
        pinned = pin(binding, uuid=uuid, index=0, variables={})
        cpu = iter(cost_s * n for n in range(1_000_000))
        return Scene(
            GpuSampler(binding, pinned, lambda pid: pid == OURS, clock=clock, cpu=lambda: next(cpu)), clock, binding
        )

    return make


# A normal run


def test_a_window_at_constant_power_by_hand(scene: Any, nvml: ModuleType) -> None:
    watched = scene(gpm=nvml.GPM, clock_reasons=lambda _: 0x4)
    watched.sampler.closely(on=True)
    watched.run(4)
    found = watched.window(1, 3, generations=10, output_tokens=400)
    assert found.values == pytest.approx(
        {
            "gpu_util_nvml": 0.80,
            "sm_active": 0.75,
            "sm_occupancy": 0.40,
            "tensor_active": 0.50,
            "dram_active": 0.25,
            "fp16_active": 0.01,
            "fp32_active": 0.02,
            "fp64_active": 0.0,
            "power_w": 300.0,
            "energy_j": 60.0,  # 300 W x 2 s / 10 generations
            "energy_per_token_j": 1.5,  # 600 J / 400 tokens
            "energy_integrated_ratio": 1.0,
            "sm_clock_mhz": 1700.0,
            "memory_clock_mhz": 2600.0,
            "temperature_c": 55.0,
        },
        rel=0.03,
    )
    assert found.missing == {"power_idle_w": "the idle device was not watched"}
    assert (found.window_s, found.generations, found.foreign, found.warnings) == (2.0, 10, 0, ())
    assert (found.clock_reasons, found.source) == (("software_power_cap",), "NVML, driver 999.1")


def test_a_ramp_of_power_by_hand(scene: Any) -> None:
    # P = 100 + 50 t: 200 W over [1, 3], 175 W in the first half and 225 W in the second.
    watched = scene(power_w=lambda t: 100 + 50 * t, energy_j=lambda t: 100 * t + 25 * t * t)
    watched.sampler.closely(on=True)
    watched.run(4)
    found = watched.window(1, 3)
    assert found.values["power_w"] == pytest.approx(200, rel=0.03)
    assert found.values["energy_j"] == pytest.approx(40, rel=0.03)
    assert found.values["energy_integrated_ratio"] == pytest.approx(1.0, abs=0.04)
    (warning,) = found.warnings
    assert warning.startswith("power was not steady: 17")
    assert "22" in warning.partition("half,")[2]


def test_averaged_power_readings_integrate_to_the_same(scene: Any, nvml: ModuleType) -> None:
    """Averages over the second before, as newer GPUs give them: those of the first second tell of before the window."""
    # 50 W up to the window at 2 s, 350 W from then on.
    watched = scene(
        energy_j=lambda t: 50 * min(t, 2) + 350 * max(t - 2, 0),
        power_w=lambda t: 50 if t < 2 else 350,
        average_power_w=lambda t: 350 - 300 * min(1.0, max(0.0, 3 - t)),
        fails={"NVML_FI_DEV_POWER_INSTANT": nvml.NOT_SUPPORTED},
    )
    watched.sampler.closely(on=True)
    watched.run(4)
    found = watched.window(2, 4)
    assert found.values["power_w"] == pytest.approx(350, rel=0.03)
    assert found.values["energy_integrated_ratio"] == pytest.approx(1.0, abs=0.03)
    since = [at for at, watts in zip(found.series["at_s"], found.series["power_w"], strict=True) if watts is not None]
    assert 1.0 <= since[0] < 1.1
    assert found.series["at_s"][0] < 0.06


def test_utilisation_that_averages_over_time_before_the_window_is_left_out(scene: Any) -> None:
    # Idle until 2 s, then busy: NVML's average over a second climbs until 3 s.
    watched = scene(util=lambda t: 100 * min(1.0, max(0.0, t - 2)))
    watched.sampler.closely(on=True)
    watched.run(4)
    assert watched.window(2, 4).values["gpu_util_nvml"] == pytest.approx(1.0)
    short = watched.window(2, 2.9)
    assert short.missing["gpu_util_nvml"] == (
        "no reading fell into the window of 0.9 s and NVML may average each over 1 s before it; "
        "one of 1.5 s or more is needed"
    )


def test_nothing_read_outside_the_window_enters(scene: Any, nvml: ModuleType) -> None:
    def inside(t: float, value: float) -> float:
        return value if 2 <= t <= 4 else 999.0

    watched = scene(
        sm_clock_mhz=lambda t: inside(t, 1500),
        temperature_c=lambda t: inside(t, 60),
        clock_reasons=lambda t: 0 if 2 <= t <= 4 else 0x40,
        pids=lambda t: (OURS,) if 2 <= t <= 4 else (OURS, 8, 9),
    )
    watched.sampler.closely(on=True)
    watched.run(6)
    found = watched.window(2, 4)
    assert (found.values["sm_clock_mhz"], found.values["temperature_c"]) == (1500.0, 60.0)
    assert (found.clock_reasons, found.foreign) == ((), 0)
    whole = watched.window(0, 6)
    assert (whole.values["temperature_c"], whole.clock_reasons, whole.foreign) == (999.0, ("hardware_thermal",), 2)


def test_readings_of_a_window_are_kept_for_the_figures(scene: Any) -> None:
    watched = scene(sm_clock_mhz=lambda t: 1000 + 100 * t)
    watched.sampler.closely(on=True)
    watched.run(4)
    series = watched.window(1, 3).series
    assert {len(values) for values in series.values()} == {len(series["at_s"])}
    assert 39 <= len(series["at_s"]) <= 41
    assert all(0 <= at <= 2 for at in series["at_s"])
    assert list(series["sm_clock_mhz"]) == [pytest.approx(1100 + 100 * at, abs=0.6) for at in series["at_s"]]
    assert {"power_w", "memory_clock_mhz", "temperature_c", "gpu_util_nvml", "memory_used_b"} < set(series)


def test_the_mean_clock_and_the_highest_temperature(scene: Any) -> None:
    watched = scene(sm_clock_mhz=lambda t: 1000 if t < 2 else 2000, temperature_c=lambda t: 70 if t < 2 else 50)
    watched.sampler.closely(on=True)
    watched.run(4)
    found = watched.window(1.0, 3.0)
    assert found.values["sm_clock_mhz"] == pytest.approx(1500, rel=0.03)
    assert found.values["temperature_c"] == 70.0


def test_idle_power_is_read_apart_and_never_subtracted(scene: Any) -> None:
    watched = scene(power_w=lambda t: 60 if t < 2 else 300, energy_j=lambda t: 60 * min(t, 2) + 300 * max(t - 2, 0))
    watched.sampler.closely(on=True)
    watched.run(2)
    watched.sampler.idle(begin_s=1000.2, end_s=1001.9)
    watched.run(5)
    values = watched.window(2.5, 4.5).values
    assert (values["power_idle_w"], values["power_w"]) == (pytest.approx(60, rel=0.03), pytest.approx(300, rel=0.03))


def test_idle_power_falls_back_on_power_readings(scene: Any, nvml: ModuleType) -> None:
    watched = scene(power_w=lambda _: 61.0, fails={"nvmlDeviceGetTotalEnergyConsumption": nvml.NOT_SUPPORTED})
    watched.sampler.closely(on=True)
    watched.run(2)
    watched.sampler.idle(begin_s=1000.2, end_s=1001.9)
    found = watched.window(0, 2)
    assert found.values["power_idle_w"] == pytest.approx(61.0)
    for name in ("power_w", "energy_j", "energy_per_token_j", "energy_integrated_ratio"):
        assert found.missing[name] == "NVML answers nvmlDeviceGetTotalEnergyConsumption with: Not Supported"


# What goes wrong


@pytest.mark.parametrize(("share", "warns"), [(1.0, False), (1.08, False), (0.92, False), (1.2, True), (0.5, True)])
def test_two_energies_that_disagree_are_said(scene: Any, share: float, warns: bool) -> None:
    watched = scene(power_w=lambda _: 300.0 * share)
    watched.sampler.closely(on=True)
    watched.run(4)
    found = watched.window(1, 3)
    assert found.values["energy_integrated_ratio"] == pytest.approx(share, rel=0.03)
    assert any("trust neither" in warning for warning in found.warnings) == warns


def test_a_reset_counter_is_no_energy_and_leaves_the_rest(scene: Any) -> None:
    watched = scene(counted=lambda millijoules: millijoules if millijoules < 600_000 else millijoules - 600_000)
    watched.sampler.closely(on=True)
    watched.run(4)
    found = watched.window(1, 3)  # 600 J are reached at 2 s
    assert found.missing["power_w"].endswith("J: it wrapped or was reset")
    assert found.missing["energy_integrated_ratio"] == found.missing["energy_j"] == found.missing["power_w"]
    assert found.values["sm_clock_mhz"] == 1700.0
    assert watched.window(2.1, 4).values["power_w"] == pytest.approx(300, rel=0.03)


@pytest.mark.parametrize("renewed_s", [0.02, 0.1, 0.25])
def test_a_counter_slower_or_faster_than_the_readings(scene: Any, renewed_s: float) -> None:
    watched = scene(renewed_s=renewed_s)
    watched.sampler.closely(on=True)
    watched.run(5)
    assert watched.window(1, 4).values["power_w"] == pytest.approx(300, rel=0.03)


def test_a_device_lost_in_a_window_has_no_value_for_it(scene: Any, nvml: ModuleType) -> None:
    watched = scene(gpm=nvml.GPM)
    watched.binding._gpus[0].fails = {"*": lambda t: nvml.LOST if t >= 1001.5 else None}
    watched.sampler.closely(on=True)
    watched.run(4)
    found = watched.window(1, 3)
    assert found.values == {}
    assert "GPU is lost" in found.missing["power_w"]
    assert "GPU is lost" in found.missing["sm_active"]
    assert "GPU is lost" in found.missing["sm_clock_mhz"]
    before = watched.window(0, 1.45)
    assert before.values["sm_clock_mhz"] == 1700.0


def test_errors_for_a_moment_are_gaps_and_the_rest_counts(scene: Any, nvml: ModuleType) -> None:
    watched = scene(gpm=nvml.GPM)
    watched.binding._gpus[0].fails = {"*": lambda t: nvml.UNKNOWN if 1001.6 <= t < 1002 else None}
    watched.sampler.closely(on=True)
    watched.run(4)
    found = watched.window(1, 3)
    assert found.values["power_w"] == pytest.approx(300, rel=0.03)
    assert found.values["sm_active"] == pytest.approx(0.75)
    assert 7 <= found.series["sm_clock_mhz"].count(None) <= 9
    assert found.missing.keys() == {"power_idle_w"}


def test_a_counter_that_fails_most_of_the_time_is_no_value(scene: Any, nvml: ModuleType) -> None:
    watched = scene()
    watched.binding._gpus[0].fails = {
        "nvmlDeviceGetTemperature": lambda t: nvml.UNKNOWN if t > 1000 and round(t / 0.05) % 4 else None
    }
    watched.sampler.closely(on=True)
    watched.run(4)
    assert watched.window(1, 3).missing["temperature_c"] == "30 of 40 readings in the window failed"


def test_a_window_without_readings_says_how_long_is_enough(scene: Any) -> None:
    watched = scene()
    watched.run(1)
    found = watched.window(0.45, 0.55)
    assert found.values == {}
    assert found.missing["sm_clock_mhz"] == ("no reading fell into the window of 0.1 s; one of 0.5 s or more is needed")
    assert found.missing["power_w"].endswith("s or more is needed")
    assert (found.series, found.clock_reasons, found.foreign) == ({}, (), None)


def test_no_tokens_no_energy_a_token(scene: Any) -> None:
    watched = scene()
    watched.sampler.closely(on=True)
    watched.run(4)
    found = watched.window(1, 3, generations=3, output_tokens=0)
    assert found.missing["energy_per_token_j"] == "no token was emitted"
    assert found.values["energy_j"] == pytest.approx(200, rel=0.03)


def test_reading_that_takes_a_notable_part_of_a_processor_is_said(scene: Any) -> None:
    light, heavy = scene(cost_s=0.002), scene(cost_s=0.004)  # of every 50 ms: 4 % and 8 %
    for watched in (light, heavy):
        watched.sampler.closely(on=True)
        watched.run(4)
    assert light.window(1, 3).warnings == ()
    assert heavy.window(1, 3).warnings == ("reading the counters kept a processor 8% busy",)


# Clocks and others on the device


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (0, ()),
        (0x8 | 0x40, ("hardware_slowdown", "hardware_thermal")),
        (0x20, ("software_thermal",)),
        (0x80, ("power_brake",)),
        (0x1000, ()),
    ],
)
def test_what_holds_the_clocks_at_any_moment_is_seen(scene: Any, bits: int, names: tuple[str, ...]) -> None:
    watched = scene(clock_reasons=lambda t: bits if 2 <= t < 2.3 else 0)
    watched.run(10)
    assert watched.sampler.reasons(begin_s=1001, end_s=1009) == (names, 0)
    assert watched.sampler.reasons(begin_s=1003, end_s=1009) == ((), 0)


def test_clocks_that_nobody_tells_of_are_unknown(scene: Any) -> None:
    names = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
    watched = scene(absent=names)
    watched.run(3)
    assert watched.sampler.reasons(begin_s=1000, end_s=1003) == (None, 0)


@pytest.mark.parametrize(
    ("pids", "foreign"),
    [
        ((OURS,), 0),
        ((OURS, 1, 2), 2),
        ((), None),  # a context is open and the list is empty: it shows nothing
        ((1, 2), None),  # a container: the list has the host's pids
    ],
)
def test_processes_of_others_are_counted_where_ours_is_seen(
    scene: Any, pids: tuple[int, ...], foreign: int | None
) -> None:
    watched = scene(pids=lambda _: pids)
    watched.run(3)
    assert watched.sampler.reasons(begin_s=1000, end_s=1003)[1] == foreign


def test_the_most_processes_of_others_at_any_moment(scene: Any) -> None:
    watched = scene(pids=lambda t: (OURS, 8, 9) if 3 <= t < 4.5 else (OURS,))
    watched.run(8)
    assert watched.sampler.reasons(begin_s=1000, end_s=1008)[1] == 2


def test_a_list_of_processes_that_is_refused_is_unknown(scene: Any, nvml: ModuleType) -> None:
    watched = scene(fails={"nvmlDeviceGetComputeRunningProcesses": nvml.REFUSED})
    watched.run(3)
    assert watched.sampler.reasons(begin_s=1000, end_s=1003) == ((), None)


# Rates, memory, parts


def test_timed_samples_see_few_readings_and_no_gpm(scene: Any, nvml: ModuleType) -> None:
    watched = scene(gpm=nvml.GPM)
    watched.run(10)
    clocks = watched.binding.calls.count("nvmlDeviceGetCurrentClocksEventReasons")
    assert clocks == pytest.approx(10 / SELDOM_S, abs=3)
    assert "nvmlGpmSampleGet" not in watched.binding.calls
    watched.sampler.closely(on=True)
    watched.run(20)
    more = watched.binding.calls.count("nvmlDeviceGetCurrentClocksEventReasons") - clocks
    assert more == pytest.approx(10 / OFTEN_S, abs=3)
    samples = watched.binding.calls.count("nvmlGpmSampleGet")
    assert samples == pytest.approx(50, abs=12)
    watched.sampler.closely(on=False)
    assert watched.binding.living_samples == 0
    watched.run(30)
    assert watched.binding.calls.count("nvmlGpmSampleGet") == samples


def test_a_stall_is_followed_by_no_burst(scene: Any) -> None:
    watched = scene()
    watched.run(1)
    watched.clock.now_s += 30
    before = len(watched.binding.calls)
    watched.sampler.read()
    assert watched.sampler.wait_s() == pytest.approx(SELDOM_S)
    assert len(watched.binding.calls) - before < 15


def test_memory_is_bounded(scene: Any, monkeypatch: pytest.MonkeyPatch, nvml: ModuleType) -> None:
    monkeypatch.setattr(gpu_sampler, "_MOST_READINGS", 100)
    watched = scene(gpm=nvml.GPM)
    watched.sampler.closely(on=True)
    watched.run(60)
    assert len(watched.sampler._readings) == 100
    assert watched.binding.living_samples < 130
    found = watched.window(56, 60)
    assert found.values["sm_active"] == pytest.approx(0.75)


def test_a_stretch_is_shown_as_it_was_read(scene: Any) -> None:
    watched = scene(util=lambda t: 10 * t)
    watched.sampler.closely(on=True)
    watched.run(2)
    found = watched.sampler.stretch(begin_s=1000.5, end_s=1001.0)
    assert found.values == {}
    assert len(found.series["at_s"]) == 10
    assert None not in found.series["gpu_util_nvml"]


def test_a_part_of_a_split_gpu_has_gpm_of_its_own_and_no_power(scene: Any, nvml: ModuleType) -> None:
    watched = scene(uuid="2", parts=("MIG-1", "MIG-2"), gpm=nvml.GPM)
    watched.sampler.closely(on=True)
    watched.run(4)
    found = watched.window(1, 3)
    assert found.source.endswith("one part of a split GPU (MIG)")
    assert found.values["sm_active"] == pytest.approx(0.75)
    assert found.values["sm_clock_mhz"] == 1700.0
    assert "nvmlGpmMigSampleGet" in watched.binding.calls
    for name in ("power_w", "energy_j", "gpu_util_nvml"):
        assert found.missing[name] == "the counter is the whole GPU's, and this is one part of a split one (MIG)"
    assert "power_w" not in found.series
