"""Steps in a series of runs: the piecewise-constant fit that pays for each of its steps.

Of all ways to cut the series y (logarithms) into levels, the one is taken that minimises

    sum over runs of |y - m| / s  +  penalty x number of steps,        m the weighted median of the run's level,

exactly, by dynamic programming over the last step (Jackson et al. 2005, "optimal partitioning"); least absolute
deviations bear outliers (the L1 Potts model: Weinmann, Storath and Demaret 2015; asv detects regressions with it).
A level has at least `LEAST` = 4 runs. One or two odd runs are a minority in it, or half, and so never pay for a step.

s is the noise of a run: 1.4826 / sqrt(2) times the median absolute difference between neighbours, which steps hardly
touch as they are few, or the run's own standard error where that is larger, or `FLOOR`.

The penalty comes from what noise alone would gain. Cutting n independent normal values in two at a given place lowers
the sum by about sqrt(2 pi) / 4 x Z², Z standard normal (the density of the values at their median decides; Koenker and
Bassett 1978); P(Z² > t) <= exp(-t / 2), and there are fewer than n places. So with

    penalty = sqrt(pi / 2) x ln(n / alpha) x (1 + 3 / n)

noise makes a step in the series with a chance of at most alpha; the last factor allows for s being estimated from few
runs. Who searches several series gives each its share of alpha. By simulation (8 to 30 independent runs, normal or with
outliers) false steps are ten times rarer than that. Noise that wanders from run to run makes them more frequent: alpha
still holds at a lag-1 correlation of 0.3, and not at 0.6, where 30 runs give about four times as many. A machine's
drift is such noise, and is what the calibration in each run is for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from statistics import median

ALPHA = 0.05
LEAST = 4
FLOOR = 1e-4  # of a value: finer changes say nothing, and counters have no noise at all
_Z95 = 1.96


@dataclass(frozen=True, slots=True)
class Level:
    """Runs [begin, end) of the series and their weighted median."""

    begin: int
    end: int
    value: float


@dataclass(frozen=True, slots=True)
class Step:
    """The first run of a new level, and the relative change (0.05: 5 % up) with its 95 % interval.

    The interval is that of the difference of two medians of normal values, the place of the step taken as known.
    """

    at: int
    change: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Fit:
    """The levels of a series, one without a step, and its relative noise. `why`: the reason for no search, if any."""

    levels: tuple[Level, ...]
    steps: tuple[Step, ...] = ()
    noise: float | None = None
    why: str | None = None


def find_steps(values: Sequence[float], errors: Sequence[float | None] = (), *, alpha: float = ALPHA) -> Fit:
    """The steps of positive values, oldest first; `errors` are their relative standard errors where known."""
    n = len(values)
    if not n or min(values) <= 0 or not all(map(math.isfinite, values)):
        return Fit((), why="steps are sought in positive numbers" if n else "there is no value")
    if n < 2 * LEAST:
        middle = math.exp(median(map(math.log, values)))
        return Fit((Level(0, n, middle),), why=f"{n} of the {2 * LEAST} values that a search for steps needs")
    logs = [math.log(value) for value in values]
    noise = max(noise_of(logs), FLOOR)
    known = [*errors, *[None] * (n - len(errors))]
    scales = [noise if error is None else max(noise, error) for error in known]
    cuts = _partition(logs, [1 / scale for scale in scales], penalty(n, alpha))
    levels = [
        Level(begin, end, _Spread.over(logs[begin:end], [1 / scale for scale in scales[begin:end]]).middle)
        for begin, end in zip((0, *cuts), (*cuts, n), strict=True)
    ]
    steps = [_step(before, after, noise) for before, after in itertools.pairwise(levels)]
    return Fit(tuple(Level(x.begin, x.end, math.exp(x.value)) for x in levels), tuple(steps), noise)


def noise_of(logs: Sequence[float]) -> float:
    """The standard deviation of normal noise, from the differences between neighbours."""
    return 1.4826 / math.sqrt(2) * median(abs(b - a) for a, b in itertools.pairwise(logs))


def penalty(n: int, alpha: float = ALPHA) -> float:
    """What a step costs, in units of the noise: see the module's text."""
    return math.sqrt(math.pi / 2) * math.log(n / alpha) * (1 + 3 / n)


def _step(before: Level, after: Level, noise: float) -> Step:
    change = after.value - before.value
    counts = 1 / (before.end - before.begin) + 1 / (after.end - after.begin)
    half = _Z95 * math.sqrt(math.pi / 2 * counts) * noise
    return Step(after.begin, math.expm1(change), math.expm1(change - half), math.expm1(change + half))


def _partition(logs: Sequence[float], weights: Sequence[float], price: float) -> list[int]:
    """The first indices of all levels but the first, of the cheapest partition."""
    n = len(logs)
    best = [0.0, *[math.inf] * n]  # of the first `end` runs, without the price of the step before them
    last = [0] * (n + 1)
    for end in range(LEAST, n + 1):
        spread = _Spread()
        for begin in range(end - 1, -1, -1):
            spread.add(logs[begin], weights[begin])
            if end - begin < LEAST or best[begin] == math.inf:
                continue
            total = best[begin] + spread.deviation + (price if begin else 0.0)
            if total < best[end]:
                best[end], last[end] = total, begin
    cuts = []
    end = last[n]
    while end:
        cuts.append(end)
        end = last[end]
    return cuts[::-1]


class _Spread:
    """Values added one by one: their weighted median and the sum of weighted absolute deviations from it.

    The lower half lies in a heap with its largest value on top, the upper half in one with its smallest.
    """

    __slots__ = ("_lower", "_lower_sum", "_lower_weight", "_upper", "_upper_sum", "_upper_weight")

    def __init__(self) -> None:
        self._lower: list[tuple[float, float]] = []
        self._upper: list[tuple[float, float]] = []
        self._lower_weight = self._upper_weight = self._lower_sum = self._upper_sum = 0.0

    @classmethod
    def over(cls, values: Sequence[float], weights: Sequence[float]) -> _Spread:
        spread = cls()
        for value, weight in zip(values, weights, strict=True):
            spread.add(value, weight)
        return spread

    def add(self, value: float, weight: float) -> None:
        if self._lower and value > self.middle:
            self._place_above(value, weight)
        else:
            self._place_below(value, weight)
        # The median is the largest value of the lower half: the least that has half of the weight at or below it.
        while self._lower_weight < self._upper_weight:
            self._place_below(*self._take_above())
        while self._lower_weight - self._lower[0][1] >= self._upper_weight + self._lower[0][1]:
            self._place_above(*self._take_below())

    def _place_below(self, value: float, weight: float) -> None:
        heappush(self._lower, (-value, weight))
        self._lower_weight += weight
        self._lower_sum += weight * value

    def _place_above(self, value: float, weight: float) -> None:
        heappush(self._upper, (value, weight))
        self._upper_weight += weight
        self._upper_sum += weight * value

    def _take_below(self) -> tuple[float, float]:
        value, weight = heappop(self._lower)
        self._lower_weight -= weight
        self._lower_sum += weight * value
        return -value, weight

    def _take_above(self) -> tuple[float, float]:
        value, weight = heappop(self._upper)
        self._upper_weight -= weight
        self._upper_sum -= weight * value
        return value, weight

    @property
    def middle(self) -> float:
        return -self._lower[0][0]

    @property
    def deviation(self) -> float:
        middle = self.middle
        below = middle * self._lower_weight - self._lower_sum
        above = self._upper_sum - middle * self._upper_weight
        return max(0.0, below + above)
