"""Intervals over texts, which are independent of each other; the tokens of one text are not."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from ..record import Value
from .texts import Floats

LEVEL = 0.95
DRAWS = 1000
ONE_TEXT = "one text: no interval"


def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """Two-sided quantile of Student's t."""
    from scipy.special import stdtrit  # a quarter of a second, which every worker would pay at its start

    return float(stdtrit(freedom, 0.5 + level / 2))


def wilson(count: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Score interval of a share of n independent trials (Wilson 1927); it stays inside [0, 1] and is never empty."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = count / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At 0 and at n the formula gives the end of the range exactly; rounding would miss it by 1e-17.
    return (0.0 if count <= 0 else centre - half), (1.0 if count >= n else centre + half)


def share(count: int, n: int) -> Value:
    """A share of n texts with its Wilson interval."""
    low, high = wilson(count, n)
    return Value(value=count / n, low=low, high=high, n=n, level=LEVEL)


def mean(values: Floats, why: str = ONE_TEXT) -> Value:
    """The mean of independent values [n] with a t interval; `why` there is none for n = 1."""
    return ratio(values, np.ones_like(values), why)


def ratio(sums: Floats, sizes: Floats, why: str = ONE_TEXT) -> Value:
    """Sum of `sums` [N] over sum of `sizes` [N], a text each: a mean over tokens, with an interval over texts.

    Linearised ratio estimator (Cochran 1977, section 6.4): standard error sqrt(N / (N - 1) · Σ (y - R x)²) / Σ x, with
    Student's t for N - 1. It needs no resampling, is the usual t interval where all texts have one length and, unlike a
    formula over tokens, remains right where the tokens of a text depend on each other.
    """
    n, total = len(sums), float(sizes.sum())
    value = float(sums.sum()) / total
    if n < 2:
        return Value(value=value, n=n, why=why)
    residual = sums - value * sizes
    half = t_quantile(n - 1) * math.sqrt(n / (n - 1) * float(residual @ residual)) / total
    return Value(value=value, low=value - half, high=value + half, n=n, level=LEVEL)


def shown(value: Value) -> str:
    """A value in a sentence: "0.93 [0.91, 0.95]"."""
    interval = "" if value.low is None or value.high is None else f" [{value.low:.3g}, {value.high:.3g}]"
    return f"{value.value:.3g}{interval}"


def transformed(value: Value, by: Callable[[float], float]) -> Value:
    """A value seen through a rising function, which carries the bounds of an interval over."""
    if value.value is None or value.low is None or value.high is None:
        return value.model_copy(update={"value": None if value.value is None else by(value.value)})
    return value.model_copy(update={"value": by(value.value), "low": by(value.low), "high": by(value.high)})


def reflected(counts: Floats, statistic: Callable[[Floats], Floats], seed: int) -> tuple[float, float]:
    """Basic bootstrap interval over texts of a statistic of pooled counts: counts [N, M], pooled [draws, M] -> [draws].

    [2 x - x*(high), 2 x - x*(low)], with x* the statistic of N texts drawn again from the N (Davison and Hinkley 1997,
    section 5.2). A plug-in entropy or divergence is biased, and a redrawn sample is biased once more by as much, so the
    reflection takes the bias out where a percentile interval would double it.
    """
    n = len(counts)
    again = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(np.float64)
    centre = float(statistic(counts.sum(axis=0)[None, :])[0])
    low, high = np.quantile(statistic(again @ counts), [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return 2 * centre - float(high), 2 * centre - float(low)
