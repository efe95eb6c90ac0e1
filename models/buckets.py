"""How many live slots the compiled and captured decode steps of a cache have: one function each. Arithmetic only."""

from __future__ import annotations

_LEAST = 256


def decode_buckets(capacity: int) -> list[int]:
    """Live slots of each decode step, ascending: they double from 256 to the whole cache, so that at most half of the
    keys read are dead, and few functions are made.

    >>> decode_buckets(1000)
    [256, 500, 1000]
    """
    bounds = [capacity]
    while bounds[-1] > _LEAST:
        bounds.append(max(_LEAST, -(-bounds[-1] // 2)))
    return bounds[::-1]
