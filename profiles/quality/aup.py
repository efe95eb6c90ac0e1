"""AUP, accuracy under parallelism: one number for a curve of quality over tokens per forward."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

from ... import InputError

_ALPHA = 3.0
_DROP = 5.0


@dataclass(frozen=True, slots=True)
class Aup:
    """`value` in per cent · tokens per forward; the points, (tokens per forward, quality in %), kept and left out."""

    value: float
    kept: tuple[tuple[float, float], ...]
    dropped: tuple[tuple[float, float], ...]


def aup(points: Iterable[tuple[float, float]], y_max: float) -> Aup:
    """Accuracy under parallelism (d3LLM, Qian et al. 2026, and its leaderboard's code) of one generator's points.

    points: (rho, y), tokens per forward and quality in per cent, sorted here by rho; y_max: the best y of *all*
    generators on the task, in per cent. Points with y below y_1 - 5 are left out; then, with
    W = min(exp(-3 (1 - y / y_max)), 1),

        AUP = rho_1 y_1 + Σ_{i >= 2} (rho_i - rho_{i-1}) (y_i W_i + y_{i-1} W_{i-1}) / 2

    What it hides: it moves when a competitor with a better y_max is added; it takes every forward to cost the same,
    whether over one token with a cache or over a whole canvas; its first term carries no weight, so that a bad but
    parallel first point scores; an AR generator scores its accuracy and no more, however fast its forwards; most
    published curves have two points. The leaderboard refuses a curve whose last point is more than 5 below the first;
    here that point is left out.

    Raises InputError for no points, rho not above 0, or y outside 0..100.
    """
    ordered = sorted(points)
    if not ordered:
        raise InputError("AUP: no points; give at least one pair of tokens per forward and quality in per cent")
    if not 0 < y_max <= 100:
        raise InputError(f"AUP: y_max must lie above 0 and at most at 100 per cent, found {y_max:g}")
    for rho, y in ordered:
        if not (math.isfinite(rho) and rho > 0 and 0 <= y <= 100):
            raise InputError(f"AUP: point ({rho:g}, {y:g}): give tokens per forward above 0 and quality in 0..100 %")
    floor = ordered[0][1] - _DROP
    kept = tuple(point for point in ordered if point[1] >= floor)
    weighted = [(rho, y * min(math.exp(-_ALPHA * (1 - y / y_max)), 1.0)) for rho, y in kept]
    area = sum((r1 - r0) * (w1 + w0) / 2 for (r0, w0), (r1, w1) in itertools.pairwise(weighted))
    return Aup(kept[0][0] * kept[0][1] + area, kept, tuple(point for point in ordered if point[1] < floor))
