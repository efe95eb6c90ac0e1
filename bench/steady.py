"""When a cell has warmed up: the medians of two consecutive windows of samples agree."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median


def windows_agree(values: Sequence[float], window: int, tolerance: float = 0.05) -> bool:
    """Whether the medians of the last two windows differ by less than `tolerance` or than the noise inside them."""
    if len(values) < 2 * window:
        return False
    before, after = values[-2 * window : -window], values[-window:]
    shift = abs(median(after) / median(before) - 1)
    noise = max(max(part) / min(part) - 1 for part in (before, after))
    return shift < max(tolerance, min(noise, 0.5))
