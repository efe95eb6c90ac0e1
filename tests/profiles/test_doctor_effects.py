"""What the doctor says of clocks, power, slices and threads: the value that was read, its effect, and the command."""

from __future__ import annotations

from typing import Any

import pytest

from dlmbench.profiles.check_cpu import check_cpu
from dlmbench.profiles.check_gpu import check_gpu
from dlmbench.profiles.check_gpu_clocks import check_gpu_clocks
from dlmbench.profiles.check_gpu_settings import check_gpu_settings
from dlmbench.profiles.check_threads import check_threads
from dlmbench.profiles.finding import Finding

GIB = 1 << 30


def settings(gpu: dict[str, Any], container: bool = False) -> dict[str, Finding]:
    environment = {"limits": {"container": container}}
    return {f.code: f for f in check_gpu_settings(gpu, "GPU 3", "3", environment) if f.severity != "ok"}


def clocks(activity: dict[str, Any], **gpu: Any) -> dict[str, Finding]:
    described = {"sm_clock_max_mhz": 1980, "memory_clock_max_mhz": 2619} | gpu
    return {f.code: f for f in check_gpu_clocks(described, activity, "GPU 3", "3", {})}


def threads(wanted: int, **environment: Any) -> dict[str, Finding]:
    cpu = {"usable_cores": 4, "logical_cores": 4}
    return {f.code: f for f in check_threads({"cpu": cpu} | environment, wanted) if f.severity != "ok"}


def processor(section: dict[str, Any], live: dict[str, Any] | None = None, wanted: int = 3) -> dict[str, Finding]:
    cpu = {"usable_cores": 4, "logical_cores": 4} | section
    return {f.code: f for f in check_cpu({"cpu": cpu}, live or {}, wanted) if f.severity != "ok"}


# GPU: settings


@pytest.mark.parametrize(
    ("gpu", "code", "remedy"),
    [
        ({"persistence": False}, "gpu.persistence", "sudo nvidia-smi -i 3 -pm 1"),
        (
            {"power_limit_w": 500.0, "power_limit_default_w": 700.0, "power_limit_max_w": 750.0},
            "gpu.power_limit",
            "sudo nvidia-smi -i 3 -pl 700",
        ),
        ({"compute_mode": "exclusive_process"}, "gpu.compute_mode", "sudo nvidia-smi -i 3 -c DEFAULT"),
    ],
)
def test_a_setting_ends_with_its_command_on_this_gpu(gpu: dict[str, Any], code: str, remedy: str) -> None:
    assert settings(gpu)[code].remedy == remedy
    # Where the machine's settings are out of reach, the same command is the host's.
    assert settings(gpu, container=True)[code].remedy == f"on the container's host: {remedy}"


def test_a_power_limit_says_what_the_card_would_take() -> None:
    lowered = settings({"power_limit_w": 500.0, "power_limit_default_w": 700.0})["gpu.power_limit"]
    assert lowered.severity == "warning"
    assert lowered.message == "power limit 500 W, default 700 W"
    default = settings({"power_limit_w": 450.0, "power_limit_default_w": 450.0, "power_limit_max_w": 600.0})
    assert default["gpu.power_limit"].severity == "info"
    assert default["gpu.power_limit"].message == "power limit 450 W (default); up to 600 W allowed"
    assert default["gpu.power_limit"].remedy.endswith(": sudo nvidia-smi -i 3 -pl 600")
    assert settings({"power_limit_w": 700.0, "power_limit_default_w": 700.0, "power_limit_max_w": 700.0}) == {}


@pytest.mark.parametrize(
    ("mhz", "default", "top", "found"),
    [
        (990, 1980, 1980, True),
        (1095, 1095, 1410, False),  # the default lies below the maximum, and such a card boosts beyond it
        (1980, 1755, 1980, False),  # set to the maximum
        (990, None, 1980, False),  # not known to be a setting
    ],
)
def test_an_application_clock_counts_once_it_was_set_below_the_maximum(
    mhz: int, default: int | None, top: int, found: bool
) -> None:
    gpu = {"application_clock_mhz": mhz, "application_clock_default_mhz": default, "sm_clock_max_mhz": top}
    assert ("gpu.application_clock" in settings(gpu)) is found


def test_a_low_clock_says_by_how_much_and_which_way_the_ratio_moves() -> None:
    gpu = {"application_clock_mhz": 990, "application_clock_default_mhz": 1980, "sm_clock_max_mhz": 1980}
    gpu |= {"application_memory_clock_mhz": 1200, "application_memory_clock_default_mhz": 1500}
    found = settings(gpu | {"memory_clock_max_mhz": 1500})
    graphics, memory = found["gpu.application_clock"], found["gpu.application_memory_clock"]
    assert "990 MHz (default 1980, maximum 1980)" in graphics.message
    assert "denoising) take up to 2.00 times" in graphics.effect  # 1980 / 990
    assert graphics.effect.endswith("speedup falls")
    assert "decoding) take up to 1.25 times" in memory.effect  # 1500 / 1200
    assert memory.effect.endswith("speedup rises")
    assert graphics.remedy == memory.remedy == "sudo nvidia-smi -i 3 -rac"


@pytest.mark.parametrize(
    ("on", "bits", "severity", "says"),
    [
        (True, 5120, None, ""),  # HBM: no cost
        (True, None, None, ""),  # not known to have one
        (True, 384, "info", "sixteenth of the memory"),
        (False, 384, "info", "bandwidth is some per cent higher"),
        (False, 5120, "info", "speed is the same"),
    ],
)
def test_error_correction_costs_gddr_and_not_hbm(on: bool, bits: int | None, severity: str | None, says: str) -> None:
    found = settings({"ecc": on, "ecc_pending": on, "memory_bus_bits": bits}).get("gpu.ecc")
    assert (found.severity if found else None) == severity
    if found:
        assert says in found.effect
        assert found.remedy.endswith(f": sudo nvidia-smi -i 3 -e {0 if on else 1}")


def test_error_correction_about_to_change_is_kept_by_setting_it_as_it_is() -> None:
    found = settings({"ecc": False, "ecc_pending": True})["gpu.ecc"]
    assert found.severity == "warning"
    assert found.message.endswith("is off, and will be on after a reboot")
    assert found.remedy.endswith("-e 0")


def test_slices_are_named_and_their_energy_is_the_whole_cards() -> None:
    found = settings({"mig": True, "mig_slices": [{"name": "MIG 1g.10gb", "memory_b": 10 * GIB}]})["gpu.mig"]
    assert found.message == "split into slices (MIG): MIG 1g.10gb (10.0 GiB)"
    assert "energy_j are the whole card's" in found.effect
    # Compute instances go before the instances that hold them, and both before the mode.
    steps = [found.remedy.index(word) for word in ("-dci -i 3", "-dgi -i 3", "-i 3 -mig 0")]
    assert steps == sorted(steps)
    assert found.remedy.endswith("-mig 0")


# GPU: now


def test_an_idle_gpus_low_clocks_are_no_finding_and_a_busy_ones_are() -> None:
    low = {"sm_clock_mhz": 990, "memory_clock_mhz": 1310, "clock_reasons": []}
    assert clocks(low | {"utilisation_percent": 0}) == {}
    assert clocks(low | {"utilisation_percent": 99, "clock_reasons": ["idle"]}) == {}
    assert clocks(low) == {}  # use unknown
    found = clocks(low | {"utilisation_percent": 99})
    assert set(found) == {"gpu.clock.sm", "gpu.clock.memory"}
    assert found["gpu.clock.sm"].message.startswith("SM clock 990 of 1980 MHz while 99 % busy")
    assert "2.00 times" in found["gpu.clock.sm"].effect
    assert found["gpu.clock.sm"].remedy == "if it was locked: sudo nvidia-smi -i 3 -rgc"
    assert found["gpu.clock.memory"].remedy == "if it was locked: sudo nvidia-smi -i 3 -rmc"
    full = {"sm_clock_mhz": 1755, "memory_clock_mhz": 2500, "clock_reasons": [], "utilisation_percent": 99}
    assert clocks(full) == {}  # 1755 >= 0.8 * 1980, 2500 >= 0.9 * 2619


def test_a_clock_that_the_driver_explains_is_one_finding_with_the_values() -> None:
    activity = {"sm_clock_mhz": 990, "utilisation_percent": 99, "temperature_c": 86, "power_w": 640.0}
    found = clocks(activity | {"clock_reasons": ["hardware_thermal"]})
    assert set(found) == {"gpu.clock.hardware_thermal"}
    assert found["gpu.clock.hardware_thermal"].message.endswith(": SM clock 990 of 1980 MHz, 86 °C")
    assert "twice as long" in found["gpu.clock.hardware_thermal"].effect


def test_a_power_cap_can_be_raised_only_below_the_cards_maximum() -> None:
    activity = {"clock_reasons": ["software_power_cap"], "power_w": 498.0}
    (below,) = clocks(activity, power_limit_w=500.0, power_limit_max_w=700.0).values()
    assert below.message.endswith(": 498 of 500 W")
    assert below.remedy.endswith(": sudo nvidia-smi -i 3 -pl 700")
    (at,) = clocks(activity, power_limit_w=700.0, power_limit_max_w=700.0).values()
    assert "no command can" in at.remedy
    assert "-pl" not in at.remedy


def test_fixed_clocks_are_reset_by_both_commands() -> None:
    (found,) = clocks({"clock_reasons": ["application_clocks"]}).values()
    assert found.remedy == "to let it choose: sudo nvidia-smi -i 3 -rgc; sudo nvidia-smi -i 3 -rac"


def test_heat_is_judged_by_the_margin_where_there_is_no_threshold() -> None:
    assert clocks({"temperature_c": 60, "margin_c": 27}) == {}
    (found,) = clocks({"temperature_c": 84, "margin_c": 3}).values()
    assert found.message == "84 °C, slows down at 87 °C"
    assert clocks({"temperature_c": 84}) == {}


def test_a_free_gpu_is_offered_by_the_drivers_numbering() -> None:
    train = {"name": "train", "memory_b": GIB, "own": False}
    busy: dict[str, Any] = {"index": 0, "processes": [train], "utilisation_percent": 97}
    environment = {"gpu": {"gpus": [{"index": 0}, {"index": 1}]}, "libraries": {"torch": "2.13.0+cu128"}}

    def others(second: dict[str, Any]) -> Finding:
        found = check_gpu(environment, {"gpus": [busy, {"index": 1} | second]})
        return next(f for f in found if f.code == "gpu.others" and f.subject == "GPU 0")

    free = others({"processes": []})
    assert free.message == "other processes: train (1.0 GiB); 97 % busy"
    assert free.remedy.endswith(": CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=1 dlmbench run")
    assert "CUDA_VISIBLE_DEVICES" not in others({"processes": [train]}).remedy
    assert "CUDA_VISIBLE_DEVICES" not in others({"processes": None}).remedy  # not known to be free


@pytest.mark.parametrize(
    ("offered", "built", "says", "ends"),
    [
        ("12.4", "13.0", "580 or newer", "pytorch.org names for cu126"),
        ("10.2", "12.8", "525 or newer", "sudo ubuntu-drivers install"),  # no torch is built for CUDA 10
        ("12.4", "12.8", "525 or newer", "sudo ubuntu-drivers install"),
    ],
)
def test_an_old_driver_is_updated_or_given_a_torch_that_it_runs(offered: str, built: str, says: str, ends: str) -> None:
    gpu = {"gpus": [{"index": 0}], "driver": "550.1", "cuda_driver": offered}
    environment = {"gpu": gpu, "libraries": {"torch": "2.13.0"}, "torch_build": {"cuda": built}}
    (found,) = [f for f in check_gpu(environment, {}) if f.code == "gpu.driver"]
    assert found.message == f"550.1 offers CUDA {offered}; torch was built for {built}"
    assert says in found.remedy
    assert found.remedy.endswith(ends)


# Processors and threads


def test_the_governor_names_its_preference_and_range() -> None:
    frequency = {"governor": "powersave", "driver": "intel_pstate", "energy_preference": "balance_power"}
    found = processor({"frequency": frequency | {"min_mhz": 800, "max_mhz": 4000}})["cpu.governor"]
    assert found.message == "powersave (driver intel_pstate, energy preference balance_power)"
    assert "5.0 times" in found.effect  # 4000 / 800
    assert found.remedy == "sudo cpupower frequency-set --governor performance"


@pytest.mark.parametrize(
    ("driver", "switch"),
    [("intel_pstate", "echo 0 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo"), ("acpi-cpufreq", "boost")],
)
def test_boost_is_switched_where_its_driver_listens(driver: str, switch: str) -> None:
    found = processor({"frequency": {"boost": False, "driver": driver}})["cpu.boost"]
    assert found.remedy.endswith(switch)
    assert "cpu.boost" not in processor({"frequency": {"boost": None, "driver": driver}})


def test_a_processors_power_limit_is_restored_in_microwatts() -> None:
    found = processor({"power": {"limit_w": 45.0, "rated_w": 65.0}})["cpu.power_limit"]
    assert found.message == "45 W, rated 65 W"
    assert found.remedy.startswith("echo 65000000 | sudo tee /sys/class/powercap/")
    # A desktop's limit is often above what the processor is rated for.
    assert "cpu.power_limit" not in processor({"power": {"limit_w": 253.0, "rated_w": 125.0}})


def test_a_hot_processor_tells_its_critical_point() -> None:
    temperature = {"celsius": 92.0, "critical_celsius": 100.0}
    found = processor({}, {"temperature": temperature, "thermal_throttle_events": 3})["cpu.temperature"]
    assert found.message == "92 °C (critical at 100 °C); slowed 3 times within a second"
    assert found.remedy.endswith(": dlmbench run --threads 1")  # half of three
    assert processor({}, {"temperature": temperature}, wanted=1)["cpu.temperature"].remedy.endswith("(no command can)")


@pytest.mark.parametrize(("foreign", "ends"), [(2.0, "--threads 2"), (3.5, "--sort=-pcpu")])
def test_fewer_threads_help_only_while_a_processor_is_left(foreign: float, ends: str) -> None:
    assert processor({}, {"foreign_cores": foreign})["cpu.others"].remedy.endswith(ends)


@pytest.mark.parametrize(
    ("value", "found"), [("8", True), ("8,2", True), ("4", False), ("", False), ("many", False), ("-1", False)]
)
def test_more_openmp_threads_than_processors(value: str, found: bool) -> None:
    findings = threads(3, variables={"OMP_NUM_THREADS": value})
    assert ("cpu.OMP_NUM_THREADS" in findings) is found
    if found:
        assert "8 in each of 2 workers: 16 threads for 4" in findings["cpu.OMP_NUM_THREADS"].message
        assert findings["cpu.OMP_NUM_THREADS"].remedy == "export OMP_NUM_THREADS=3"


@pytest.mark.parametrize(
    ("name", "value", "wanted", "found"),
    [
        ("OMP_WAIT_POLICY", "active", 3, True),
        ("OMP_WAIT_POLICY", "active", 2, False),  # two workers of two threads fit on four processors
        ("OMP_WAIT_POLICY", "passive", 3, False),
        ("KMP_BLOCKTIME", "INFINITE", 3, True),
        ("KMP_BLOCKTIME", "1000ms", 3, True),
        ("KMP_BLOCKTIME", "1", 3, False),
        ("GOMP_SPINCOUNT", "30000000000", 3, True),
    ],
)
def test_waiting_threads_that_spin_take_the_other_sides_processors(
    name: str, value: str, wanted: int, found: bool
) -> None:
    assert (f"cpu.spinning.{name}" in threads(wanted, variables={name: value})) is found


def test_a_quota_says_how_often_it_stopped_and_how_much_slower_it_is() -> None:
    now = {"throttled_periods": 40, "throttled_s": 2.5}
    found = threads(3, limits={"cpu_quota_cores": 2.5}, now=now)["cpu.quota"]
    assert found.message == "2.5 cores of 4 visible; it has stopped this container in 40 periods, for 2.5 s"
    assert "(at 3 threads: 1.2 times)" in found.effect  # 3 / 2.5
    assert "docker run --cpuset-cpus 0-1 IMAGE" in found.remedy  # two whole processors
    assert found.remedy.endswith("dlmbench run --threads 1")
    assert "at 2 threads" not in threads(2, limits={"cpu_quota_cores": 2.5})["cpu.quota"].effect
