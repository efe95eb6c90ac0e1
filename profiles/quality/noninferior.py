"""Is a setting's quality as good as AR's, to an allowance? Shown, undecided or shown to be worse.

"Not worse" is shown, not assumed: a setting is `proven` non-inferior if an interval of its shortfall lies within the
allowance, `worse` if it lies wholly beyond, `undecided` between the two. Few texts make a setting undecided,
never equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ... import InputError
from ..record import Value
from .intervals import LEVEL, t_quantile, wilson

Estimate = Literal["share", "mean"]
Standing = Literal["proven", "undecided", "worse"]
_Bounds = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much worse than AR still counts as equal: `relative` x AR's value + `absolute`, in the metric's unit.

    `estimate` says what the metric is: a share of texts (Wilson intervals) or a mean (t intervals). A divergence, whose
    value for AR is near 0, needs an absolute allowance. Raises InputError for a negative one.
    """

    higher_is_better: bool
    relative: float = 0.0
    absolute: float = 0.0
    estimate: Estimate = "mean"

    def __post_init__(self) -> None:
        if not (0 <= self.relative < 1 and self.absolute >= 0):
            found = f"{self.relative:g} and {self.absolute:g}"
            raise InputError(f"allowance: relative must lie in [0, 1) and absolute be 0 or more, found {found}")

    def __str__(self) -> str:
        parts = [f"{self.relative * 100:g} %"] if self.relative or not self.absolute else []
        return " + ".join(parts + ([f"{self.absolute:g}"] if self.absolute else []))


def noninferior(quality: Value, ar: Value, allowance: Allowance, *, among: int = 1) -> Standing:
    """The verdict on an interval of the difference at level 1 - 0.05 / among; without intervals it is undecided.

    Raises InputError for a relative allowance on a value of AR that is not above 0.
    """
    if allowance.relative and ar.value is not None and ar.value <= 0:
        raise InputError(f"allowance: {allowance.relative:g} of AR's {ar.value:g} means nothing; give an absolute one")
    mine, theirs = (_at_level(value, allowance.estimate, among) for value in (quality, ar))
    if quality.value is None or ar.value is None or mine is None or theirs is None:
        return "undecided"
    # surplus = quality - (1 - relative) · AR where higher is better, and its mirror image where lower is.
    sign = 1.0 if allowance.higher_is_better else -1.0
    low, high = _combine(quality.value, mine, ar.value, theirs, 1.0 - sign * allowance.relative)
    worst, best = (low, high) if allowance.higher_is_better else (-high, -low)
    if worst >= -allowance.absolute:
        return "proven"
    return "worse" if best < -allowance.absolute else "undecided"


def difference(value: Value, reference: Value) -> Value:
    """value - reference of two independent samples: the price of an approximate cache, say.

    From the two intervals, each side's arms squared and added (Zou and Donner 2008; for shares with Wilson intervals
    it is method 10 of Newcombe 1998). It has a level only where both have the same. Texts behind the same prompts vary
    together, which makes this interval too wide rather than too narrow.
    """
    if value.value is None or reference.value is None:
        return Value(value=None, why=value.why if value.value is None else reference.why)
    n, centre = min(value.n, reference.n), value.value - reference.value
    mine, theirs = _bounds(value), _bounds(reference)
    if mine is None or theirs is None:
        return Value(value=centre, n=n, why="one of the two has no interval")
    level = value.level if value.level == reference.level else None
    low, high = _combine(value.value, mine, reference.value, theirs, 1.0)
    return Value(value=centre, low=low, high=high, n=n, level=level)


def widening(n: int, among: int) -> float:
    """How much longer the arms of a t interval of n values are at level 1 - 0.05 / among."""
    freedom = max(n - 1, 1)
    return t_quantile(freedom, 1 - (1 - LEVEL) / among) / t_quantile(freedom)


def _bounds(value: Value) -> _Bounds | None:
    return None if value.low is None or value.high is None else (value.low, value.high)


def _at_level(value: Value, estimate: Estimate, among: int) -> _Bounds | None:
    bounds = _bounds(value)
    if value.value is None or bounds is None or value.level != LEVEL:
        return None
    if estimate == "share":
        return wilson(value.value * value.n, value.n, 1 - (1 - LEVEL) / among)
    factor = widening(value.n, among)
    return value.value - factor * (value.value - bounds[0]), value.value + factor * (bounds[1] - value.value)


def _combine(x: float, x_bounds: _Bounds, y: float, y_bounds: _Bounds, weight: float) -> _Bounds:
    """Interval of x - weight · y, weight above 0, from the intervals of x and y."""
    centre = x - weight * y
    low = centre - math.hypot(x - x_bounds[0], weight * (y_bounds[1] - y))
    return low, centre + math.hypot(x_bounds[1] - x, weight * (y - y_bounds[0]))
