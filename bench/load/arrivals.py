"""When the requests of an open loop are due: drawn in advance, and independent of what becomes of them."""

from __future__ import annotations

import math
import random

from ...profiles.serving.record import Load


def due_times(load: Load, seconds: float, ramp_s: float, requests: int | None, seed: str) -> list[float]:
    """Seconds since the window began at which requests are due, rising; the first `ramp_s` raise the rate from 0.

    `poisson`: independent exponential gaps; `constant`: equal ones. It ends after `ramp_s + seconds`, or after
    `requests` requests that are due after the ramp.
    """
    draw = random.Random(seed)
    found: list[float] = []
    # In units of the expected number of requests: the rate's integral, t^2 / (2 r) in a ramp of length r, then linear.
    mass, after = 0.0, 0
    while True:
        mass += draw.expovariate(1.0) if load.kind == "poisson" else 1.0
        at = _time(mass / load.value, ramp_s)
        if at > ramp_s + seconds or (requests is not None and after == requests):
            return found
        found.append(at)
        after += at >= ramp_s


def _time(area: float, ramp_s: float) -> float:
    """The time by which a rate that rises to 1 over `ramp_s` and stays there has covered `area`."""
    if area <= ramp_s / 2:
        return math.sqrt(2 * ramp_s * area)
    return area + ramp_s / 2
