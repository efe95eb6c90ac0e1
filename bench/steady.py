"""When a cell has warmed up: the medians of two consecutive windows of samples agree; and when it drifts afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np


def windows_agree(values: Sequence[float], window: int, tolerance: float = 0.05) -> bool:
    """Whether the medians of the last two windows differ by less than `tolerance` or than the noise inside them."""
    if len(values) < 2 * window:
        return False
    before, after = values[-2 * window : -window], values[-window:]
    shift = abs(median(after) / median(before) - 1)
    noise = max(max(part) / min(part) - 1 for part in (before, after))
    return shift < max(tolerance, min(noise, 0.5))


def drift(values: Sequence[float], least: float = 0.05) -> float | None:
    """By how much a series moved, the median of its last third over that of its first, minus 1; None if it stayed.

    It moved if that is more than `least` and if its course in up to twelve stretches, each by its median, rises or
    falls as chance would make it do once in a thousand (Kendall's tau against time, its normal law). Stretches, since
    neighbours in a series are alike; fewer than nine values cannot show it.
    """
    n = len(values)
    if n < 9:
        return None
    course = np.array([median(part) for part in np.array_split(np.asarray(values), min(n, 12))])
    size = len(course)
    concordance = float(np.sign(course[None, :] - course[:, None])[np.triu_indices(size, 1)].sum())
    z = concordance / math.sqrt(size * (size - 1) * (2 * size + 5) / 18)
    third = n // 3
    change = median(values[-third:]) / median(values[:third]) - 1
    return change if abs(z) > 3.29 and abs(change) > least else None


def beside_peers(own: Mapping[int, float], peers: Sequence[Mapping[int, float]]) -> list[float]:
    """A series by round, each value over the geometric mean of its peers' in the same round, all in units of their own
    medians. What moves the whole machine moves all of them; what is left is this one's own. Empty without peers."""
    scales = [median(values.values()) for values in peers if values]
    others = [values for values in peers if values]
    if not own or not others:
        return []
    scale, found = median(own.values()), []
    for number, value in own.items():
        beside = [values[number] / s for values, s in zip(others, scales, strict=True) if number in values]
        if beside:
            found.append(value / scale / math.exp(sum(map(math.log, beside)) / len(beside)))
    return found
