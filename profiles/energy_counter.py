"""Mean power from an energy counter that moves in steps, read more or less often than it moves.

Between two readings of different value the counter was renewed, at a moment known to within their distance. Energy and
time are taken between the first and the last such moment inside a window, so that neither what happened before it nor
the age of the counter's value enters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

# The ends of the stretch may be uncertain by this share of it, all in all.
_UNCERTAIN = 0.05
# The slowest renewal known of a GPU's counter; stands where too few were seen to tell.
_RENEWED_S = 0.1


@dataclass(frozen=True, slots=True)
class MeanPower:
    """Watts between the counter's first and last renewal in a window, and in either half of that stretch."""

    watts: float
    seconds: float
    halves: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class _Renewal:
    """The counter reached `joules` at `at_s`, give or take `within_s`."""

    at_s: float
    joules: float
    within_s: float


def mean_power(readings: Iterable[tuple[float, float | None]], begin_s: float, end_s: float) -> MeanPower | str:
    """Mean power over [begin_s, end_s] from readings (time, joules or None), or one sentence that says why not."""
    inside = [(at, joules) for at, joules in readings if joules is not None and begin_s <= at <= end_s]
    renewals = []
    for (before_s, before), (at_s, now) in pairwise(inside):
        if now < before:
            return f"the energy counter went back from {before:.0f} J to {now:.0f} J: it wrapped or was reset"
        if now > before:
            renewals.append(_Renewal((before_s + at_s) / 2, now, (at_s - before_s) / 2))
    window_s = end_s - begin_s
    needed_s = _needed_s(inside, renewals)
    if len(renewals) < 2:
        seen = f"the energy counter moved {len(renewals)} times in {len(inside)} readings over {window_s:.2g} s"
        return seen if needed_s <= window_s else f"{seen}; a window of {needed_s:.1f} s or more is needed"
    first, last = renewals[0], renewals[-1]
    seconds = last.at_s - first.at_s
    if first.within_s + last.within_s > _UNCERTAIN * seconds:
        return (
            f"the energy counter's steps are known to {1e3 * (first.within_s + last.within_s):.0f} ms, too much of a "
            f"window of {window_s:.2g} s; one of {needed_s:.1f} s or more is needed"
        )
    if seconds < 0.5 * window_s:
        return f"the energy counter could be followed for only {seconds:.2g} s of the window's {window_s:.2g} s"
    return MeanPower((last.joules - first.joules) / seconds, seconds, _halves(renewals))


def _needed_s(inside: list[tuple[float, float]], renewals: list[_Renewal]) -> float:
    """How long a window must be for its ends to be known well enough: readings' distance, and a step at each end."""
    apart_s = median(after[0] - before[0] for before, after in pairwise(inside)) if len(inside) > 1 else _RENEWED_S
    period_s = median(b.at_s - a.at_s for a, b in pairwise(renewals)) if len(renewals) > 1 else _RENEWED_S
    return apart_s / _UNCERTAIN + 2 * max(apart_s, period_s)


def _halves(renewals: list[_Renewal]) -> tuple[float, float] | None:
    """Mean power before and after the renewal nearest the middle of the stretch."""
    first, last = renewals[0], renewals[-1]
    middle_s = (first.at_s + last.at_s) / 2
    if len(renewals) < 3:
        return None
    middle = min(renewals[1:-1], key=lambda renewal: abs(renewal.at_s - middle_s))
    return (
        (middle.joules - first.joules) / (middle.at_s - first.at_s),
        (last.joules - middle.joules) / (last.at_s - middle.at_s),
    )
