"""Margins that this machine can keep, learned from an A/A comparison: one program on both sides.

A gate of two equal programs passes at a look whose largest upper bound, over its cells, lies below the margin. So each
gate needs a certain margin,

    m* = min over looks k of max over cells c of U_kc,    U_kc = trimmed mean + t(level) x its error, after n_k pairs,

and the margin learned is the quantile of m* at `probability` (0.95), rounded up: with it 95 % of such gates pass within
their looks. The quantile is taken over gates drawn again from the pairs that were measured, all cells of a pair
together and its sides exchanged by a coin, since they are the same program.

With few pairs the noise itself is known badly: from 18 its standard deviation comes out up to a third wrong either way.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ... import InputError
from ...profiles.gate import MIN_PROCESSES, CellEvidence, Margin, Policy, Timed
from .arrays import FAIL, least_margins, statistics, verdicts
from .multiplicity import holm
from .noise import drawn_again
from .policy import policy_toml
from .trimmed import Floats, trimmed

GATES = 4000
PROBABILITY = 0.95
FOUND = 0.9
STEP = 0.001
SIDES_DIFFER = 0.01


@dataclass(frozen=True, slots=True)
class Learned:
    """What an A/A comparison of `pairs` pairs says of a metric.

    `detects` is the slowdown of all cells that a gate with this margin FAILs in nine of ten (None: not even twice as
    slow). `spread` is the robust standard deviation of a pair's log-ratio in the noisiest cell, `noisiest`. `warning`
    says why the comparison should not be trusted.
    """

    metric: str
    margin: Margin
    pairs: int
    spread: float
    noisiest: str
    detects: float | None
    warning: str | None


def learn_margins(
    evidence: Sequence[CellEvidence], policy: Policy, *, probability: float = PROBABILITY, seed: int = 0
) -> tuple[Policy, tuple[Learned, ...]]:
    """The policy with learned margins for the metrics that it gates, and what was seen.

    Raises InputError for a spoiled or unpaired comparison, or one with fewer than six pairs.
    """
    for cell in evidence:
        if cell.spoiled is not None:
            raise InputError(f"A/A comparison: cell {cell.key} is spoiled ({cell.spoiled[1]}); measure again")
    learned = [_learn(metric, margin, evidence, policy, probability, seed) for metric, margin in policy.margins.items()]
    margins = {one.metric: one.margin for one in learned}
    return policy.model_copy(update={"margins": margins}), tuple(learned)


def learned_toml(policy: Policy, learned: Sequence[Learned]) -> str:
    """The policy as a file, with what it was learned from in comments."""
    comments = []
    for one in learned:
        found = "nothing below +100 %" if one.detects is None else f"+{100 * one.detects:.1f} % in all cells"
        comments.append(
            f"{one.metric}: learned from {one.pairs} A/A pairs, sd of a pair's ratio {100 * one.spread:.2f} % at most "
            f"({one.noisiest}); finds {found} in 9 of 10 gates"
        )
        if one.warning:
            comments.append(f"{one.metric}: {one.warning}")
    return policy_toml(policy, comments)


def _learn(
    metric: str, margin: Margin, evidence: Sequence[CellEvidence], policy: Policy, probability: float, seed: int
) -> Learned:
    keys, times = _gated(metric, evidence, policy)
    ratios = ratio_matrix(f"A/A comparison: {metric}", times)
    random = np.random.default_rng(seed)
    looked = statistics(drawn_again(ratios, GATES, policy.looks[-1], random), policy.looks)
    base = min(time.base for time in times)
    needed = float(np.quantile(least_margins(looked, policy.level, margin.floor, base, metric), probability))
    relative = min(max(STEP, math.ceil(math.expm1(needed) / STEP) * STEP), 0.999)
    fitted = Margin(relative=round(relative, 3), floor=margin.floor)
    gate = policy.model_copy(update={"margins": {metric: fitted}})

    def finds(slowdown: float) -> bool:
        return verdicts(looked, gate, base, math.log1p(slowdown), metric).share(FAIL) >= FOUND

    slowdowns = [step / 200 for step in range(1, 201)]
    place = bisect_left(slowdowns, True, key=finds)
    here = trimmed(ratios.T)
    spreads = here.error * math.sqrt(len(ratios))
    differ = holm(2 * np.minimum(here.p_above(0.0), 1 - here.p_above(0.0)))
    worst = int(np.argmin(differ))
    warning = (
        f"the two sides differ in {keys[worst]} by {100 * math.expm1(float(here.estimate[worst])):+.2f} % "
        f"(p {differ[worst]:.1g} after Holm), though they are one program: find out why before trusting a gate here"
        if differ[worst] < SIDES_DIFFER
        else None
    )
    noisiest = int(np.argmax(spreads))
    detects = slowdowns[place] if place < len(slowdowns) else None
    return Learned(metric, fitted, len(ratios), float(spreads[noisiest]), keys[noisiest], detects, warning)


def _gated(metric: str, evidence: Sequence[CellEvidence], policy: Policy) -> tuple[list[str], list[Timed]]:
    """The cells in which the policy gates this metric: their keys and times."""
    found = [
        (cell.key, timed)
        for cell in evidence
        for timed in cell.timed
        if metric in (timed.metric, timed.metric.partition("[")[0]) and policy.margin(cell.key, timed.metric)
    ]
    if not found:
        raise InputError(f"A/A comparison: no cell has {metric}, which the policy gates; leave out its margin")
    return [key for key, _ in found], [timed for _, timed in found]


def ratio_matrix(what: str, times: Sequence[Timed]) -> Floats:
    """Log-ratios [pairs, cells]; of a cell that lost a pair the others lose their last. Raises InputError about `what`
    where too few pairs are left, or a time is none."""
    pairs = min(len(timed.log_ratios) for timed in times)
    if pairs < MIN_PROCESSES:
        raise InputError(
            f"{what} has {pairs} undisturbed pairs of processes, expected {MIN_PROCESSES} or more; measure in quiet"
        )
    ratios = np.array([timed.log_ratios[:pairs] for timed in times], dtype=float).T
    if not np.isfinite(ratios).all() or not all(math.isfinite(timed.base) and timed.base > 0 for timed in times):
        raise InputError(f"{what} is not a positive, finite number somewhere; measure again")
    return ratios
