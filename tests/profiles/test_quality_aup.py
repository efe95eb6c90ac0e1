"""AUP by hand, and what it hides shown rather than said."""

import math

import pytest

from dlmbench import InputError
from dlmbench.profiles.quality import aup


def test_by_hand() -> None:
    """y_max = 80: W(80) = 1, W(76) = exp(-0.15). 1 · 80 + ½ · (3 - 1) · (76 exp(-0.15) + 80)."""
    found = aup([(3.0, 76.0), (1.0, 80.0)], y_max=80.0)
    assert found.value == pytest.approx(80 + 76 * math.exp(-0.15) + 80)
    assert found.kept == ((1.0, 80.0), (3.0, 76.0))
    assert found.dropped == ()


def test_points_more_than_five_below_the_first_are_left_out() -> None:
    found = aup([(1, 70), (2, 65), (4, 64.9)], y_max=70)
    assert found.dropped == ((4, 64.9),)
    assert found.value == aup([(1, 70), (2, 65)], y_max=70).value


def test_one_point_scores_its_product_and_ar_its_accuracy() -> None:
    assert aup([(1, 90)], y_max=95).value == 90
    # A bad but parallel first point pays nothing for being bad.
    assert aup([(4, 50)], y_max=100).value == 200


def test_it_moves_when_a_competitor_is_added() -> None:
    points = [(1, 70), (4, 68)]
    assert aup(points, y_max=90).value < aup(points, y_max=70).value
    # A point above y_max gains nothing by it: the weight stops at 1.
    assert aup(points, y_max=60).value == pytest.approx(70 + 3 * (70 + 68) / 2)


@pytest.mark.parametrize(
    ("points", "y_max", "message"),
    [([], 90, "no points"), ([(0, 50)], 90, "above 0"), ([(1, 101)], 90, "0..100"), ([(1, 50)], 0, "y_max")],
)
def test_bad_points(points: list[tuple[float, float]], y_max: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        aup(points, y_max)
