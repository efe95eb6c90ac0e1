"""The statistics of a benchmark: intervals within a process, intervals over processes, interpolation.

Samples of one process are correlated, so within a process the interval of the median uses an effective sample size; it
steers sampling and is never given a confidence level. What is printed with a level is an interval over processes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from ..profiles.record import Value

LEVEL = 0.95
MIN_PROCESSES = 5


def effective_size(values: Sequence[float]) -> float:
    """Effective number of independent samples, n (1 - r) / (1 + r) with r the lag-1 autocorrelation in [0, 0.95].

    The formula is exact for a first-order autoregressive process (Bayley and Hammersley 1946).
    """
    series = np.asarray(values, dtype=float)
    if series.size < 4:
        return float(series.size)
    centred = series - series.mean()
    power = float(centred @ centred)
    r = float(centred[1:] @ centred[:-1]) / power if power > 0 else 0.0
    r = min(max(r, 0.0), 0.95)
    return max(2.0, series.size * (1 - r) / (1 + r))


def median_half_width(values: Sequence[float]) -> float | None:
    """Relative half-width of the 95 % interval of the median of positive values of one process; None below three.

    Normal theory on the logarithms: t x 1.2533 s / sqrt(n_eff), s by the median absolute deviation or, where over half
    of the values coincide, the standard deviation. 1.2533 = sqrt(pi / 2) is the median's standard-error factor.
    """
    if len(values) < 3:
        return None
    if min(values) == max(values):
        return 0.0
    logs = np.log(np.asarray(values, dtype=float))
    # 1.4826 makes the median absolute deviation estimate a normal distribution's standard deviation.
    spread = 1.4826 * float(np.median(np.abs(logs - np.median(logs)))) or float(logs.std(ddof=1))
    size = effective_size(list(logs))
    quantile = _t_quantile(max(size - 1, 1))
    return quantile * math.sqrt(math.pi / 2) * spread / math.sqrt(size)


def _t_quantile(freedom: float) -> float:
    """Two-sided quantile of Student's t at LEVEL, with `freedom` degrees of freedom."""
    from scipy.special import stdtrit  # a quarter of a second, which every worker would pay at its start

    return float(stdtrit(freedom, 0.5 + LEVEL / 2))


def within_process(values: Sequence[float]) -> tuple[float, float] | None:
    """The interval of the median of one process's values: see `median_half_width`; their range where there are two."""
    width = median_half_width(values) if min(values) > 0 else None
    if width is not None:
        centre = float(np.median(values))
        return centre * math.exp(-width), centre * math.exp(width)
    return (min(values), max(values)) if len(values) > 1 else None


def over_processes(values: Sequence[float], within: tuple[float, float] | None = None) -> Value:
    """One value a process -> the metric's value with its interval.

    Positive values: geometric mean with a t interval on the logarithms; otherwise the mean with a t interval. With
    fewer than five processes the interval is their range, or `within` for a single one: no level.
    """
    data = np.asarray(values, dtype=float)
    if not data.size:
        return Value(value=None, why="no process gave a value")
    if data.size == 1:
        low, high = within or (None, None)
        why = None if within else "one sample in one process: no interval"
        return Value(value=float(data[0]), low=low, high=high, n=1, why=why)
    if (data == data[0]).all():
        # Counters repeat exactly; logarithms would blur the last digit.
        same, level = float(data[0]), LEVEL if data.size >= MIN_PROCESSES else None
        return Value(value=same, low=same, high=same, n=data.size, level=level)
    logs = bool((data > 0).all())
    points = np.log(data) if logs else data
    centre = float(points.mean())

    def back(x: float) -> float:
        return math.exp(x) if logs else x

    if data.size >= MIN_PROCESSES:
        half = _t_quantile(data.size - 1) * float(points.std(ddof=1)) / math.sqrt(data.size)
        return Value(value=back(centre), low=back(centre - half), high=back(centre + half), n=data.size, level=LEVEL)
    return Value(value=back(centre), low=float(data.min()), high=float(data.max()), n=data.size)


def crossing(x: Sequence[float], y: Sequence[float], level: float) -> float | None:
    """The x at which y, interpolated in log x and log y between points sorted by x, first crosses `level`.

    None where it does not cross between the smallest and the largest x.
    """
    points = sorted(zip(x, y, strict=True))
    target = math.log(level)
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        low, high = math.log(y0) - target, math.log(y1) - target
        if low == 0:
            return x0
        if low * high < 0:
            share = low / (low - high)
            return math.exp(math.log(x0) + share * (math.log(x1) - math.log(x0)))
    if points and math.log(points[-1][1]) == target:
        return points[-1][0]
    return None
