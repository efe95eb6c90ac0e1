"""What the harness can tell on this machine: `dlmbench doctor --self-test`.

Four questions, each answered with its interval. Does the host's clock keep time? What does observing a generation cost?
How often would the gate call two equal programs different, and how often would it find a slowdown of known size? For
the last two, pairs of fresh processes are measured as a gate measures them, with nothing planted and with a busy-wait
(see `planted`); gates are then drawn again from those pairs, looks and all. The intervals of their shares come from
drawing the recorded pairs themselves again: a few dozen pairs know a machine only so well.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console

from ... import InputError
from ...models.names import MASKED_DIFFUSION
from ...profiles.gate import Policy
from ...profiles.host import read_timer
from ...profiles.quality.intervals import wilson
from ...profiles.record import Cell, Value
from ..progress import Progress
from ..statistics import LEVEL, median_half_width
from .arrays import FAIL, statistics, verdicts
from .evidence import paired_evidence
from .learned import ratio_matrix
from .measure import PairBench, gate_job
from .noise import drawn_again
from .planted import Planted
from .simulate import BASE_S
from .study import planted_plan, planted_sides
from .trimmed import Floats, trimmed

GATES, DRAWS, ROUNDS = 1000, 200, 200
_METRIC = "latency_s"


@dataclass(frozen=True, slots=True)
class Pairs:
    """Log-ratios [pairs, cells] of head over base, and the cells' keys."""

    keys: tuple[str, ...]
    log_ratios: Floats


@dataclass(frozen=True, slots=True)
class Answer:
    """One line of the self-test: a quantity with its interval (95 %), its unit, and what it means. `warning`: what is
    wrong with it, if something is."""

    name: str
    value: Value
    unit: str
    meaning: str
    warning: str | None = None


def self_test(pairs: int, slowdown: float, said: Callable[[str], None]) -> list[Answer]:
    """Examine the harness on this machine; `said` is told in a line what is being done.

    Raises InputError where the workers do not do their work.
    """
    begin = time.monotonic(), time.clock_gettime(time.CLOCK_MONOTONIC_RAW) if _RAW else 0.0
    said("observer: one generation with and without it, in turn")
    answers = [observer_cost()]
    equal = measure_pairs(Planted(), pairs, said)
    planted = measure_pairs(Planted(slowdown, MASKED_DIFFUSION), pairs, said)
    said(f"drawing {GATES} gates again, {DRAWS} times")
    answers += judged(equal, planted, slowdown, Policy())
    return [*timer(begin), *answers]


_RAW = hasattr(time, "CLOCK_MONOTONIC_RAW")


def timer(begin: tuple[float, float]) -> list[Answer]:
    """The host clock's grain and price, and how far its rate is from the clock that nobody disciplines, since `begin`
    (both clocks' readings then)."""
    read = read_timer()
    answers = [
        Answer("timer resolution", Value(value=read["resolution_s"], n=1), "s", "the least step that the clock shows"),
        Answer("timer overhead", Value(value=read["overhead_s"], n=1), "s", "one reading of the clock"),
    ]
    if _RAW:
        spent = time.monotonic() - begin[0]
        raw = time.clock_gettime(time.CLOCK_MONOTONIC_RAW) - begin[1]
        error = spent / raw - 1
        # The kernel slews a clock by at most 500 parts in a million.
        wrong = "the system's clock is being corrected fast: measure when it has settled" if abs(error) > 6e-4 else None
        meaning = f"the clock's rate against the raw one, over {spent:.0f} s"
        answers.append(Answer("timer error", Value(value=error, n=1), "1", meaning, wrong))
    return answers


def observer_cost() -> Answer:
    """A generation of suite `ci` with the recorder, over the same without it, minus 1."""
    from ..counting import Counting  # imports torch
    from ..forecast import one_thread

    _, plan = planted_plan(0)
    cell = plan.pairings[0].cells[-1]
    ratios = []
    with one_thread():  # as the workers of this plan
        opened, _ = Counting(plan).counted(cell)
        opened.warm_up(limit_s=1.0, hard_limit_s=30.0)
        for number in range(ROUNDS):
            spent: dict[bool, float] = {}
            for watched in (True, False) if number % 2 == 0 else (False, True):
                if watched:
                    trace, _ = opened.generate(number, seed=number)
                    spent[watched] = trace.latency_s
                else:
                    prompt = opened.request(number, seed=number)
                    begin = time.perf_counter()
                    opened.run(prompt)
                    spent[watched] = time.perf_counter() - begin
            ratios.append(spent[True] / spent[False])
    middle, half = median(ratios), median_half_width(ratios) or 0.0
    low, high = (middle * math.exp(sign * half) - 1 for sign in (-1, 1))
    value = Value(value=middle - 1, low=low, high=high, n=ROUNDS)
    return Answer(
        "observer's cost",
        value.model_copy(update={"level": LEVEL}),
        "1",
        f"{cell.key}: a generation observed as timed samples are, over one that is not, minus 1; {ROUNDS} rounds",
        "it costs more than 2 %: do not compare cells of so few milliseconds here" if (value.low or 0) > 0.02 else None,
    )


def measure_pairs(planted: Planted, count: int, said: Callable[[str], None]) -> Pairs:
    """Pairs of fresh processes that run this dlmbench on both sides, with what is planted at head."""
    _, plan = planted_plan(0)
    cells: list[Cell] = [cell for pairing in plan.pairings for cell in pairing.cells]
    base, head = planted_sides(planted)
    trials: dict[str, list[Any]] = {"base": [], "head": []}
    what = f"{planted.slowdown:.0%} planted in one cell" if planted.where else "equal programs"
    with tempfile.TemporaryDirectory(prefix="dlmbench-self-test-") as folder:
        quiet = Progress(Console(file=sys.stderr), quiet=True)
        with PairBench(gate_job(plan, Path(folder)), {"base": base, "head": head}, quiet) as bench:
            for number in range(count):
                said(f"{what}: pair {number + 1} of {count}")
                for side, found in bench.measure(number, more=number + 1 < count).items():
                    trials[side] += found
    evidence = paired_evidence(cells, trials["base"], trials["head"], [_METRIC])
    spoiled = next((cell for cell in evidence if cell.spoiled is not None), None)
    if spoiled is not None:
        raise InputError(f"self-test: {spoiled.key} could not be measured ({spoiled.spoiled and spoiled.spoiled[1]})")
    ratios = ratio_matrix(f"self-test: {_METRIC}", [cell.timed[0] for cell in evidence])
    return Pairs(tuple(cell.key for cell in evidence), ratios)


def judged(equal: Pairs, planted: Pairs, slowdown: float, policy: Policy, seed: int = 0) -> list[Answer]:
    """What the recorded pairs say of the gate: the noise, false alarms, the slowdown seen, and the power to find it."""
    here = trimmed(equal.log_ratios.T)
    spread = here.error * np.sqrt(len(equal.log_ratios))
    noisiest = int(np.argmax(spread))
    where = next(number for number, key in enumerate(planted.keys) if Planted(slowdown, MASKED_DIFFUSION).is_in(key))
    seen = trimmed(planted.log_ratios[:, where])
    low, high = (float(np.expm1(bound)) for bound in seen.interval(LEVEL))
    change = Value(value=float(np.expm1(seen.estimate)), low=low, high=high, n=len(planted.log_ratios), level=LEVEL)
    # Only of equal programs may the sides be exchanged.
    alarms = _failing(equal.log_ratios, policy, seed, swap=True)
    found = _failing(planted.log_ratios, policy, seed, swap=False)
    pairs = len(equal.log_ratios)
    return [
        Answer(
            "noise of a pair",
            Value(value=float(spread[noisiest]), n=pairs),
            "1",
            f"robust standard deviation of a pair's log-ratio, equal programs, in {equal.keys[noisiest]}",
            "above 2 %: a gate here needs more looks or wider margins (dlmbench gate --learn-margins)"
            if spread[noisiest] > 0.02
            else None,
        ),
        Answer(
            "false alarms",
            alarms,
            "1",
            f"gates of equal programs that FAIL, drawn again from {pairs} pairs; promised: at most {policy.alpha:.0%}",
            "more than alpha: no FAIL here can be believed" if (alarms.low or 0.0) > policy.alpha else None,
        ),
        Answer(
            "slowdown seen",
            change,
            "1",
            f"where {slowdown:.1%} were planted, in {planted.keys[where]}",
            "the interval does not hold what was planted" if not low <= slowdown <= high else None,
        ),
        Answer(
            "detection power",
            found,
            "1",
            f"gates that find these {slowdown:.1%} in one cell, drawn again from {len(planted.log_ratios)} pairs",
            "below nine of ten: this machine needs more looks to find it" if (found.value or 0.0) < 0.9 else None,
        ),
    ]


def _failing(rows: Floats, policy: Policy, seed: int, *, swap: bool) -> Value:
    """The share of gates that FAIL, drawn from recorded pairs. Its interval is that of pairs drawn again from them, and
    at least Wilson's of as many gates as were drawn: none of a thousand is not none at all."""
    random = np.random.default_rng(seed)

    def share(pairs: Floats, gates: int) -> float:
        ratios = drawn_again(pairs, gates, policy.looks[-1], random, swap=swap)
        return verdicts(statistics(ratios, policy.looks), policy, BASE_S).share(FAIL)

    again = [share(rows[random.integers(0, len(rows), len(rows))], GATES // 5) for _ in range(DRAWS)]
    low, high = np.quantile(again, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    value = share(rows, GATES)
    least, most = wilson(value * GATES, GATES)
    return Value(value=value, low=min(float(low), least), high=max(float(high), most), n=len(rows), level=LEVEL)
