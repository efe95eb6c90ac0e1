"""Tasks with closed forms, measured on the project's sampler: on the form but for chance, certain at T = n."""

from __future__ import annotations

from itertools import pairwise

import pytest
from scipy.stats import binomtest

from dlmbench import InputError
from dlmbench.bench.task_curves import task_curves
from dlmbench.profiles.studies import TaskCurve, TaskPoint

GENERATIONS = 600
FALSE_ALARM = 1e-3  # chance that a correct sampler fails the test of all points together, at another stream of numbers
Curves = dict[str, TaskCurve]


@pytest.fixture(scope="module")
def curves() -> Curves:
    return {curve.task: curve for curve in task_curves(7, GENERATIONS)}


def right(point: TaskPoint) -> int:
    assert point.measured.value is not None
    return round(point.measured.value * point.measured.n)


def test_every_task_has_each_whole_division_of_its_length(curves: Curves) -> None:
    assert {name: [point.steps for point in curve.points] for name, curve in curves.items()} == {
        "copy": [6, 3, 2, 1],
        "shuffle": [6, 3, 2, 1],
        "replace-one": [6, 3, 2, 1],
        "latin square 4x4": [16, 8, 4, 2, 1],
        "sudoku 4x4": [16, 8, 4, 2, 1],
    }
    assert {curve.length for curve in curves.values()} == {6, 16}


def test_measured_stands_on_the_closed_form_but_for_chance(curves: Curves) -> None:
    open_ended = [p for c in curves.values() for p in c.points if p.closed_form and p.closed_form < 1 - 1e-9]
    assert len(open_ended) == 14
    for point in open_ended:
        found = binomtest(right(point), GENERATIONS, point.closed_form).pvalue
        assert found > FALSE_ALARM / len(open_ended), point


def test_the_answers_are_enough_to_tell_a_wrong_number_of_steps(curves: Curves) -> None:
    for name in ("shuffle", "replace-one", "latin square 4x4", "sudoku 4x4"):
        points = curves[name].points
        for point, fewer in pairwise(points):
            assert binomtest(right(point), GENERATIONS, fewer.closed_form).pvalue < 1e-4, (name, point.steps)


def test_one_token_a_step_is_always_right_and_copy_always(curves: Curves) -> None:
    certain = [curve.points[0] for curve in curves.values()] + list(curves["copy"].points)
    for point in certain:
        assert right(point) == GENERATIONS
        assert point.closed_form == pytest.approx(1, abs=1e-12)


def test_all_at_once_by_hand(curves: Curves) -> None:
    # Six draws from six tokens all differ: 6!/6^6. Exactly one of six replaced: 6 · 1/6 · (5/6)^5.
    assert curves["shuffle"].points[-1].closed_form == pytest.approx(720 / 46656)
    assert curves["replace-one"].points[-1].closed_form == pytest.approx((5 / 6) ** 5)


def test_a_value_says_how_sure_it_is(curves: Curves) -> None:
    for curve in curves.values():
        for point in curve.points:
            value = point.measured
            wilson = binomtest(right(point), GENERATIONS).proportion_ci(0.95, method="wilson")
            assert (value.low, value.high) == pytest.approx((wilson.low, wilson.high), abs=1e-9)
            assert (value.n, value.level) == (GENERATIONS, 0.95)
        assert "random remasking" in curve.sampler
        assert curve.source
        assert curve.description


def test_a_seed_is_a_record_and_another_seed_another(curves: Curves) -> None:
    assert task_curves(7, GENERATIONS) == tuple(curves.values())
    assert task_curves(8, GENERATIONS) != tuple(curves.values())


def test_no_answers_are_refused() -> None:
    with pytest.raises(InputError, match="generations 0"):
        task_curves(0, 0)
