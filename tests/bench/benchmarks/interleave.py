"""Two programs compared on a machine that drifts: they take turns, and each round gives one ratio.

Variants run in rounds A B C, C B A, A B C, …: a slow drift falls on all of them alike, and a neighbour that wakes up
spoils one round's ratio rather than one variant's times. What is reported is the median of the rounds' ratios with
their quartiles, never a quotient of times that were measured minutes apart.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Variant = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Quartiles:
    """Median and quartiles of one number a round."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Quartiles:
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))


@dataclass(slots=True)
class Rounds:
    """What every variant took (seconds) and returned, one entry a round."""

    times: dict[str, list[float]] = field(default_factory=dict)
    results: dict[str, list[Any]] = field(default_factory=dict)

    def ratio(self, slower: str, faster: str) -> Quartiles:
        """How many times as long `slower` took as `faster`, round by round."""
        pairs = zip(self.times[slower], self.times[faster], strict=True)
        return Quartiles.of(above / below for above, below in pairs)


def interleave(benchmark: Any, variants: Mapping[str, Variant], rounds: int, warm_up: int = 1) -> Rounds:
    """Run the variants in `rounds` palindromic rounds; the last of them is the one that pytest-benchmark lists.

    Its rivals run in the set-up of even rounds and in the clean-up of odd ones. Every variant runs `warm_up` times
    before that. All times go to the benchmark's `extra_info`.
    """
    *rivals, target = variants
    taken = Rounds({name: [] for name in variants}, {name: [] for name in variants})
    for name in [*variants] * warm_up:
        variants[name]()
    # What lives by now stays: without it, the collection before each visit would take longer than many a visit.
    gc.collect()
    gc.freeze()

    def visit(name: str) -> None:
        begin = time.perf_counter()
        result = variants[name]()
        taken.times[name].append(time.perf_counter() - begin)
        taken.results[name].append(result)

    def visit_rivals(names: Iterable[str]) -> None:
        for name in names:
            gc.collect()
            visit(name)

    def before() -> None:
        if len(taken.times[target]) % 2 == 0:
            visit_rivals(rivals)
        gc.collect()

    def after() -> None:
        if len(taken.times[target]) % 2 == 0:
            visit_rivals(reversed(rivals))

    try:
        benchmark.pedantic(visit, args=(target,), setup=before, teardown=lambda _: after(), rounds=rounds)
    finally:
        gc.unfreeze()
    benchmark.extra_info["times_s"] = taken.times
    return taken
