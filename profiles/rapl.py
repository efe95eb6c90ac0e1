"""Energy of a processor by RAPL, through Linux's powercap files: packages and the DRAM zones that they report apart.

A counter holds microjoules, is updated about every millisecond and wraps at `max_energy_range_uj` (minutes at full
load). It counts everything that ran on the machine. Since 2020 most systems let only the superuser read it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .hardware import Telemetry

_ROOT = Path("/sys/class/powercap")
# A package, or a zone inside one; "psys" covers the whole platform and would count packages twice.
_ZONE = re.compile(r"[a-z]+-rapl(?:-[a-z]+)?:\d+(?::\d+)?")
_COUNTED = re.compile(r"package-\d+|dram")


@dataclass(frozen=True, slots=True)
class _Zone:
    name: str
    counter: Path
    range_uj: int


@dataclass(frozen=True, slots=True)
class Rapl:
    """The zones that are counted."""

    zones: tuple[_Zone, ...]

    @classmethod
    def open(cls, root: Path = _ROOT) -> Rapl | str:
        """The readable counters of this machine, or one sentence that says why there are none."""
        folders = sorted(path for path in root.glob("*") if _ZONE.fullmatch(path.name)) if root.is_dir() else []
        zones, refused = [], False
        for folder in folders:
            try:
                name = (folder / "name").read_text().strip()
                if not _COUNTED.fullmatch(name):
                    continue
                counter = folder / "energy_uj"
                int(counter.read_text())
                zones.append(_Zone(name, counter, int((folder / "max_energy_range_uj").read_text())))
            except PermissionError:
                refused = True
            except (OSError, ValueError):
                continue
        if refused:
            return (
                "the processor's energy counters may not be read here; as superuser: "
                "chmod a+r /sys/class/powercap/*/energy_uj"
            )
        if not any(zone.name.startswith("package") for zone in zones):
            return (
                "this machine shows no energy counters (no RAPL under /sys/class/powercap; usual in virtual machines)"
            )
        return cls(tuple(zones))

    def read(self) -> dict[Path, int]:
        """Microjoules by zone, now; a zone that cannot be read any more is left out."""
        found = {}
        for zone in self.zones:
            try:
                found[zone.counter] = int(zone.counter.read_text())
            except (OSError, ValueError):
                continue
        return found

    def joules(self, before: Mapping[Path, int], after: Mapping[Path, int]) -> float | None:
        """Energy between two readings in joules; None where a zone is missing from either.

        A counter may have wrapped once in between: read at least every minute.
        """
        total = 0
        for zone in self.zones:
            if zone.counter not in before or zone.counter not in after:
                return None
            used = after[zone.counter] - before[zone.counter]
            total += used if used >= 0 else used + zone.range_uj
        return total * 1e-6


def rapl_telemetry(
    joules: float | None, window_s: float, *, generations: int, output_tokens: int, idle_power_w: float | None
) -> Telemetry:
    """What a window of replays used; `joules` None: the counters failed in it."""
    energy = ("power_w", "energy_j", "energy_per_token_j")
    gpu = "a GPU's counter; this cell ran on the CPU"
    missing = dict.fromkeys(
        ("gpu_util_nvml", "sm_active", "sm_occupancy", "tensor_active", "dram_active", "fp16_active", "fp32_active",
         "fp64_active", "sm_clock_mhz", "memory_clock_mhz", "temperature_c", "energy_integrated_ratio"), gpu
    )  # fmt: skip
    values: dict[str, float] = {}
    if joules is None or joules <= 0:
        missing |= dict.fromkeys(energy, "the energy counters could not be read through the window, or did not move")
    else:
        values = {"power_w": joules / window_s, "energy_j": joules / generations}
        values["energy_per_token_j"] = joules / output_tokens
    if idle_power_w is None:
        missing["power_idle_w"] = "the energy counters did not move while the machine was idle"
    else:
        values["power_idle_w"] = idle_power_w
    return Telemetry(source="rapl", window_s=window_s, generations=generations, values=values, missing=missing)
