"""Many gates at once, on arrays: `decide` without its sentences, for simulation and for learning margins.

One timed metric; every gate sees the same number of pairs at a look. That the verdicts are those of `decide` is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...profiles.gate import Policy
from .multiplicity import holm, spent
from .timed import absolute_change
from .trimmed import TRIM, Floats, Trimmed, trimmed

INCONCLUSIVE, PASS, FAIL = 0, 1, 2


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """The verdict of every gate [G] and the pairs [G] that it used."""

    verdicts: NDArray[np.int8]
    pairs: NDArray[np.int64]

    def share(self, verdict: int) -> float:
        return float((self.verdicts == verdict).mean())

    def count(self, verdict: int) -> int:
        return int((self.verdicts == verdict).sum())


def statistics(log_ratios: Floats, looks: Sequence[int], trim: float = TRIM) -> list[Trimmed]:
    """The statistics [G, C] at every look of gates with log-ratios [G, P, C]; P is at least the last look."""
    values = np.moveaxis(log_ratios, 1, -1)
    return [trimmed(values[..., :look], trim) for look in looks]


def verdicts(
    looked: Sequence[Trimmed], policy: Policy, base: float, shift: Floats | float = 0.0, metric: str = "latency_s"
) -> Outcomes:
    """Every gate to its end: FAIL or PASS at the first look that says so.

    `looked` is what `statistics` made of `policy.looks`; `shift` [C] or one number is a slowdown planted in each cell,
    as a log-ratio; `base` the metric's value at base, for the floor.
    """
    gates = looked[0].estimate.shape[0]
    said = np.zeros(gates, dtype=np.int8)
    pairs = np.full(gates, policy.looks[-1])
    for look, statistic in enumerate(looked):
        fail, good = _look(statistic.shifted(shift), policy, look, base, metric)
        undecided = said == INCONCLUSIVE
        pairs[undecided & (fail | good)] = policy.looks[look]
        said[undecided & good] = PASS
        said[undecided & fail] = FAIL
    return Outcomes(said, pairs)


def least_margins(looked: Sequence[Trimmed], level: float, floor: float, base: float, metric: str) -> Floats:
    """The smallest margin, as a log-ratio, at which each gate [G] would pass at some look: min over looks of the max
    over cells of the upper bound. A cell below the floor asks for none."""
    needed = []
    for statistic in looked:
        upper = statistic.upper(level)
        upper = np.where(absolute_change(metric, base, upper) < floor, 0.0, upper)
        needed.append(upper.max(axis=-1))
    return np.asarray(np.min(needed, axis=0))


def _look(
    statistic: Trimmed, policy: Policy, look: int, base: float, metric: str
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which gates [G] fail and which pass at one look."""
    margin = policy.margins[metric]
    limit = float(np.log1p(margin.relative))
    proven = holm(statistic.p_above(limit)) < spent(policy.alpha, policy.looks, look)
    worse = proven & (absolute_change(metric, base, statistic.estimate) > margin.floor)
    upper = statistic.upper(policy.level)
    within = (upper < limit) | (absolute_change(metric, base, upper) < margin.floor)
    return np.asarray(worse.any(axis=-1)), np.asarray(within.all(axis=-1))
