"""Steps in a series: the optimum against every partition, the arithmetic by hand, false alarms by simulation."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from statistics import median

import pytest
from scipy.special import betaincinv

from dlmbench.reports.steps import ALPHA, FLOOR, LEAST, find_steps, noise_of, penalty


def places(values: list[float], errors: list[float | None] | None = None) -> list[int]:
    return [step.at for step in find_steps(values, errors or []).steps]


def test_the_noise_by_hand() -> None:
    # differences 0.01, 0.01, 0.02: median 0.01; 1.4826 / sqrt(2) = 1.04836
    assert noise_of([0.0, 0.01, 0.0, 0.02]) == pytest.approx(0.0104836, rel=1e-4)


def test_the_penalty_by_hand() -> None:
    # sqrt(pi / 2) = 1.253314; ln(20 / 0.05) = ln 400 = 5.991465; 1 + 3 / 20 = 1.15
    assert penalty(20, 0.05) == pytest.approx(1.253314 * 5.991465 * 1.15, rel=1e-6)


def test_a_clean_step_by_hand() -> None:
    fit = find_steps([2.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0])
    assert [(level.begin, level.end) for level in fit.levels] == [(0, 4), (4, 8)]
    assert [level.value for level in fit.levels] == pytest.approx([2.0, 3.0])
    (step,) = fit.steps
    assert (step.at, step.change) == (4, pytest.approx(0.5))
    # seven differences, six of them 0: the noise is the floor; half-width 1.96 sqrt(pi / 2 x (1/4 + 1/4)) x 1e-4
    assert fit.noise == FLOOR
    half = 1.96 * math.sqrt(math.pi / 4) * 1e-4
    assert step.high == pytest.approx(1.5 * math.exp(half) - 1)
    assert step.low == pytest.approx(1.5 * math.exp(-half) - 1)


def test_a_counter_without_noise_shows_any_real_change_and_no_rounding() -> None:
    assert places([16.0] * 6 + [12.0] * 5) == [6]
    assert places([16.0] * 6 + [16.0 * (1 + 1e-9)] * 5) == []


@pytest.mark.parametrize("seed", range(12))
def test_no_partition_is_cheaper(seed: int) -> None:
    draw = random.Random(seed)
    n = draw.randint(8, 16)
    logs = [draw.gauss(0, 0.01) + (0.08 if i >= n // 2 else 0.0) for i in range(n)]
    errors = [draw.choice([None, 0.005, 0.03]) for _ in range(n)]
    noise = noise_of(logs)
    scales = [max(noise, error or 0.0) for error in errors]

    def cost(begin: int, end: int) -> float:
        # The best level is one of the values: the sum is piecewise linear with kinks there.
        return min(sum(abs(logs[i] - m) / scales[i] for i in range(begin, end)) for m in logs[begin:end])

    def total(cuts: tuple[int, ...]) -> float:
        ends = (0, *cuts, n)
        return sum(itertools.starmap(cost, itertools.pairwise(ends))) + len(cuts) * penalty(n)

    allowed = [
        cuts
        for count in range(n // LEAST)
        for cuts in itertools.combinations(range(1, n), count)
        if all(end - begin >= LEAST for begin, end in itertools.pairwise((0, *cuts, n)))
    ]
    found = tuple(step.at for step in find_steps([math.exp(y) for y in logs], errors).steps)
    assert total(found) == pytest.approx(min(map(total, allowed)))


@pytest.mark.parametrize("at", [0, 1, 7, 14, 17, 18])
@pytest.mark.parametrize("length", [1, 2])
def test_a_short_blip_is_no_step_wherever_it_is(at: int, length: int) -> None:
    draw = random.Random(3)
    values = [math.exp(draw.gauss(0, 0.01)) for _ in range(20)]
    for i in range(at, min(at + length, 20)):
        values[i] *= 2
    assert places(values) == []


def test_a_run_that_knows_itself_badly_counts_for_less() -> None:
    values, errors = [1.0, 1.3] * 5, [0.001, 10.0] * 5
    (level,) = find_steps(values, errors).levels
    assert level.value == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("values", "words"),
    [([], "no value"), ([1.0, 0.0], "positive"), ([1.0, -1.0], "positive"), ([1.0, math.inf], "positive")],
)
def test_what_cannot_be_searched_says_so(values: list[float], words: str) -> None:
    fit = find_steps(values)
    assert fit.steps == ()
    assert words in (fit.why or "")


def test_few_runs_have_one_level_and_a_reason() -> None:
    fit = find_steps([1.0, 2.0, 4.0])
    assert fit.steps == ()
    assert [level.value for level in fit.levels] == pytest.approx([2.0])
    assert fit.why == "3 of the 8 values that a search for steps needs"


def clean(draw: random.Random) -> float:
    return draw.gauss(0, 0.01)


def dirty(draw: random.Random) -> float:
    return draw.gauss(0, 0.01) + (draw.expovariate(1 / 0.08) if draw.random() < 0.05 else 0.0)


@pytest.mark.parametrize(("noise", "n"), [(clean, 8), (clean, 20), (dirty, 20)])
def test_noise_alone_makes_a_step_more_rarely_than_alpha(noise: Callable[[random.Random], float], n: int) -> None:
    draw, trials = random.Random(11), 400
    alarms = sum(bool(places([math.exp(noise(draw)) for _ in range(n)])) for _ in range(trials))
    # Clopper and Pearson: the rates above this bound would give so few alarms in fewer than 1 of 100 such tests.
    bound = float(betaincinv(alarms + 1, trials - alarms, 0.99))
    assert bound <= ALPHA, alarms


def test_a_step_of_five_times_the_noise_is_found_within_ten_runs() -> None:
    draw, trials, found = random.Random(5), 100, 0
    for _ in range(trials):
        values = [math.exp(clean(draw) + (0.05 if i >= 15 else 0.0)) for i in range(25)]
        steps = find_steps(values).steps
        found += len(steps) == 1 and abs(steps[0].at - 15) <= 1 and abs(math.log1p(steps[0].change) - 0.05) < 0.02
    assert float(betaincinv(found, trials - found + 1, 0.01)) >= 0.8, found  # lower 99 % bound


def test_the_level_is_the_median_of_its_runs() -> None:
    values = [1.0, 1.1, 0.9, 1.05, 0.95, 1.02, 0.98, 1.01, 1.5]
    (level,) = find_steps(values).levels
    assert level.value == pytest.approx(median(values))
