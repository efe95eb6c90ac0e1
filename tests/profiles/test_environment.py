"""What is captured of a machine: read from made-up trees, never a secret, and never an exception."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dlmbench.profiles.environment import (
    capture_environment,
    git_state,
    read_libraries,
    read_torch,
    read_torch_build,
    read_variables,
)
from dlmbench.profiles.gpus import read_gpu_activity, read_gpus
from dlmbench.profiles.host import (
    current_mhz,
    parse_cpu_list,
    read_cpu,
    read_memory,
    read_now,
    read_system,
    usable_cpus,
)
from dlmbench.profiles.limits import read_limits, read_throttling

GIB = 1 << 30


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def machine(root: Path) -> Path:
    """Two physical cores with two threads each: processors 0 and 2 share a core, 1 and 3 share the other."""
    block = "processor\t: {0}\nvendor_id\t: GenuineIntel\nmodel name\t: Example 9000 @ 3.00GHz\ncpu MHz\t\t: {1}\n"
    flags = "flags\t\t: fpu sse4_2 avx2 fma avx512f avx512_bf16 amx_tile hypervisor vmx\n"
    files = {
        "proc/cpuinfo": "\n".join(
            block.format(i, mhz) + flags for i, mhz in enumerate((1200.0, 3000.0, 800.5, 2000.0))
        ),
        "proc/meminfo": "MemTotal:    2048 kB\nMemAvailable:    1024 kB\nSwapTotal:    512 kB\nSwapFree:    500 kB",
        "proc/loadavg": "0.50 1.25 2.00 1/234 5678",
        "proc/pressure/cpu": "some avg10=12.50 avg60=1.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 total=0",
        "proc/sys/kernel/osrelease": "6.1.0-test",
        "proc/sys/kernel/hostname": "a-private-name",
        "etc/os-release": 'NAME="Example"\nPRETTY_NAME="Example Linux 1"',
        "etc/hostname": "a-private-name",
        "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc",
        "sys/devices/system/cpu/online": "0-3",
        "sys/devices/system/cpu/smt/active": "1",
        "sys/devices/system/cpu/intel_pstate/no_turbo": "0",
        "sys/devices/system/cpu/cpu0/cache/index0/level": "1",
        "sys/devices/system/cpu/cpu0/cache/index0/type": "Data",
        "sys/devices/system/cpu/cpu0/cache/index0/size": "48K",
        "sys/devices/system/cpu/cpu0/cache/index0/shared_cpu_list": "0,2",
        "sys/devices/system/node/node0/cpulist": "0-1",
        "sys/devices/system/node/node1/cpulist": "2-3",
        "sys/devices/system/node/possible": "0-1",
        "sys/class/dmi/id/sys_vendor": "Example Cloud",
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
    }
    for cpu in range(4):
        files[f"sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list"] = "0,2" if cpu % 2 == 0 else "1,3"
        policy = f"sys/devices/system/cpu/cpufreq/policy{cpu}"
        files |= {
            f"{policy}/cpuinfo_min_freq": "800000",
            f"{policy}/cpuinfo_max_freq": "3800000",
            f"{policy}/scaling_max_freq": "3000000",
            f"{policy}/scaling_governor": "powersave",
            f"{policy}/scaling_driver": "intel_pstate",
        }
    return tree(root, files)


def test_processors_of_a_made_up_machine(tmp_path: Path) -> None:
    cpu = read_cpu(machine(tmp_path), affinity={0, 2, 3})
    assert cpu["model"] == "Example 9000 @ 3.00GHz"
    assert (cpu["physical_cores"], cpu["logical_cores"], cpu["smt"], cpu["numa_nodes"]) == (2, 4, True, 2)
    # 0 and 2 are one core, 3 is on the other
    assert (cpu["affinity"], cpu["usable_cores"], cpu["usable_physical_cores"]) == ([0, 2, 3], 3, 2)
    assert cpu["isa"] == ["amx_tile", "avx2", "avx512_bf16", "avx512f", "fma", "sse4_2"]
    assert cpu["frequency"] == {
        "min_mhz": 800,
        "max_mhz": 3800,
        "limit_mhz": 3000,
        "governor": "powersave",
        "driver": "intel_pstate",
        "energy_preference": None,
        "boost": True,
    }
    assert cpu["caches"] == [{"level": 1, "type": "Data", "size_kib": 48, "shared_by": 2}]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="ARM has no flag for hypervisors")
def test_a_virtual_machine_is_known_by_its_processor_flag(tmp_path: Path) -> None:
    assert read_cpu(machine(tmp_path))["hypervisor"] == {"present": True, "kind": "Example Cloud"}
    tree(tmp_path, {"proc/cpuinfo": "processor\t: 0\nflags\t: fpu avx2"})
    assert read_cpu(tmp_path)["hypervisor"] == {"present": False, "kind": None}


def test_cores_are_counted_from_cpuinfo_without_topology_files(tmp_path: Path) -> None:
    # two sockets of one core with two threads: core ids repeat between sockets
    blocks = [f"processor\t: {i}\nphysical id\t: {i // 2}\ncore id\t: 0\n" for i in range(4)]
    cpu = read_cpu(tree(tmp_path, {"proc/cpuinfo": "\n".join(blocks)}))
    assert (cpu["physical_cores"], cpu["logical_cores"], cpu["smt"]) == (2, 4, True)


def test_an_arm_board_has_a_model_and_no_board_counted_as_a_processor(tmp_path: Path) -> None:
    text = "processor\t: 0\nFeatures\t: fp asimd sve\nCPU implementer\t: 0x41\nCPU part\t: 0xd4f\n\nHardware\t: Board\n"
    cpu = read_cpu(tree(tmp_path, {"proc/cpuinfo": text}))
    assert (cpu["model"], cpu["logical_cores"]) == ("ARM implementer 0x41 part 0xd4f", 1)
    assert cpu["isa"] == ["asimd", "sve"]


def test_memory_and_the_state_of_the_moment(tmp_path: Path) -> None:
    root = machine(tmp_path)
    assert read_memory(root) == {
        "total_b": 2048 * 1024,
        "swap_total_b": 512 * 1024,
        "transparent_huge_pages": "madvise",
    }
    assert read_now(root) == {
        "load_average": [0.5, 1.25, 2.0],
        "cpu_pressure_percent": 12.5,
        "memory_available_b": 1024 * 1024,
        "swap_used_b": 12 * 1024,  # 512 - 500
        "frequency_mhz": {"lowest": 800, "median": 1600, "highest": 3000},  # (1200 + 2000) / 2
    }
    assert read_system(root)["kernel"] == "6.1.0-test"
    assert read_system(root)["distribution"] == "Example Linux 1"


def test_frequencies_come_from_the_policies_where_cpuinfo_has_none(tmp_path: Path) -> None:
    files = {f"sys/devices/system/cpu/cpufreq/policy{i}/scaling_cur_freq": str(1_000_000 + i) for i in range(9)}
    assert current_mhz(tree(tmp_path, files)) == [1000.0, 1000.001, 1000.002, 1000.003]  # no more than four are read


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0-2,8", {0, 1, 2, 8}), ("3", {3}), ("", None), (None, None), ("all", None), ("1-", None), ("0x3", None)],
)
def test_the_kernels_lists_of_processors(text: str | None, cpus: set[int] | None) -> None:
    assert parse_cpu_list(text) == cpus


def test_a_quota_of_version_2_is_the_narrowest_of_the_group_and_its_ancestors(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/slice/job",
            "sys/fs/cgroup/cgroup.controllers": "cpu memory",
            "sys/fs/cgroup/slice/cpu.max": "150000 100000",
            "sys/fs/cgroup/slice/job/cpu.max": "max 100000",
            "sys/fs/cgroup/slice/memory.max": "max",
            "sys/fs/cgroup/slice/job/memory.max": str(4 * GIB),
            "sys/fs/cgroup/slice/job/cpu.stat": "usage_usec 9\nnr_periods 10\nnr_throttled 3\nthrottled_usec 2500000",
        },
    )
    limits = {"cgroup": 2, "container": False, "cpu_quota_cores": 1.5, "memory_limit_b": 4 * GIB}
    assert read_limits(root) == limits
    assert read_throttling(root) == {"throttled_periods": 3, "throttled_s": 2.5}


def test_in_a_container_the_path_is_the_hosts_and_the_mount_is_the_group(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            ".dockerenv": "",
            "proc/self/cgroup": "0::/../../system.slice/docker-abc",
            "sys/fs/cgroup/cgroup.controllers": "cpu",
            "sys/fs/cgroup/cpu.max": "200000 100000",
        },
    )
    assert read_limits(root) == {
        "cgroup": 2,
        "container": True,
        "cpu_quota_cores": 2.0,
        "memory_limit_b": None,
    }


def test_limits_of_version_1_with_its_huge_number_for_none(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/",
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.stat": "nr_throttled 2\nthrottled_time 1500000000",
            "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": "9223372036854771712",
        },
    )
    limits = read_limits(root)
    assert (limits["cgroup"], limits["cpu_quota_cores"], limits["memory_limit_b"]) == (1, 0.5, None)
    assert read_throttling(root) == {"throttled_periods": 2, "throttled_s": 1.5}


def test_variables_are_kept_by_a_list_and_never_a_secret() -> None:
    variables = {
        "HOME": "/home/someone",
        "OMP_NUM_THREADS": "3",
        "MALLOC_ARENA_MAX": "2",
        "TOKENIZERS_PARALLELISM": "false",
        "LD_PRELOAD": "/opt/lib/libtcmalloc.so.4:/home/someone/liba.so",
        "TORCH_HOME": "/home/someone/torch",
        "TORCH_PROXY": "http://user:hunter2@proxy.example:80",
        "HF_TOKEN": "hunter2",
        "TORCH_API_KEY": "hunter2",
        "PYTORCH_SECRET": "hunter2",
        "MKL_PASSWORD": "hunter2",
        "TORCH_PASSWD": "hunter2",
        "TORCH_CREDENTIALS": "hunter2",
        "AWS_ACCESS_KEY_ID": "hunter2",
        "USER": "someone",
        "PATH": "/bin",
    }
    kept = read_variables(variables)
    assert kept == {
        "LD_PRELOAD": "libtcmalloc.so.4:liba.so",
        "MALLOC_ARENA_MAX": "2",
        "OMP_NUM_THREADS": "3",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_HOME": "~/torch",
        "TORCH_PROXY": "http://proxy.example:80",
    }
    assert "hunter2" not in json.dumps(kept)
    assert "someone" not in json.dumps(kept)


def test_a_library_that_is_not_installed_or_is_damaged_has_no_version() -> None:
    def version(name: str) -> str:
        if name == "torch":
            return "2.13.0+cpu"
        raise importlib.metadata.PackageNotFoundError(name) if name == "triton" else OSError("damaged")

    found = read_libraries(version)
    assert found["torch"] == "2.13.0+cpu"
    assert {found[name] for name in found if name != "torch"} == {None}


def test_torch_is_described_only_if_it_is_imported_and_part_by_part() -> None:
    assert read_torch(None) is None
    fake = SimpleNamespace(
        __version__="2.13.0+cpu",
        version=SimpleNamespace(cuda=None),
        __config__=SimpleNamespace(
            parallel_info=lambda: "threads : 2\nATen parallel backend: OpenMP\n",
            show=lambda: "  - Build settings: BLAS_INFO=mkl, USE_CUDA=0",
        ),
        get_num_threads=lambda: 3,
    )
    section = read_torch(fake)
    assert section is not None
    assert (section["version"], section["cuda"], section["threads"]) == ("2.13.0+cpu", None, 3)
    assert (section["parallel_backend"], section["blas"], section["mkl"]) == ("OpenMP", "mkl", None)
    assert section["onednn"] is None  # this build has no backends at all


def test_what_torch_was_built_for_is_read_without_importing_it(tmp_path: Path) -> None:
    assert read_torch_build(tmp_path) is None
    lines = ["from typing import Optional", "__version__ = '2.13.0'", "cuda: Optional[str] = '13.0'"]
    (tmp_path / "version.py").write_text("\n".join([*lines, "hip: Optional[str] = None"]))
    assert read_torch_build(tmp_path) == {"cuda": "13.0", "hip": None, "xpu": None}
    (tmp_path / "version.py").write_text("cuda = None\nhip = '6.4'\n")  # as older releases wrote it
    assert read_torch_build(tmp_path) == {"cuda": None, "hip": "6.4", "xpu": None}
    (tmp_path / "version.py").write_bytes(b"\xff\xfe")
    assert read_torch_build(tmp_path) is None


def test_the_package_with_the_narrowest_power_limit_counts(tmp_path: Path) -> None:
    zones = "sys/class/powercap/intel-rapl:"
    rated = {f"{zones}{i}/constraint_0_max_power_uw": "205000000" for i in ("0", "1", "0:0")}
    names = {f"{zones}0/name": "package-0", f"{zones}1/name": "package-1", f"{zones}0:0/name": "core"}
    limits = {"0": "205000000", "1": "150000000", "0:0": "1000000"}  # the last is a part of package 0
    tree(tmp_path, rated | names | {f"{zones}{i}/constraint_0_power_limit_uw": w for i, w in limits.items()})
    assert read_cpu(tmp_path)["power"] == {"limit_w": 150.0, "rated_w": 205.0}
    tree(tmp_path, {f"{zones}1/constraint_0_max_power_uw": "0"})  # some firmware does not state it
    assert read_cpu(tmp_path)["power"] == {"limit_w": 205.0, "rated_w": 205.0}


class FakeNvml:
    """One GPU that answers some questions and fails on the others, each in its own way."""

    nvmlMemory_v2 = 2  # noqa: N815

    def __init__(self) -> None:
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def __getattr__(self, name: str) -> Any:
        answers: dict[str, Any] = {
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetHandleByIndex": "handle",
            "nvmlSystemGetDriverVersion": b"580.10",
            "nvmlSystemGetCudaDriverVersion": 12080,
            "nvmlDeviceGetName": b"Example GPU",
            "nvmlDeviceGetUUID": "GPU-1234abcd-5678-90ef-1234-567890abcdef",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80 * GIB, used=3 * GIB),
            "nvmlDeviceGetCudaComputeCapability": (9, 0),
            "nvmlDeviceGetEnforcedPowerLimit": 650_000,
            "nvmlDeviceGetPowerManagementDefaultLimit": 700_000,
            "nvmlDeviceGetPersistenceMode": 0,
            "nvmlDeviceGetComputeMode": 3,
            "nvmlDeviceGetEccMode": [1, 0],
            "nvmlDeviceGetMemoryBusWidth": 5120,
            "nvmlDeviceGetMigMode": [1, 1],
            "nvmlDeviceGetMaxMigDeviceCount": 7,
            "nvmlDeviceGetFieldValues": [SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=91))],
            "nvmlDeviceGetGraphicsRunningProcesses": [
                SimpleNamespace(pid=os.getpid(), usedGpuMemory=1),  # computes and draws
                SimpleNamespace(pid=4_000_001, usedGpuMemory=4),
            ],
            "nvmlDeviceGetMaxClockInfo": 1980,
            # 0x4 + 0x40
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0x44,
            "nvmlDeviceGetComputeRunningProcesses": [
                SimpleNamespace(pid=os.getpid(), usedGpuMemory=1),
                SimpleNamespace(pid=4_000_000, usedGpuMemory=2 * GIB),
            ],
            "nvmlSystemGetProcessName": "/secret/place/python train.py --password hunter2",
        }
        if name == "nvmlDeviceGetMigDeviceHandleByIndex":
            return self._slice
        if name not in answers:
            raise AttributeError(name)  # an older binding
        return lambda *_, **__: answers[name]

    def _slice(self, _: Any, place: int) -> str:
        if place != 2:
            raise RuntimeError("not found")  # the other places are free
        return "slice"


def test_a_gpu_is_described_with_none_for_what_it_does_not_answer() -> None:
    nvml = FakeNvml()
    section = read_gpus(nvml)
    assert nvml.open == 0  # every init has its shutdown
    assert (section["driver"], section["cuda_driver"], section["why"]) == ("580.10", "12.8", None)
    (gpu,) = section["gpus"]
    assert (gpu["name"], gpu["compute_capability"], gpu["memory_total_b"]) == ("Example GPU", "9.0", 80 * GIB)
    assert gpu["uuid"] == "GPU-1234abcd"  # shortened
    assert (gpu["power_limit_w"], gpu["power_limit_default_w"]) == (650.0, 700.0)
    assert (gpu["persistence"], gpu["ecc"], gpu["compute_mode"]) == (False, True, "exclusive_process")
    assert (gpu["ecc_pending"], gpu["memory_bus_bits"]) == (False, 5120)
    assert gpu["mig_slices"] == [{"name": "Example GPU", "memory_b": 80 * GIB}]
    assert (gpu["application_clock_mhz"], gpu["now"]["power_w"]) == (None, None)
    json.dumps(section)


def test_what_a_gpu_does_now_names_programs_without_their_arguments() -> None:
    (activity,) = read_gpu_activity(FakeNvml()) or []
    assert activity["clock_reasons"] == ["software_power_cap", "hardware_thermal"]
    assert activity["processes"] == [
        {"name": "python", "memory_b": 1, "own": True},
        {"name": "python", "memory_b": 2 * GIB, "own": False},
    ]
    assert activity["graphics_processes"] == ["python"]  # once, for the one that does not compute
    assert (activity["memory_temperature_c"], activity["sm_clock_mhz"]) == (91, None)
    assert activity["memory_used_b"] == 3 * GIB
    assert "hunter2" not in json.dumps(activity)


def test_no_gpu_comes_with_a_reason() -> None:
    def fails() -> None:
        raise RuntimeError("driver not loaded")

    assert read_gpus(None)["gpus"] is None
    assert "nvidia-ml-py" in read_gpus(None)["why"]
    broken = SimpleNamespace(nvmlInit=fails, nvmlShutdown=lambda: None)
    assert read_gpus(broken) == {"gpus": None, "why": "NVML does not start: driver not loaded"}
    empty = SimpleNamespace(nvmlInit=lambda: None, nvmlShutdown=lambda: None, nvmlDeviceGetCount=lambda: 0)
    assert read_gpus(empty) == {"gpus": None, "why": "NVML runs but lists no GPU"}
    assert read_gpu_activity(None) is None


def git(folder: Path, *arguments: str) -> None:
    names = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "PATH": os.environ["PATH"]}
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, env=names)


def test_git_state_of_a_tracked_an_ignored_and_a_plain_folder(tmp_path: Path) -> None:
    repository = tree(tmp_path / "r", {"code/a.py": "1", ".gitignore": "venv/", "venv/package/b.py": "2"})
    git(repository, "init")
    assert git_state(repository) is None  # no commit yet
    git(repository, "add", ".")
    git(repository, "commit", "-m", "first")
    state = git_state(repository / "code")
    assert state is not None
    assert (len(state["commit"]), state["dirty"]) == (40, False)
    # An installed package must not be given the commit of the repository that it happens to lie in.
    assert git_state(repository / "venv/package") is None
    tree(repository, {"elsewhere.py": "3"})
    assert git_state(repository / "code") == state  # what changed is not in the folder
    tree(repository, {"code/new.py": "4"})
    assert git_state(repository / "code") == {"commit": state["commit"], "dirty": True}
    plain = tmp_path / "plain"
    plain.mkdir()
    assert git_state(plain) is None
    assert git_state(tmp_path / "missing") is None


def test_git_state_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(Path(__file__).parent) is None


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    return [value]


def test_an_empty_machine_is_captured_as_none(tmp_path: Path) -> None:
    # Everything that comes from files is unknown; an unreadable file (a folder in its place) is the same as none.
    (tmp_path / "proc/cpuinfo").mkdir(parents=True)
    cpu = read_cpu(tmp_path)
    sections = [cpu, read_memory(tmp_path), read_now(tmp_path), read_limits(tmp_path), read_throttling(tmp_path)]
    assert {leaf for section in sections for leaf in leaves(section)} <= {None, False}
    environment = capture_environment(tmp_path, nvml=lambda: None, variables={}, package=tmp_path)
    assert environment["git"] is None
    assert environment["variables"] == {}
    assert environment["cpu"]["logical_cores"] == os.cpu_count()  # Python knows that much anywhere
    json.dumps(environment, allow_nan=False)


def test_nonsense_in_every_file_is_captured_as_none(tmp_path: Path) -> None:
    for path in [path for path in machine(tmp_path).rglob("*") if path.is_file()]:
        path.write_bytes(b"\xff\xfe nonsense \x00")
    environment = capture_environment(tmp_path, nvml=FakeNvml, variables={}, package=tmp_path)
    assert environment["cpu"]["physical_cores"] is None
    assert environment["memory"]["total_b"] is None
    json.dumps(environment, allow_nan=False)


def test_this_machine_is_captured_without_its_name() -> None:
    environment = capture_environment(nvml=lambda: None)
    text = json.dumps(environment, allow_nan=False)
    assert environment["python"]["version"] == platform.python_version()
    assert environment["libraries"]["torch"] == importlib.metadata.version("torch")
    assert set(environment) >= {"system", "cpu", "memory", "limits", "gpu", "libraries", "variables", "git", "now"}
    name = platform.node()
    assert len(name) < 4 or f'"{name}"' not in text  # a short name ("vm") may be a word of its own
    assert 0 < environment["now"]["timer"]["resolution_s"] < 1e-3
    assert 0 < environment["now"]["timer"]["overhead_s"] < 1e-3
    usable = usable_cpus()
    assert environment["cpu"]["affinity"] == (sorted(usable) if usable is not None else None)


def test_the_host_name_is_not_read(tmp_path: Path) -> None:
    environment = capture_environment(machine(tmp_path), nvml=lambda: None, variables={}, package=tmp_path)
    assert "a-private-name" not in json.dumps(environment)


def test_capturing_imports_no_library_that_it_reports() -> None:
    code = (
        "import sys; from dlmbench.profiles.environment import capture_environment; capture_environment();"
        "print([m for m in ('torch', 'transformers', 'numpy', 'scipy', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
