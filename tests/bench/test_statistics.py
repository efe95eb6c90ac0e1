"""Intervals and interpolation against closed forms, hand arithmetic and simulation with fixed seeds."""

from __future__ import annotations

import math
import random
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlmbench.bench.statistics import (
    LEVEL,
    crossing,
    effective_size,
    median_half_width,
    over_processes,
    within_process,
)
from dlmbench.bench.steady import beside_peers, drift, windows_agree

positive = st.floats(min_value=1e-6, max_value=1e6)


def autoregressive(size: int, coefficient: float, seed: int) -> list[float]:
    """x[i] = coefficient x[i-1] + e[i], started in its stationary distribution."""
    random = np.random.default_rng(seed)
    noise = random.standard_normal(size)
    series = [noise[0] / math.sqrt(1 - coefficient**2)]
    for e in noise[1:]:
        series.append(coefficient * series[-1] + e)
    return [float(x) for x in series]


def test_independent_values_all_count() -> None:
    # The lag-1 correlation of 4000 independent values has standard deviation 1 / sqrt(4000) = 0.016, the ratio twice.
    assert effective_size(autoregressive(4000, 0.0, seed=1)) == pytest.approx(4000, rel=0.1)


@pytest.mark.parametrize("coefficient", [0.3, 0.5, 0.8])
def test_correlated_values_count_as_the_closed_form_says(coefficient: float) -> None:
    # n (1 - r) / (1 + r): 0.538, 0.333 and 0.111 of n.
    expected = 20_000 * (1 - coefficient) / (1 + coefficient)
    assert effective_size(autoregressive(20_000, coefficient, seed=2)) == pytest.approx(expected, rel=0.1)


def test_negative_correlation_earns_no_credit() -> None:
    assert effective_size([1.0, 2.0] * 50) == 100


def test_a_trend_leaves_little_but_never_less_than_two() -> None:
    # r is capped at 0.95 however long the trend: 1000 x 0.05 / 1.95 = 25.6.
    assert effective_size([float(i) for i in range(1000)]) == pytest.approx(1000 * 0.05 / 1.95)
    # Centred -1.5, -.5, .5, 1.5: r = (.75 - .25 + .75) / 5 = .25, 4 x .75 / 1.25 = 2.4.
    assert effective_size([1.0, 2.0, 3.0, 4.0]) == pytest.approx(2.4)
    # r is about 1 - 3/40: 40 x .075 / 1.925 = 1.6.
    assert effective_size([float(i) for i in range(40)]) == 2.0


@given(st.lists(positive, max_size=60))
def test_effective_size_lies_between_two_and_n(values: list[float]) -> None:
    size = effective_size(values)
    assert min(2, len(values)) <= size <= len(values)


def test_no_half_width_below_three_values() -> None:
    assert median_half_width([]) is None
    assert median_half_width([1.0, 2.0]) is None
    assert median_half_width([1.0, 2.0, 3.0]) is not None


def test_equal_values_have_no_width() -> None:
    assert median_half_width([0.5] * 10) == 0.0


def test_half_width_by_hand() -> None:
    # Logs -2 … 2: the median absolute deviation is 1, x 1.4826. They rise steadily: lag-1 products 2 + 0 + 0 + 2 = 4
    # of power 10 give r = 0.4, so n_eff = max(2, 5 x 0.6 / 1.4) = 2.143 and t(0.975; 1.143 dof) = 9.2 or so.
    half = median_half_width([math.exp(x) for x in (-2, -1, 0, 1, 2)])
    from scipy import stats

    n = 5 * 0.6 / 1.4
    assert half == pytest.approx(stats.t.ppf(0.975, n - 1) * 1.2533141 * 1.4826022 / math.sqrt(n), rel=1e-5)


def test_half_width_does_not_hide_a_minority_of_outliers() -> None:
    # Over half of the values coincide, so that the median absolute deviation is 0.
    assert (median_half_width([1.0] * 6 + [2.0] * 4) or 0) > 0


@given(st.lists(positive, min_size=3, max_size=20), st.floats(min_value=1e-3, max_value=1e3))
def test_relative_half_width_has_no_unit(values: list[float], unit: float) -> None:
    assert median_half_width([unit * v for v in values]) == pytest.approx(median_half_width(values), rel=1e-6, abs=1e-9)


def test_the_interval_covers_the_median_of_independent_lognormal_values() -> None:
    """1000 intervals of 30 values: binomial standard deviation 0.7 %; the median's factor is asymptotic."""
    random = np.random.default_rng(3)
    covered = 0
    for _ in range(1000):
        values = list(random.lognormal(mean=0.0, sigma=0.3, size=30))
        half = median_half_width(values)
        assert half is not None
        covered += abs(math.log(float(np.median(values)))) <= half
    assert 0.92 <= covered / 1000 <= 0.985


def test_the_interval_stays_honest_for_correlated_values() -> None:
    """At lag-1 correlation 0.5 an interval that counted every value would cover about 75 %."""
    covered = 0
    for seed in range(400):
        values = [math.exp(0.1 * x) for x in autoregressive(100, 0.5, seed)]
        half = median_half_width(values)
        assert half is not None
        covered += abs(math.log(float(np.median(values)))) <= half
    assert covered / 400 >= 0.9


def test_five_processes_by_hand() -> None:
    # Logs 0, .1, .2, .3, .4: mean .2, variance (.04 + .01 + 0 + .01 + .04) / 4 = .025, s = .158114.
    # t(0.975; 4) = 2.776445; half = 2.776445 x .158114 / sqrt(5) = .196325.
    value = over_processes([math.exp(x / 10) for x in range(5)])
    assert value.value == pytest.approx(math.exp(0.2))
    assert value.low == pytest.approx(math.exp(0.2 - 0.196325), rel=1e-5)
    assert value.high == pytest.approx(math.exp(0.2 + 0.196325), rel=1e-5)
    assert (value.n, value.level) == (5, 0.95)


def test_fewer_than_five_processes_show_their_range_and_no_level() -> None:
    value = over_processes([1.0, 2.0, 4.0, 8.0], within=(0.5, 9.0))
    assert value.value == pytest.approx(2 * math.sqrt(2))  # (1 x 2 x 4 x 8)^(1/4) = 64^(1/4)
    assert (value.low, value.high, value.n, value.level) == (1.0, 8.0, 4, None)


def test_one_process_shows_the_interval_within_it_and_no_level() -> None:
    value = over_processes([3.0], within=(1.5, 6.0))
    assert (value.value, value.n, value.level) == (3.0, 1, None)
    assert (value.low, value.high) == (1.5, 6.0)
    alone = over_processes([3.0])
    assert (alone.value, alone.low, alone.high) == (3.0, None, None)
    assert alone.why == "one sample in one process: no interval"


def test_no_value_is_null_with_a_reason_not_zero() -> None:
    value = over_processes([])
    assert value.value is None
    assert value.why


@pytest.mark.parametrize("count", [2, 5])
def test_identical_counters_come_out_exactly(count: int) -> None:
    number = 123_456_789_012_345.0
    value = over_processes([number] * count)
    assert (value.value, value.low, value.high) == (number, number, number)
    assert value.level == (LEVEL if count >= 5 else None)


def test_values_that_reach_zero_are_averaged_without_logarithms() -> None:
    # Mean 2, variance (4 + 1 + 0 + 1 + 4) / 4 = 2.5, half 2.776445 x 1.581139 / 2.236068 = 1.963243.
    value = over_processes([0.0, 1.0, 2.0, 3.0, 4.0])
    assert value.value == 2.0
    assert value.low == pytest.approx(2 - 1.963243, rel=1e-5)
    below = over_processes([-1.0, 1.0])
    assert (below.value, below.low, below.high) == (0.0, -1.0, 1.0)


@given(st.lists(positive, min_size=1, max_size=12))
def test_the_interval_holds_its_value(values: list[float]) -> None:
    value = over_processes(values, within=(values[0], values[0]))
    assert value.low is not None
    assert value.value is not None
    assert value.high is not None
    slack = 1e-9 * value.value
    assert value.low - slack <= value.value <= value.high + slack


def test_a_process_interval_covers_the_centre() -> None:
    random = np.random.default_rng(5)
    covered = 0
    for _ in range(1000):
        value = over_processes(list(random.lognormal(0.0, 0.2, 5)))
        assert value.low is not None
        assert value.high is not None
        covered += value.low <= 1.0 <= value.high
    assert 0.93 <= covered / 1000 <= 0.97


def test_crossing_by_hand() -> None:
    # From (2, 2) to (8, 1/2): in logs a line through (log 4, log 1).
    assert crossing([2, 8], [2.0, 0.5], 1.0) == pytest.approx(4.0)
    # From (16, 4) to (64, 1/2): 2/3 of the way, 16 x 4^(2/3) = 40.317.
    assert crossing([16, 64], [4.0, 0.5], 1.0) == pytest.approx(16 * 4 ** (2 / 3))


def test_crossing_sorts_its_points_and_takes_the_first() -> None:
    assert crossing([8, 2], [0.5, 2.0], 1.0) == pytest.approx(4.0)
    assert crossing([1, 4, 16, 64], [2.0, 0.5, 2.0, 0.5], 1.0) == pytest.approx(2.0)


def test_crossing_on_a_point_is_the_point() -> None:
    assert crossing([2, 4, 8], [2.0, 1.0, 0.5], 1.0) == 4
    assert crossing([2, 4], [2.0, 1.0], 1.0) == 4
    assert crossing([2, 4], [1.0, 0.5], 1.0) == 2


def test_no_crossing_outside_the_points() -> None:
    assert crossing([2, 8], [3.0, 2.0], 1.0) is None
    assert crossing([2, 8], [0.3, 0.2], 1.0) is None
    assert crossing([], [], 1.0) is None


@given(st.lists(st.tuples(st.integers(1, 4096), positive), min_size=2, max_size=8, unique_by=lambda p: p[0]))
def test_a_crossing_lies_between_the_smallest_and_the_largest_x(points: list[tuple[int, float]]) -> None:
    x, y = [p[0] for p in points], [p[1] for p in points]
    at = crossing(x, y, 1.0)
    if at is not None:
        assert min(x) * (1 - 1e-9) <= at <= max(x) * (1 + 1e-9)
    else:
        assert min(y) > 1 or max(y) < 1


def test_windows_agree_needs_two_whole_windows() -> None:
    assert not windows_agree([1.0, 1.0, 1.0], 2)
    assert windows_agree([1.0, 1.0, 1.0, 1.0], 2)


def test_windows_agree_looks_at_the_last_two_windows_only() -> None:
    assert windows_agree([9.0, 9.0, 1.0, 1.0, 1.01, 1.01], 2)


def test_windows_disagree_while_the_cell_still_speeds_up() -> None:
    # Medians 10 -> 9: 10 % apart; inside each window nothing moves.
    assert not windows_agree([10.0, 10.0, 10.0, 9.0, 9.0, 9.0], 3)


def test_noise_inside_the_windows_excuses_a_shift_of_its_size() -> None:
    # Medians 10 -> 9, but each window spans 20 %.
    assert windows_agree([9.0, 10.0, 10.8, 8.5, 9.0, 10.2], 3)


def test_noise_never_excuses_a_shift_of_a_half() -> None:
    assert not windows_agree([1.0, 10.0, 20.0, 1.0, 3.0, 20.0], 3)


def test_windows_of_one_compare_single_generations() -> None:
    assert windows_agree([5.0, 1.0, 1.04], 1)
    assert not windows_agree([5.0, 1.0, 1.06], 1)


@settings(max_examples=50)
@given(st.lists(positive, max_size=12), st.integers(1, 5))
def test_statistics_of_positive_times_never_warn(values: list[float], window: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        windows_agree(values, window)
        median_half_width(values)
        over_processes(values)


def test_within_a_process_two_samples_show_their_range_and_more_their_interval() -> None:
    assert within_process([4.0]) is None
    assert within_process([4.0, 2.0]) == (2.0, 4.0)
    values = [1.0, 1.1, 0.9, 1.05, 0.95]
    width = median_half_width(values)
    assert width is not None
    assert within_process(values) == (pytest.approx(math.exp(-width)), pytest.approx(math.exp(width)))
    assert within_process([0.0, 1.0, 3.0]) == (0.0, 3.0)  # no logarithm of zero: the range


# Drift


@pytest.mark.parametrize("change", [0.2, -0.2])
def test_a_series_that_moves_drifts_by_as_much_as_its_ends_differ(change: float) -> None:
    draw = random.Random(3)
    series = [1 + change * i / 29 + 0.01 * draw.random() for i in range(30)]
    assert drift(series) == pytest.approx(change * 20 / 29, abs=0.03)


def test_a_drift_of_the_machine_is_no_drift_of_a_cell() -> None:
    draw = random.Random(5)
    machine = [1 + 0.5 * i / 29 for i in range(30)]
    cells = [{i: scale * m * (1 + 0.01 * draw.random()) for i, m in enumerate(machine)} for scale in (1.0, 7.0, 0.1)]
    assert drift(list(cells[0].values())) is not None
    assert drift(beside_peers(cells[0], cells[1:])) is None
    grows = {i: value * (1 + 0.2 * i / 29) for i, value in cells[0].items()}
    assert drift(beside_peers(grows, cells[1:])) == pytest.approx(0.2 * 20 / 29, abs=0.03)
    # Rounds that the peers lack are passed over; without peers nothing can be said.
    assert len(beside_peers(cells[0], [dict.fromkeys(range(12), 1.0), {}])) == 12
    assert beside_peers(cells[0], [{}]) == beside_peers({}, cells) == []


def test_noise_steps_too_small_and_short_series_are_no_drift() -> None:
    draw = random.Random(4)
    series = [[draw.gauss(1, 0.1) for _ in range(30)] for _ in range(2000)]
    assert sum(drift(values) is not None for values in series) < 10  # one in a thousand, and half of them too small
    assert drift([1 + 0.001 * i for i in range(30)]) is None
    assert drift([1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.4]) is None
    assert drift([1.0] * 20) is None
