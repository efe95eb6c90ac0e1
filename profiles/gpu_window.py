"""What readings of a GPU's counters say of a window of time, and of nothing outside it.

A value that NVML averages over a stretch before each reading counts only where that stretch lies inside the window. A
value needs more than half of the readings that were due: a counter that failed for most of a window says little of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean

from .energy_counter import MeanPower, mean_power
from .gpm import Shares
from .gpu_counters import UTILISATION_S, Reading
from .gpus import clock_reasons
from .hardware import TELEMETRY, Telemetry

# Beyond these a number is shown with a warning: two energies that disagree, two halves that drew differently, and
# reading itself at work.
_DISAGREE = 0.10
_UNSTEADY = 0.10
_HEAVY = 0.05
_SERIES = ("power_w", "sm_clock_mhz", "memory_clock_mhz", "temperature_c", "gpu_util_nvml", "memory_used_b")


@dataclass(frozen=True, slots=True)
class Watched:
    """What was read so far: readings in order, why a counter is not among them, and how far back its values reach."""

    source: str
    readings: Sequence[Reading]
    missing: Mapping[str, str] = field(default_factory=dict)
    reach_s: Mapping[str, float] = field(default_factory=lambda: {"gpu_util_nvml": UTILISATION_S})

    def inside(self, begin_s: float, end_s: float) -> list[Reading]:
        return [reading for reading in self.readings if begin_s <= reading.at_s <= end_s]

    def window(
        self,
        begin_s: float,
        end_s: float,
        *,
        generations: int,
        output_tokens: int,
        shares: Shares,
        idle_w: float | str,
    ) -> Telemetry:
        """Every metric over [begin_s, end_s] in which so much was generated; `idle_w` is the idle power, or why not."""
        inside = self.inside(begin_s, end_s)
        values, missing = dict(shares.values), dict(shares.missing)
        warnings = _load(inside)
        energy = self._power(begin_s, end_s)
        if isinstance(energy, str):
            missing |= dict.fromkeys(("power_w", "energy_j", "energy_per_token_j", "energy_integrated_ratio"), energy)
        else:
            values["power_w"] = energy.watts
            values["energy_j"] = energy.watts * (end_s - begin_s) / generations
            if output_tokens:
                values["energy_per_token_j"] = energy.watts * (end_s - begin_s) / output_tokens
            else:
                missing["energy_per_token_j"] = "no token was emitted"
            warnings += _unsteady(energy)
            integrated = self._integrated_w(inside, begin_s, end_s)
            if isinstance(integrated, str):
                missing["energy_integrated_ratio"] = integrated
            else:
                values["energy_integrated_ratio"] = ratio = integrated / energy.watts
                if abs(ratio - 1) > _DISAGREE:
                    warnings.append(f"power readings give {ratio:.2f} of the energy counter's energy: trust neither")
        if isinstance(idle_w, str):
            missing["power_idle_w"] = idle_w
        else:
            values["power_idle_w"] = idle_w
        for name in ("gpu_util_nvml", "sm_clock_mhz", "memory_clock_mhz", "temperature_c"):
            found = self._readings_of(name, inside, begin_s, end_s)
            if isinstance(found, str):
                missing[name] = found
            else:
                numbers = [number for _, number in found]
                values[name] = max(numbers) if name == "temperature_c" else fmean(numbers)
        held, foreign = self.reasons(begin_s, end_s)
        return Telemetry(
            source=self.source,
            window_s=end_s - begin_s,
            generations=generations,
            values={name: values[name] for name in TELEMETRY if name in values},
            missing={name: missing[name] for name in TELEMETRY if name in missing},
            series=_series(inside, begin_s, {name: begin_s + reach for name, reach in self.reach_s.items()}),
            clock_reasons=held or (),
            foreign=foreign,
            warnings=tuple(warnings),
        )

    def stretch(self, begin_s: float, end_s: float) -> Telemetry:
        """The readings of a stretch as they came, for a picture of them on a time axis: no value is made of them."""
        inside = self.inside(begin_s, end_s)
        held, foreign = self.reasons(begin_s, end_s)
        return Telemetry(
            source=self.source,
            window_s=end_s - begin_s,
            generations=0,
            missing=dict.fromkeys(TELEMETRY, "a stretch of readings, not a window of replays"),
            series=_series(inside, begin_s, {}),
            clock_reasons=held or (),
            foreign=foreign,
        )

    def reasons(self, begin_s: float, end_s: float) -> tuple[tuple[str, ...] | None, int | None]:
        """All that held the clocks in a stretch (None: not read), and the most processes of others (None: unknown).

        Others are counted only where one of our own is in the list: a container may see none, or the host's pids.
        """
        inside = self.inside(begin_s, end_s)
        seen = [reading.clock_reasons for reading in inside if reading.clock_reasons is not None]
        bits = 0
        for each in seen:
            bits |= each
        foreign = [reading.foreign for reading in inside if reading.own and reading.foreign is not None]
        return tuple(clock_reasons(bits)) if seen else None, max(foreign, default=None)

    def idle_w(self, begin_s: float, end_s: float) -> float | str:
        """Mean power over a stretch with nothing running, in watts, or why it is not known."""
        energy = self._power(begin_s, end_s)
        if not isinstance(energy, str):
            return energy.watts
        integrated = self._integrated_w(self.inside(begin_s, end_s), begin_s, end_s)
        return energy if isinstance(integrated, str) else integrated

    def _power(self, begin_s: float, end_s: float) -> MeanPower | str:
        found = mean_power(((each.at_s, each.energy_j) for each in self.inside(begin_s, end_s)), begin_s, end_s)
        return self.missing.get("energy_j", found) if isinstance(found, str) else found

    def _integrated_w(self, inside: Sequence[Reading], begin_s: float, end_s: float) -> float | str:
        """The power readings' integral (trapezoids) over the time that they span, in watts."""
        found = self._readings_of("power_w", inside, begin_s, end_s)
        if isinstance(found, str):
            return found
        if len(found) < 2:
            return f"only one reading of power fell into the window of {end_s - begin_s:.2g} s"
        area = sum((after[1] + before[1]) / 2 * (after[0] - before[0]) for before, after in pairwise(found))
        return area / (found[-1][0] - found[0][0])

    def _readings_of(
        self, name: str, inside: Sequence[Reading], begin_s: float, end_s: float
    ) -> list[tuple[float, float]] | str:
        """(time, value) of a counter's readings that average over the window alone, or why they are too few."""
        reach = self.reach_s.get(name, 0.0)
        due = [(reading.at_s, getattr(reading, name)) for reading in inside if reading.at_s >= begin_s + reach]
        good = [(at, value) for at, value in due if value is not None]
        if len(good) > len(due) / 2:
            return good
        if name in self.missing:
            return self.missing[name]
        if due:
            return f"{len(due) - len(good)} of {len(due)} readings in the window failed"
        averaged = f" and NVML may average each over {reach:g} s before it" if reach else ""
        return (
            f"no reading fell into the window of {end_s - begin_s:.2g} s{averaged}; "
            f"one of {reach + 0.5:g} s or more is needed"
        )


def _series(
    inside: Sequence[Reading], begin_s: float, valid_from: Mapping[str, float]
) -> dict[str, tuple[float | None, ...]]:
    """The readings by counter; those before `valid_from` are None. A counter that gave none is left out."""
    series: dict[str, tuple[float | None, ...]] = {}
    for name in _SERIES:
        since = valid_from.get(name, begin_s)
        values = tuple(getattr(reading, name) if reading.at_s >= since else None for reading in inside)
        if any(value is not None for value in values):
            series[name] = values
    return {"at_s": tuple(reading.at_s - begin_s for reading in inside), **series} if series else {}


def _load(inside: Sequence[Reading]) -> list[str]:
    """A warning where reading the counters took a notable part of a processor."""
    if len(inside) < 2:
        return []
    share = (inside[-1].cpu_s - inside[0].cpu_s) / (inside[-1].at_s - inside[0].at_s)
    return [f"reading the counters kept a processor {share:.0%} busy"] if share > _HEAVY else []


def _unsteady(energy: MeanPower) -> list[str]:
    if energy.halves is None:
        return []
    first, second = energy.halves
    if abs(second - first) <= _UNSTEADY * energy.watts:
        return []
    return [f"power was not steady: {first:.0f} W in the window's first half, {second:.0f} W in its second"]
