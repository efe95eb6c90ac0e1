"""The live part of an examination: watch the machine for half a second and report what it was doing.

Reads only: it writes no file and changes no setting. Whatever cannot be read is None.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .disturbance import CpuWindow
from .gpus import load_nvml, read_gpu_activity
from .host import Section, current_mhz, read_int, read_text
from .peaks_cache import PeaksCache

_SHOWN = 5
# Two ticks in half a second: less is the resolution of the kernel's accounts.
_NOTICED_CORES = 0.04
# Long enough for a governor to raise the clock (its sampling period is 10 ms or less), short enough not to heat.
_SPIN_S = 0.06
_PROCESSOR_MONITORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal")


def probe(
    interval_s: float = 0.5,
    output: Path = Path(),
    *,
    root: Path = Path("/"),
    nvml: Callable[[], Any | None] = load_nvml,
    variables: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What `examine` cannot know from a captured environment. Takes `interval_s` and about 0.1 s more.

    `output` is the folder that results would go to (it need not exist yet).
    """
    variables = os.environ if variables is None else variables
    heat_before = _throttle_events(root)
    window = CpuWindow(root=root)
    window.start()
    busy = read_busy_processes(interval_s)
    disturbance = window.stop()
    heat_after = _throttle_events(root)
    cache = Path(variables.get("TORCHINDUCTOR_CACHE_DIR") or tempfile.gettempdir())
    return {
        "busy_processes": busy,
        "foreign_cores": disturbance.foreign_cores,
        "steal_cores": disturbance.steal_cores,
        "busy_mhz": read_busy_mhz(root),
        "thermal_throttle_events": None if heat_before is None or heat_after is None else heat_after - heat_before,
        "temperature": read_temperature(root),
        "on_battery": read_on_battery(root),
        "compilers": find_compilers(variables),
        "writable": {
            "home": can_write(Path(variables["HOME"])) if variables.get("HOME") else None,
            "matplotlib": can_write(_matplotlib_folder(variables)),
            "compile_cache": can_write(cache),
        },
        "compile_cache_executable": can_execute(cache),
        "output_free_b": free_bytes(output),
        "gpus": read_gpu_activity(nvml()),
        "peaks": [kept.model_dump(mode="json") for kept in PeaksCache.of_user(variables).all()],
    }


def read_busy_processes(interval_s: float, top: int = _SHOWN) -> list[Section] | None:
    """The processes (not this one) that used the processors most during the interval: name and cores, largest first.

    Names only, no arguments. None without psutil or where other processes are not visible.
    """
    try:
        import psutil
    except Exception:
        time.sleep(interval_s)
        return None

    def used() -> Iterator[tuple[tuple[int, float], str, float]]:
        for process in psutil.process_iter(["name", "cpu_times", "create_time"]):
            times = process.info["cpu_times"]
            if process.pid != os.getpid() and times:
                # The start time tells a process from a later one that was given its number.
                yield (process.pid, process.info["create_time"]), process.info["name"] or "?", times.user + times.system

    try:
        before = {key: seconds for key, _, seconds in used()}
        begin = time.perf_counter()
        time.sleep(interval_s)
        # One that began inside the interval used all of its time in it.
        spent = [(seconds - before.get(key, 0.0), name) for key, name, seconds in used()]
        elapsed = time.perf_counter() - begin
    except Exception:  # a process table that may not be read
        return None
    noticed = [(seconds / elapsed, name) for seconds, name in spent if seconds / elapsed >= _NOTICED_CORES]
    return [{"name": name, "cores": round(cores, 2)} for cores, name in sorted(noticed, reverse=True)[:top]]


def read_busy_mhz(root: Path = Path("/"), spin_s: float = _SPIN_S) -> float | None:
    """The highest processor frequency (MHz) while this process keeps one busy; None where Linux knows no limits.

    An idle processor's frequency says nothing: it is meant to be low.
    """
    if not (root / "sys/devices/system/cpu/cpufreq").is_dir():
        return None
    end = time.perf_counter() + spin_s
    while time.perf_counter() < end:
        pass
    return max(current_mhz(root), default=None)


def read_temperature(root: Path = Path("/")) -> Section | None:
    """The hottest sensor of the processor and its critical point, in °C; None if there is none to read."""
    sensors = [*_thermal_zones(root), *_hardware_monitors(root)]
    if not sensors:
        return None
    # The same sensor may be told twice, and only once with its critical point.
    celsius, critical = max(sensors, key=lambda sensor: (sensor[0], sensor[1] is not None))
    return {"celsius": celsius, "critical_celsius": critical}


def _thermal_zones(root: Path) -> Iterator[tuple[float, float | None]]:
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        kind, millidegrees = (read_text(zone / "type") or "").lower(), read_int(zone / "temp")
        # Other zones are batteries, radios and disks, each with limits of its own.
        if millidegrees is None or not any(word in kind for word in ("cpu", "pkg", "soc", "tctl", "k10temp", "acpitz")):
            continue
        points = [
            read_int(zone / f"trip_point_{index}_temp")
            for index in range(12)
            if read_text(zone / f"trip_point_{index}_type") == "critical"
        ]
        yield millidegrees / 1000, min((point / 1000 for point in points if point and point > 0), default=None)


def _hardware_monitors(root: Path) -> Iterator[tuple[float, float | None]]:
    """What servers and AMD's processors have instead of thermal zones."""
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if read_text(chip / "name") not in _PROCESSOR_MONITORS:
            continue
        for sensor in sorted(chip.glob("temp*_input")):
            millidegrees = read_int(sensor)
            critical = read_int(sensor.with_name(sensor.name.replace("_input", "_crit")))
            if millidegrees is not None:
                yield millidegrees / 1000, critical / 1000 if critical and critical > 0 else None


def read_on_battery(root: Path = Path("/")) -> bool | None:
    """True if a battery discharges and no mains supply is online; None on a machine without a battery."""
    battery = discharging = mains = False
    for supply in sorted((root / "sys/class/power_supply").glob("*")):
        # A mouse has a battery too: its scope is "Device".
        if read_text(supply / "type") == "Battery" and read_text(supply / "scope") != "Device":
            battery = True
            discharging |= read_text(supply / "status") == "Discharging"
        mains |= read_text(supply / "type") in ("Mains", "USB") and read_text(supply / "online") == "1"
    return discharging and not mains if battery else None


def find_compilers(variables: Mapping[str, str]) -> list[str]:
    """The C++ compilers on PATH that torch.compile would take, by name: $CXX if set, else the platform's own."""
    wanted = variables.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    found = shutil.which(wanted, path=variables.get("PATH", ""))
    return [Path(wanted).name] if found else []


def can_write(folder: Path) -> bool | None:
    """Whether files could be made in the folder, or the folder itself where it is missing. Writes nothing."""
    try:
        return os.access(_existing(folder), os.W_OK | os.X_OK)
    except OSError:
        return None


def can_execute(folder: Path) -> bool | None:
    """Whether programs and libraries may run from the folder's file system (not mounted `noexec`)."""
    try:
        return not os.statvfs(_existing(folder)).f_flag & os.ST_NOEXEC
    except (OSError, AttributeError):
        return None


def free_bytes(folder: Path) -> int | None:
    """Bytes that this user may still write where the folder is, or would be."""
    try:
        return shutil.disk_usage(_existing(folder)).free
    except OSError:
        return None


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _matplotlib_folder(variables: Mapping[str, str]) -> Path:
    """Where matplotlib keeps its font list, by its own rules on Linux."""
    if folder := variables.get("MPLCONFIGDIR"):
        return Path(folder)
    cache = variables.get("XDG_CACHE_HOME") or str(Path(variables.get("HOME") or "~").expanduser() / ".cache")
    return Path(cache) / "matplotlib"


def _throttle_events(root: Path) -> int | None:
    """How often the processors have been slowed for heat since the machine started (Intel only)."""
    files = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    counts = [count for count in map(read_int, files) if count is not None]
    return sum(counts) if counts else None
