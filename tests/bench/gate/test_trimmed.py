"""The trimmed t test and its two-sample form: arithmetic by hand, scipy's own, and the size that is claimed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from dlmbench.bench.gate.trimmed import difference, trimmed

# One value dropped at each end: kept 1 2 3 4. Winsorised 1 1 2 3 4 4, squares about 2.5 sum to 4 · 2.25 + 2 · 0.25.
VALUES = np.array([4.0, 100.0, 1.0, 3.0, 0.0, 2.0])
ERROR = math.sqrt(5 * (9.5 / 5) / (4 * 3))


def test_the_trimmed_mean_and_its_error_by_hand() -> None:
    found = trimmed(VALUES)
    assert float(found.estimate) == 2.5
    assert float(found.error) == pytest.approx(ERROR)
    assert found.freedom == 2


def test_its_p_value_is_student_s_with_two_degrees_of_freedom() -> None:
    # Closed form: P(T > t) = 1/2 - t / (2 sqrt(2 + t²)).
    t = (2.5 - 0.5) / ERROR
    assert float(trimmed(VALUES).p_above(0.5)) == pytest.approx(0.5 - t / (2 * math.sqrt(2 + t * t)))


def test_the_bound_is_where_the_p_value_of_the_other_side_is_one_minus_the_level() -> None:
    found = trimmed(VALUES)
    assert float(found.p_above(float(found.upper(0.95)))) == pytest.approx(0.95)
    low, high = found.interval(0.9)
    assert (float(low), float(high)) == (pytest.approx(5 - float(found.upper(0.95))), pytest.approx(found.upper(0.95)))


def test_how_far_out_an_outlier_lies_does_not_matter() -> None:
    further = np.where(VALUES == 100.0, 1e6, VALUES)
    assert trimmed(further).error == trimmed(VALUES).error
    assert trimmed(further).estimate == trimmed(VALUES).estimate


def test_without_trimming_it_is_the_ordinary_t_test() -> None:
    found = trimmed(VALUES, trim=0.0)
    expected = stats.ttest_1samp(VALUES, 3.0, alternative="greater")
    assert float(found.p_above(3.0)) == pytest.approx(expected.pvalue)


def test_rows_of_an_array_are_judged_one_by_one() -> None:
    rows = np.stack([VALUES, VALUES[::-1] + 1])
    found = trimmed(rows)
    assert found.estimate.tolist() == [2.5, 3.5]
    assert found.error[0] == pytest.approx(found.error[1])


def test_the_difference_of_two_samples_is_scipy_s_trimmed_t_but_for_two_degrees_of_freedom() -> None:
    random = np.random.default_rng(4)
    base, head = random.standard_normal(11), 0.3 + 2 * random.standard_normal(17)
    found = difference(base, head)
    theirs = stats.ttest_ind(head, base, equal_var=False, trim=0.2)
    assert float(found.estimate / found.error) == pytest.approx(theirs.statistic)
    # Yuen's freedom has h - 1 where this has h - 2: by hand for 11 (7 kept) and 17 (11 kept).
    parts = float(trimmed(base).error) ** 2, float(trimmed(head).error) ** 2
    assert found.freedom == pytest.approx(sum(parts) ** 2 / (parts[0] ** 2 / 5 + parts[1] ** 2 / 9))
    assert theirs.df == pytest.approx(sum(parts) ** 2 / (parts[0] ** 2 / 6 + parts[1] ** 2 / 10))


def size(values: np.ndarray, alpha: float, freedom: float | None = None) -> float:
    """How often a true hypothesis falls at `alpha`, by `alpha`; both sides count, which halves the noise."""
    found = trimmed(values)
    p = stats.t.sf(found.estimate / found.error, found.freedom if freedom is None else freedom)
    return float(((p < alpha) | (p > 1 - alpha)).mean() / (2 * alpha))


@pytest.mark.parametrize("pairs", [6, 9, 13, 18])
def test_small_p_values_of_normal_values_are_honest(pairs: int) -> None:
    # 400 are expected among 100 000 on two sides: the ratio has a standard error of 0.05.
    values = np.random.default_rng(pairs).standard_normal((100_000, pairs))
    assert size(values, 0.002) < 1.2


def test_the_usual_degrees_of_freedom_would_not_be_honest() -> None:
    values = np.random.default_rng(13).standard_normal((100_000, 13))
    assert size(values, 0.002, trimmed(values).freedom + 1) > 1.15


def test_disturbed_processes_make_it_careful_rather_than_bold() -> None:
    random = np.random.default_rng(7)
    shape = (100_000, 13)
    values = 0.01 * random.standard_normal(shape)
    for sign in (1, -1):
        values += sign * (random.random(shape) < 0.035) * random.uniform(0.05, 0.20, shape)
    assert size(values, 0.002) < 1.0
