"""Intervals against tables, closed forms and simulations."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from dlmbench.profiles.quality.intervals import mean, ratio, shown, transformed, wilson
from dlmbench.profiles.record import Value


def test_wilson_by_hand() -> None:
    """8 of 10, z = 1.96: centre (0.8 + 0.19207) / 1.38415, half 1.96 / 1.38415 sqrt(0.016 + 0.0096036)."""
    low, high = wilson(8, 10)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((10 / (10 + 1.959964**2), 1.0), abs=1e-6)
    assert wilson(0, 10) == pytest.approx((0.0, 1 - wilson(10, 10)[0]))


def test_wilson_covers_where_the_plain_interval_fails() -> None:
    """97 % of 50: p ± 1.96 sqrt(p (1 - p) / n) covers 78 % of the time, Wilson's interval about 95 %."""
    counts = np.random.default_rng(0).binomial(50, 0.97, size=2000)
    hits = [low <= 0.97 <= high for low, high in (wilson(int(c), 50) for c in counts)]
    assert 0.93 < np.mean(hits) < 0.99


def test_ratio_by_hand() -> None:
    """R = (2 + 6 + 4) / (1 + 2 + 1) = 3; residuals -1, 0, 1; se = sqrt(3/2 · 2) / 4; t(2) = 4.30265."""
    value = ratio(np.array([2.0, 6.0, 4.0]), np.array([1.0, 2.0, 1.0]))
    assert (value.value, value.n, value.level) == (3.0, 3, 0.95)
    assert value.high is not None
    assert value.high - 3 == pytest.approx(4.30265 * 3**0.5 / 4, rel=1e-5)


def test_equal_lengths_give_the_t_interval() -> None:
    x = np.random.default_rng(1).normal(2.0, 1.0, 12)
    expected = ttest_1samp(x, 0).confidence_interval(0.95)
    value = mean(x)
    assert (value.low, value.high) == pytest.approx((expected.low, expected.high))
    longer = ratio(x * 7, np.full(12, 7.0))
    assert (longer.low, longer.high) == pytest.approx((expected.low, expected.high))


def test_ratio_covers_when_the_tokens_of_a_text_move_together() -> None:
    """40 texts of 1 to 40 tokens, each text with a level of its own: an interval over tokens would cover about half."""
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(600):
        sizes = rng.integers(1, 41, 40).astype(float)
        sums = sizes * (1.5 + rng.normal(0, 0.3, 40)) + rng.normal(0, 1, 40) * np.sqrt(sizes)
        value = ratio(sums, sizes)
        assert value.low is not None
        assert value.high is not None
        hits += value.low <= 1.5 <= value.high
    assert 0.91 < hits / 600 < 0.98


def test_one_text_has_a_value_and_no_interval() -> None:
    value = ratio(np.array([3.0]), np.array([2.0]))
    assert (value.value, value.low, value.level, value.why) == (1.5, None, None, "one text: no interval")
    assert transformed(value, lambda x: 2 * x).value == 3.0
    assert shown(value) == "1.5"
    assert shown(Value(value=1.5, low=1.25, high=2.0)) == "1.5 [1.25, 2]"
