"""A device's peaks: remembered if they were measured lately under the same identity, else measured now."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from .clocks import clock_for
from .datasheets import with_datasheet
from .device_identity import device_identity
from .hardware import DevicePeaks
from .peaks import measure_peaks
from .peaks_cache import MAX_AGE_S, PeaksCache, Remembered, age_s

Measure = Callable[[Sequence[str], dict[str, str]], DevicePeaks]


@dataclass(frozen=True, slots=True)
class KnownPeaks:
    """`before` is the measurement before this one under the same identity; `notes` are troubles with the cache."""

    peaks: DevicePeaks
    before: DevicePeaks | None
    remembered: bool
    notes: tuple[str, ...] = ()


def device_peaks(
    device: str,
    dtypes: Sequence[str],
    *,
    max_age_s: float = MAX_AGE_S,
    budget_s: float | None = None,
    usable: Collection[int] | None = None,
) -> KnownPeaks:
    """The peaks of a device ("cpu", "cuda", "cuda:N") in these dtypes at least, with the threads in force.

    Remembered ones may be `max_age_s` old (0: measure now); a measurement takes about `budget_s`. `usable`: see
    `device_identity`.
    """

    def measure(wanted: Sequence[str], identity: dict[str, str]) -> DevicePeaks:
        return measure_peaks(device, wanted, clock_for(device), identity, budget_s=budget_s)

    cache = PeaksCache.of_user(os.environ)
    return look_up(device_identity(device, usable=usable), dtypes, cache, measure, max_age_s=max_age_s)


def look_up(
    identity: dict[str, str], dtypes: Sequence[str], cache: PeaksCache, measure: Measure, *, max_age_s: float
) -> KnownPeaks:
    """As `device_peaks`, for this identity, in this cache and with this way to measure."""
    known = cache.read(identity)
    if known is not None and _serves(known, dtypes, max_age_s, cache):
        return KnownPeaks(with_datasheet(known.last), known.before, True, tuple(cache.notes))
    # Also what was known in other dtypes: else runs that alternate between two would measure every time. Who wants a
    # measurement now gets the one that was asked for.
    kept = known.last.matmul if known is not None and max_age_s else {}
    others = [dtype for dtype in kept if dtype not in dtypes]
    peaks = measure([*dtypes, *others], identity)
    before = None if known is None else known.last
    if peaks.disturbed:
        cache.notes.append(f"not kept for later: others used {peaks.waited_cores:.1f} processors that the peaks needed")
    elif peaks.matmul or peaks.read:
        cache.write(peaks, before)
    return KnownPeaks(with_datasheet(peaks), before, False, tuple(cache.notes))


def _serves(known: Remembered, dtypes: Sequence[str], max_age_s: float, cache: PeaksCache) -> bool:
    age = age_s(known.last)
    if age is None:
        cache.notes.append(f"peaks kept from {known.last.measured}, which is no time in the past: measured anew")
    return age is not None and age < max_age_s and {*dtypes} <= {*known.last.matmul, *known.last.missing}
