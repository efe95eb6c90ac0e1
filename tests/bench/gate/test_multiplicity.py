"""Holm by hand and against its definition; what the looks may spend."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlmbench.bench.gate.multiplicity import holm, spent


def test_holm_by_hand() -> None:
    # Sorted 0.01 · 3, 0.03 · 2, 0.04 · 1; the last may not fall below the one before it.
    assert holm(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.5, 0.9])).tolist() == pytest.approx([1.0, 1.0])


def test_rows_are_families_of_their_own() -> None:
    assert holm(np.array([[0.01, 0.02], [0.4, 0.001]])).tolist() == [
        pytest.approx([0.02, 0.02]),
        pytest.approx([0.4, 0.002]),
    ]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.2))
def test_what_holm_rejects_is_what_its_step_down_rule_rejects(p: list[float], alpha: float) -> None:
    rejected = set()
    for step, place in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[place] * (len(p) - step) > alpha:
            break
        rejected.add(place)
    assert {place for place, x in enumerate(holm(np.array(p))) if x <= alpha} == rejected


def test_looks_spend_alpha_by_the_square_of_their_share_of_the_pairs() -> None:
    # (6/18)² = 1/9, (9/18)² = 1/4, all: 1.
    looks = (6, 9, 18)
    assert [spent(0.01, looks, look) for look in range(3)] == pytest.approx([0.01 / 9, 0.01 * 5 / 36, 0.0075])


@given(st.sets(st.integers(6, 100), min_size=1, max_size=6), st.floats(0.001, 0.4))
def test_looks_spend_all_of_alpha_and_no_more(looks: set[int], alpha: float) -> None:
    planned = sorted(looks)
    shares = [spent(alpha, planned, look) for look in range(len(planned))]
    assert min(shares) > 0
    assert sum(shares) == pytest.approx(alpha)
