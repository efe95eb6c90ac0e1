"""Quantiles of independent requests with intervals that assume nothing of their distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..record import Value

LEVEL = 0.95


def quantile(values: Sequence[float], q: float, level: float = LEVEL) -> Value:
    """The q-quantile of values [n] and the interval between two order statistics.

    The number of values below the true quantile is binomial (n, q), so that the interval from the order statistic of
    rank binom(alpha / 2) to that of rank binom(1 - alpha / 2) + 1 holds it with at least the level (David and Nagaraja
    2003, section 7.1). Where a rank lies outside 1 … n there is no such interval, and `why` says how many would do.
    """
    from scipy.stats import binom

    n = len(values)
    if not n:
        return Value(value=None, why="no request gave a value")
    data = np.sort(np.asarray(values, dtype=float))
    value = float(np.quantile(data, q))
    low = int(binom.ppf((1 - level) / 2, n, q))
    high = int(binom.ppf((1 + level) / 2, n, q)) + 1
    if low < 1 or high > n:
        why = f"{n} requests: an interval of p{100 * q:g} needs {needed(q, level)}"
        return Value(value=value, n=n, why=why)
    return Value(value=value, low=float(data[low - 1]), high=float(data[high - 1]), n=n, level=level)


def needed(q: float, level: float = LEVEL) -> int:
    """The fewest values whose q-quantile has an interval with two ends."""
    tail = (1 - level) / 2
    # The largest of n lies below the quantile with probability q^n, the smallest above it with (1 - q)^n.
    return max(math.floor(math.log(tail) / math.log(max(q, 1 - q))) + 1, 2)
