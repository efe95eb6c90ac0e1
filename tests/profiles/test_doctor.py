"""What the doctor finds on made-up machines, what it says about them, and that it never fails on half a document."""

from __future__ import annotations

import copy
import os
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dlmbench.profiles.check_gpu import built_for
from dlmbench.profiles.doctor import Finding, examine, probe
from dlmbench.profiles.environment import capture_environment
from dlmbench.profiles.finding import default_threads, size, usable_cores
from dlmbench.profiles.probes import (
    can_write,
    find_compilers,
    free_bytes,
    read_busy_mhz,
    read_on_battery,
    read_temperature,
)

GIB = 1 << 30


def quiet() -> dict[str, Any]:
    """A machine with nothing wrong: four physical cores, no GPU, nobody else on it."""
    return {
        "system": {"clock_source": "tsc"},
        "cpu": {
            "logical_cores": 4,
            "usable_cores": 4,
            "usable_physical_cores": 4,
            "smt": False,
            "frequency": {"governor": "performance", "driver": "acpi-cpufreq", "max_mhz": 4000, "limit_mhz": 4000},
            "power": {"limit_w": 65.0, "rated_w": 65.0},
            "hypervisor": {"present": False, "kind": None},
        },
        "memory": {"total_b": 32 * GIB, "transparent_huge_pages": "always"},
        "limits": {"cpu_quota_cores": None, "memory_limit_b": None},
        "gpu": {"gpus": None, "why": "no NVML"},
        "libraries": {"torch": "2.13.0+cpu", "triton": None},
        "torch": None,
        "torch_build": None,
        "variables": {},
        "now": {"load_average": [0.1, 0.1, 0.1], "memory_available_b": 28 * GIB, "swap_used_b": 0},
    }


def calm() -> dict[str, Any]:
    return {
        "busy_processes": [],
        "foreign_cores": 0.02,
        "steal_cores": 0.0,
        "busy_mhz": 3900.0,
        "thermal_throttle_events": 0,
        "temperature": {"celsius": 50.0, "critical_celsius": 100.0},
        "on_battery": False,
        "compilers": ["g++"],
        "writable": {"home": True, "matplotlib": True, "compile_cache": True},
        "compile_cache_executable": True,
        "output_free_b": 50 * GIB,
        "gpus": None,
    }


def with_gpu() -> tuple[dict[str, Any], dict[str, Any]]:
    environment, live = quiet(), calm()
    environment["libraries"]["torch"] = "2.13.0+cu128"
    gpu = {
        "index": 0,
        "persistence": True,
        "power_limit_w": 700.0,
        "power_limit_default_w": 700.0,
        "power_limit_max_w": 700.0,
        "sm_clock_max_mhz": 1980,
        "memory_clock_max_mhz": 2619,
        "application_clock_mhz": 1980,
        "application_clock_default_mhz": 1980,
        "application_memory_clock_mhz": 2619,
        "application_memory_clock_default_mhz": 2619,
        "memory_bus_bits": 5120,
        "compute_mode": "default",
        "mig": False,
        "mig_slices": None,
        "ecc": True,
        "ecc_pending": True,
    }
    environment["gpu"] = {"gpus": [gpu], "why": None, "driver": "570.1", "cuda_driver": "12.8"}
    live["gpus"] = [
        {
            "index": 0,
            "processes": [],
            "graphics_processes": [],
            "memory_used_b": 0,
            "clock_reasons": ["idle"],
            "temperature_c": 40,
            "slowdown_c": 90,
            "margin_c": None,
            "memory_temperature_c": 45,
            "memory_limit_c": 95,
            "utilisation_percent": 0,
            "sm_clock_mhz": 345,  # idle: far below the maximum, and no trouble
            "memory_clock_mhz": 2619,
            "power_w": 70.0,
        }
    ]
    return environment, live


def put(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    *way, last = path.split(".")
    section = changed
    for name in way:
        section = section[name] if not isinstance(section, list) else section[int(name)]
    section[last] = value
    return changed


def troubles(findings: list[Finding]) -> dict[str, str]:
    """The codes of all findings that are not `ok`, with their severities; each is held to what a remedy promises."""
    for finding in findings:
        assert finding.severity == "ok" or ends_with_a_command(finding.remedy), finding
    return {finding.code: finding.severity for finding in findings if finding.severity != "ok"}


# Programs that a remedy may end with: a remedy that ends in prose, or in a command within prose, does not match.
PROGRAMS = (
    "nvidia-smi cpupower dlmbench docker taskset pip ps tee swapoff systemctl apt ubuntu-drivers echo export unset"
)


def ends_with_a_command(remedy: str) -> bool:
    """Or says in words that no command helps."""
    if re.search(r"\bno command\b", remedy):
        return True
    words = shlex.split(remedy.rsplit(": ", 1)[-1])
    while words and (words[0] == "sudo" or re.fullmatch(r"[A-Z_]+=\S+", words[0])):
        words.pop(0)
    return bool(words) and words[0] in PROGRAMS.split() and not remedy.endswith((".", ")"))


@pytest.mark.parametrize(
    ("remedy", "ends"),
    [
        ("sudo nvidia-smi -i 0 -pm 1", True),
        ("choose another: CUDA_VISIBLE_DEVICES=1 dlmbench run", True),
        ("plug the machine in (no command can)", True),
        ("stop them, or measure with fewer threads", False),
        ("install one (Ubuntu: sudo apt install g++)", False),
        ("run `dlmbench doctor` again", False),
        ("", False),
    ],
)
def test_the_rule_for_remedies_can_fail(remedy: str, ends: bool) -> None:
    assert ends_with_a_command(remedy) is ends


def test_a_quiet_machine_has_nothing_to_say() -> None:
    findings = examine(quiet(), live=calm())
    assert troubles(findings) == {}
    assert {"cpu.governor", "cpu.load", "cpu.others", "cpu.threads", "memory.available"} <= {f.code for f in findings}


def test_a_quiet_gpu_has_nothing_to_say() -> None:
    environment, live = with_gpu()
    assert troubles(examine(environment, live=live)) == {}


@pytest.mark.parametrize(
    ("path", "value", "code", "severity"),
    [
        ("cpu.frequency.governor", "schedutil", "cpu.governor", "warning"),
        ("cpu.frequency.governor", None, "cpu.governor", "info"),
        ("cpu.frequency.limit_mhz", 3000, "cpu.frequency", "warning"),  # 3000 < 0.9 * 4000
        ("cpu.frequency.boost", False, "cpu.boost", "info"),
        ("cpu.power.limit_w", 45.0, "cpu.power_limit", "warning"),  # of 65
        ("variables.OMP_NUM_THREADS", "8", "cpu.OMP_NUM_THREADS", "warning"),  # on 4 processors
        ("variables.OMP_WAIT_POLICY", "ACTIVE", "cpu.spinning.OMP_WAIT_POLICY", "warning"),  # 2 x 3 threads on 4
        ("variables.KMP_BLOCKTIME", "infinite", "cpu.spinning.KMP_BLOCKTIME", "warning"),
        ("now.load_average", [1.6, 0, 0], "cpu.load", "warning"),  # 3 threads leave 1; 1.6 > 1 + 0.5
        ("cpu.usable_cores", 2, "cpu.affinity", "info"),
        ("limits.cpu_quota_cores", 2.5, "cpu.quota", "warning"),
        ("limits.memory_limit_b", 2 * GIB, "memory.limit", "warning"),
        ("limits.memory_limit_b", 16 * GIB, "memory.limit", "info"),
        ("cpu.hypervisor.present", True, "cpu.hypervisor", "info"),
        ("cpu.smt", True, "cpu.smt", "info"),
        ("system.clock_source", "hpet", "system.clock", "warning"),
        ("now.memory_available_b", 3 * GIB, "memory.available", "warning"),  # a tenth of 32 GiB is 3.2
        ("now.swap_used_b", GIB, "memory.swap", "warning"),  # more than 1 % of 32 GiB
        ("now.swap_used_b", GIB // 8, "memory.swap", "info"),
        ("memory.transparent_huge_pages", "madvise", "memory.huge_pages", "info"),
        ("variables.TORCHDYNAMO_DISABLE", "1", "variable.TORCHDYNAMO_DISABLE", "warning"),
        ("variables.NVIDIA_TF32_OVERRIDE", "0", "variable.NVIDIA_TF32_OVERRIDE", "warning"),
        ("libraries.torch", "2.13.0+cu128", "gpu.torch", "info"),  # built for CUDA, no GPU
        ("libraries.torch", None, "gpu.torch", "warning"),
    ],
)
def test_one_thing_wrong_is_the_one_thing_found(path: str, value: Any, code: str, severity: str) -> None:
    assert troubles(examine(put(quiet(), path, value), live=calm())) == {code: severity}


@pytest.mark.parametrize(
    ("path", "value", "code", "severity"),
    [
        ("busy_mhz", 2000.0, "cpu.frequency", "warning"),  # 2000 < 0.7 * 4000
        ("foreign_cores", 1.5, "cpu.others", "warning"),  # three of four threads leave 1
        ("foreign_cores", 0.5, "cpu.others", "info"),
        ("steal_cores", 0.1, "cpu.steal", "warning"),
        ("temperature.celsius", 95.0, "cpu.temperature", "warning"),
        ("thermal_throttle_events", 2, "cpu.temperature", "warning"),
        ("on_battery", True, "power.battery", "warning"),
        ("compilers", [], "engine.compiler", "warning"),
        ("writable.home", False, "folder.home", "info"),
        ("writable.matplotlib", False, "folder.matplotlib", "info"),
        ("writable.compile_cache", False, "folder.compile_cache", "warning"),
        ("compile_cache_executable", False, "folder.compile_cache", "warning"),
        ("output_free_b", GIB // 2, "disk.output", "warning"),
    ],
)
def test_one_live_thing_wrong_is_the_one_thing_found(path: str, value: Any, code: str, severity: str) -> None:
    assert troubles(examine(quiet(), live=put(calm(), path, value))) == {code: severity}


@pytest.mark.parametrize(
    ("path", "value", "code", "severity"),
    [
        ("libraries.torch", "2.13.0+cpu", "gpu.torch", "warning"),
        ("libraries.torch", "2.13.0+cu130", "gpu.driver", "warning"),  # another major version
        ("libraries.torch", "2.13.0+cu129", "gpu.driver", "info"),  # a newer minor version of the same
        ("variables.CUDA_VISIBLE_DEVICES", "", "gpu.hidden", "info"),
        ("variables.CUDA_LAUNCH_BLOCKING", "1", "variable.CUDA_LAUNCH_BLOCKING", "warning"),
        ("gpu.gpus.0.persistence", False, "gpu.persistence", "warning"),
        ("gpu.gpus.0.power_limit_w", 500.0, "gpu.power_limit", "warning"),
        ("gpu.gpus.0.compute_mode", "exclusive_process", "gpu.compute_mode", "warning"),
        ("gpu.gpus.0.power_limit_max_w", 900.0, "gpu.power_limit", "info"),  # 700, the default
        ("gpu.gpus.0.application_clock_mhz", 1200, "gpu.application_clock", "warning"),
        ("gpu.gpus.0.application_memory_clock_mhz", 1500, "gpu.application_memory_clock", "warning"),
        ("gpu.gpus.0.compute_mode", "prohibited", "gpu.compute_mode", "warning"),
        ("gpu.gpus.0.mig", True, "gpu.mig", "warning"),
        ("gpu.gpus.0.ecc_pending", False, "gpu.ecc", "warning"),  # after the next reboot
        ("gpu.gpus.0.memory_bus_bits", 384, "gpu.ecc", "info"),  # on, and GDDR pays for it
        ("torch_build", {"cuda": "13.0"}, "gpu.driver", "warning"),  # a wheel without a tag
    ],
)
def test_one_gpu_setting_wrong_is_the_one_thing_found(path: str, value: Any, code: str, severity: str) -> None:
    environment, live = with_gpu()
    assert troubles(examine(put(environment, path, value), live=live)) == {code: severity}


@pytest.mark.parametrize(
    ("path", "value", "code", "severity"),
    [
        ("processes", [{"name": "train", "memory_b": GIB, "own": False}], "gpu.others", "warning"),
        ("memory_used_b", 20 * GIB, "gpu.others", "info"),  # used, but by nobody listed
        ("clock_reasons", ["software_power_cap"], "gpu.clock.software_power_cap", "info"),
        ("graphics_processes", ["Xorg"], "gpu.display", "info"),
        ("clock_reasons", ["hardware_thermal"], "gpu.clock.hardware_thermal", "warning"),
        ("clock_reasons", ["software_thermal"], "gpu.clock.software_thermal", "warning"),
        ("clock_reasons", ["hardware_slowdown"], "gpu.clock.hardware_slowdown", "warning"),
        ("clock_reasons", ["power_brake"], "gpu.clock.power_brake", "warning"),
        ("clock_reasons", ["application_clocks"], "gpu.clock.application_clocks", "info"),
        ("clock_reasons", ["sync_boost"], "gpu.clock.sync_boost", "info"),
        ("clock_reasons", ["display_clocks"], "gpu.clock.display_clocks", "info"),
        ("temperature_c", 87, "gpu.temperature", "warning"),
        ("memory_temperature_c", 92, "gpu.memory_temperature", "warning"),
    ],
)
def test_one_gpu_disturbance_is_the_one_thing_found(path: str, value: Any, code: str, severity: str) -> None:
    environment, live = with_gpu()
    assert troubles(examine(environment, live=put(live, f"gpus.0.{path}", value))) == {code: severity}


def test_this_process_on_the_gpu_is_not_another() -> None:
    environment, live = with_gpu()
    own = [{"name": "python", "memory_b": 20 * GIB, "own": True}]
    live = put(put(live, "gpus.0.processes", own), "gpus.0.memory_used_b", 20 * GIB)
    assert troubles(examine(environment, live=live)) == {}


def test_the_busiest_processes_are_named() -> None:
    live = calm() | {"foreign_cores": 2.0, "busy_processes": [{"name": "ffmpeg", "cores": 1.9}]}
    (finding,) = [f for f in examine(quiet(), live=live) if f.code == "cpu.others"]
    assert finding.message == "2.0 cores in use: ffmpeg 1.9"


@pytest.mark.parametrize(
    ("threads", "severity", "says"),
    [(3, "ok", "3 of 4"), (4, "warning", "all 4"), (5, "warning", "5 threads for 4"), (1, "ok", "1 of 4")],
)
def test_threads_against_cores(threads: int, severity: str, says: str) -> None:
    (finding,) = [f for f in examine(quiet(), threads, calm()) if f.code == "cpu.threads"]
    assert finding.severity == severity
    assert says in finding.message


def test_threads_beyond_the_physical_cores_are_too_many() -> None:
    environment = put(put(quiet(), "cpu.smt", True), "cpu.usable_physical_cores", 2)
    found = {f.code: f for f in examine(environment, 3, calm())}
    assert found["cpu.threads"].severity == "warning"
    assert found["cpu.threads"].remedy == "dlmbench run --threads 1"  # two cores less one


def test_default_threads_leave_a_core_of_what_there_really_is() -> None:
    assert (usable_cores(quiet()), default_threads(quiet())) == (4.0, 3)
    quota = put(quiet(), "limits.cpu_quota_cores", 2.5)
    assert (usable_cores(quota), default_threads(quota)) == (2.5, 1)  # two whole cores less one
    assert default_threads(put(quiet(), "cpu.usable_physical_cores", 2)) == 1
    assert default_threads(put(quiet(), "cpu.usable_cores", 1)) == 1  # never none
    assert default_threads({}) is None


def test_a_fast_and_a_slow_kind_of_core_get_a_command_to_pin() -> None:
    environment = quiet()
    environment["cpu"] |= {"performance_cores": "0-3", "efficiency_cores": "4-7"}
    (finding,) = [f for f in examine(environment, live=calm()) if f.code == "cpu.hybrid"]
    assert finding.remedy == "taskset -c 0-3 dlmbench run"


@pytest.mark.parametrize(
    ("libraries", "torch", "expected"),
    [
        ({"torch": "2.13.0+cu128"}, None, ("cuda", "12.8")),
        ({"torch": "2.13.0+cu118"}, None, ("cuda", "11.8")),
        ({"torch": "2.13.0+cpu"}, None, ("cpu", None)),
        ({"torch": "2.13.0+rocm6.4"}, None, ("rocm", None)),
        ({"torch": "2.13.0", "triton": "3.5"}, None, ("cuda", None)),  # the wheel on the package index has no tag
        ({"torch": "2.13.0"}, None, None),
        ({"torch": "2.13.0"}, {"cuda": "13.0"}, ("cuda", "13.0")),
        ({"torch": "2.13.0", "triton": "3.5"}, {"cuda": None}, ("cpu", None)),  # torch knows itself better
        ({}, None, None),
    ],
)
def test_what_torch_was_built_for(libraries: Any, torch: Any, expected: tuple[str, str | None] | None) -> None:
    assert built_for({"libraries": libraries, "torch": torch}) == expected


def test_warnings_come_first_and_each_says_what_to_do() -> None:
    environment = put(put(quiet(), "cpu.frequency.governor", "powersave"), "now.swap_used_b", GIB)
    findings = examine(put(environment, "cpu.hypervisor.present", True), threads=4, live=calm() | {"compilers": []})
    severities = [finding.severity for finding in findings]
    assert severities == sorted(severities, key=("warning", "info", "ok").index)
    assert len(set(severities)) == 3
    for finding in findings:
        assert finding.subject
        assert finding.message
        assert bool(finding.effect) == bool(finding.remedy) == (finding.severity != "ok")


def test_nothing_known_is_not_good_news() -> None:
    findings = examine({})
    assert [finding for finding in findings if finding.severity == "ok"] == []
    assert troubles(findings) == {"cpu.governor": "info", "gpu.torch": "warning"}


@pytest.mark.parametrize("junk", [None, "text", -1, [], [None], {}, {"gpus": "none"}, True])
def test_a_damaged_document_is_examined_without_an_exception(junk: Any) -> None:
    environment, live = with_gpu()
    environment["variables"] = {"CUDA_VISIBLE_DEVICES": "0", "NVIDIA_TF32_OVERRIDE": "0", "CUDA_LAUNCH_BLOCKING": "1"}
    environment["variables"] |= {"OMP_NUM_THREADS": "8", "OMP_WAIT_POLICY": "active", "KMP_BLOCKTIME": "infinite"}
    live["gpus"][0] |= {"utilisation_percent": 99, "clock_reasons": ["software_power_cap"]}
    for name in environment:
        examine(environment | {name: junk}, live=live)
        if isinstance(environment[name], dict):
            for field in environment[name]:
                examine(put(environment, f"{name}.{field}", junk), live=live)
    for field in ("frequency", "power"):
        for inner in environment["cpu"][field]:
            examine(put(environment, f"cpu.{field}.{inner}", junk), live=live)
    for name in live:
        examine(environment, live=live | {name: junk})
    for field in environment["gpu"]["gpus"][0]:
        examine(put(environment, f"gpu.gpus.0.{field}", junk), live=live)
    for field in live["gpus"][0]:
        examine(environment, live=put(live, f"gpus.0.{field}", junk))


def test_threads_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        examine(quiet(), threads=0)


def test_sizes_for_people() -> None:
    assert [size(b) for b in (5, 1536, 3 * GIB, 2048 * GIB)] == ["5 B", "1.5 KiB", "3.0 GiB", "2.0 TiB"]


# What is probed


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def test_the_hottest_zone_of_the_processor_counts(tmp_path: Path) -> None:
    zones = "sys/class/thermal/thermal_zone"
    tree(
        tmp_path,
        {
            f"{zones}0/type": "x86_pkg_temp",
            f"{zones}0/temp": "81500",
            f"{zones}0/trip_point_0_type": "passive",
            f"{zones}0/trip_point_0_temp": "70000",
            f"{zones}0/trip_point_1_type": "critical",
            f"{zones}0/trip_point_1_temp": "105000",
            f"{zones}1/type": "acpitz",
            f"{zones}1/temp": "40000",
            f"{zones}2/type": "iwlwifi_1",  # a radio may be hotter; it is not the processor
            f"{zones}2/temp": "99000",
        },
    )
    assert read_temperature(tmp_path) == {"celsius": 81.5, "critical_celsius": 105.0}
    assert read_temperature(tmp_path / "none") is None


def test_a_hardware_monitor_counts_where_there_is_no_zone(tmp_path: Path) -> None:
    chip = "sys/class/hwmon/hwmon"
    tree(tmp_path, {f"{chip}0/name": "nvme", f"{chip}0/temp1_input": "95000", f"{chip}0/temp1_crit": "85000"})
    assert read_temperature(tmp_path) is None  # a disk
    tree(tmp_path, {f"{chip}1/name": "k10temp", f"{chip}1/temp1_input": "71000"})
    assert read_temperature(tmp_path) == {"celsius": 71.0, "critical_celsius": None}
    tree(tmp_path, {f"{chip}2/name": "coretemp", f"{chip}2/temp2_input": "88000", f"{chip}2/temp2_crit": "100000"})
    zone = "sys/class/thermal/thermal_zone0"
    tree(tmp_path, {f"{zone}/type": "x86_pkg_temp", f"{zone}/temp": "88000"})
    # The same sensor told twice: the one that knows its critical point.
    assert read_temperature(tmp_path) == {"celsius": 88.0, "critical_celsius": 100.0}


def test_on_battery_is_a_discharging_battery_without_mains(tmp_path: Path) -> None:
    supplies = "sys/class/power_supply"
    assert read_on_battery(tmp_path) is None
    tree(tmp_path, {f"{supplies}/mouse/type": "Battery", f"{supplies}/mouse/scope": "Device"})
    tree(tmp_path, {f"{supplies}/mouse/status": "Discharging"})
    assert read_on_battery(tmp_path) is None  # a desktop with a mouse
    tree(tmp_path, {f"{supplies}/BAT0/type": "Battery", f"{supplies}/BAT0/status": "Discharging"})
    assert read_on_battery(tmp_path) is True
    tree(tmp_path, {f"{supplies}/AC/type": "Mains", f"{supplies}/AC/online": "1"})
    assert read_on_battery(tmp_path) is False


def test_compilers_are_looked_for_where_torch_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("g++", "my-cxx"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    path = str(tmp_path)
    assert find_compilers({"PATH": path}) == ["g++"]
    assert find_compilers({"PATH": path, "CXX": str(tmp_path / "my-cxx")}) == ["my-cxx"]
    assert find_compilers({"PATH": path, "CXX": "clang++-99"}) == []  # torch would not fall back to g++ either
    assert find_compilers({}) == []


def test_a_folder_that_does_not_exist_is_judged_by_its_parent(tmp_path: Path) -> None:
    missing = tmp_path / "a" / "b"
    assert can_write(missing) is True
    assert free_bytes(missing) is not None
    assert not missing.exists()
    tmp_path.chmod(0o500)
    if os.geteuid() != 0:  # root may write anywhere
        assert can_write(missing) is False
    tmp_path.chmod(0o700)


def test_the_frequency_under_load_needs_a_machine_that_tells_its_limits(tmp_path: Path) -> None:
    assert read_busy_mhz(tmp_path, spin_s=0.0) is None
    tree(tmp_path, {"sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "3500000"})
    assert read_busy_mhz(tmp_path, spin_s=0.0) == 3500.0


def test_a_probe_of_an_empty_machine_and_a_broken_nvml(tmp_path: Path) -> None:
    def fails() -> None:
        raise RuntimeError("no driver")

    nvml = SimpleNamespace(nvmlInit=fails)
    live = probe(0.01, tmp_path / "out", root=tmp_path, nvml=lambda: nvml, variables={})
    unknown = {name for name, value in live.items() if value is None}
    assert {"steal_cores", "foreign_cores", "busy_mhz", "temperature", "on_battery", "gpus"} <= unknown
    assert not (tmp_path / "out").exists()


def test_this_machine_is_examined_from_end_to_end(tmp_path: Path) -> None:
    findings = examine(capture_environment(nvml=lambda: None), live=probe(0.25, tmp_path, nvml=lambda: None))
    assert "disk.output" in {finding.code for finding in findings}


def test_nothing_is_run_and_no_setting_of_the_gpu_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Recorder:
        nvmlMemory_v2 = 2  # noqa: N815

        def __getattr__(self, name: str) -> Any:
            asked.append(name)
            return lambda *_, **__: 1

    def refuses(*_: Any, **__: Any) -> None:
        raise AssertionError("the doctor ran a program")

    monkeypatch.setattr("subprocess.Popen", refuses)
    monkeypatch.setattr("os.system", refuses)
    monkeypatch.setattr("os.posix_spawn", refuses)
    environment, live = with_gpu()
    live["gpus"][0]["clock_reasons"] = ["hardware_thermal", "application_clocks"]
    examine(put(environment, "gpu.gpus.0.persistence", False), live=live)
    probe(0.01, tmp_path, root=tmp_path, nvml=Recorder, variables={})
    assert "nvmlDeviceGetClockInfo" in asked
    assert [name for name in asked if not re.match(r"nvml(Init|Shutdown|(Device|System)Get)", name)] == []
