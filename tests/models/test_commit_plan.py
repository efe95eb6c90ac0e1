"""How many positions each step commits, worked out by hand."""

from typing import Any

import pytest

from dlmbench import InputError
from dlmbench.models.commit_plan import commit_plan, whole_blocks
from dlmbench.models.generator import Settings, Shape


def plan(batch: int, length: int, **settings: Any) -> list[list[tuple[int, ...]]]:
    return commit_plan(Shape(batch, 3, length), Settings(**settings))


def test_an_even_division_is_the_same_for_all_rows() -> None:
    assert plan(2, 6) == [[(1, 1)] * 6]
    assert plan(2, 10, steps=4) == [[(3, 3), (3, 3), (2, 2), (2, 2)]]
    assert plan(1, 10, steps=4, block_length=5) == [[(3,), (2,)]] * 2


def test_surplus_steps_commit_nothing_and_are_run_only_if_asked_for() -> None:
    assert plan(1, 4, steps=6, block_length=2, idle_steps="run") == [[(1,), (1,), (0,)]] * 2
    with pytest.raises(InputError, match="T=6 exceeds length L=4"):
        plan(1, 4, steps=6, block_length=2)


def test_a_schedule_is_cut_at_the_ends_of_blocks() -> None:
    """Row 0 takes 2 and 3 steps for its blocks of four, row 1 takes 3 and 1: the blocks take 3 and 3."""
    schedule = ((3, 1, 1, 1, 2), (1, 1, 2, 4))
    assert plan(2, 8, block_length=4, commit_schedule=schedule) == [[(3, 1), (1, 1), (0, 2)], [(1, 4), (1, 0), (2, 0)]]
    # Cyclically for more rows; the rows that are not there wait for nobody.
    assert plan(3, 8, block_length=4, commit_schedule=schedule)[0] == [(3, 1, 3), (1, 1, 1), (0, 2, 0)]
    assert plan(1, 8, block_length=4, commit_schedule=schedule) == [[(3,), (1,)], [(1,), (1,), (2,)]]


def test_recorded_waiting_is_taken_out_again() -> None:
    """The same run with its zeros: as recorded with both rows, and without them for one row alone."""
    schedule = ((3, 1, 0, 1, 1, 2), (1, 1, 2, 4, 0, 0))
    both = [[(3, 1), (1, 1), (0, 2)], [(1, 4), (1, 0), (2, 0)]]
    assert plan(2, 8, block_length=4, commit_schedule=schedule) == both
    assert plan(1, 8, block_length=4, commit_schedule=schedule) == [[(3,), (1,)], [(1,), (1,), (2,)]]


def test_a_step_in_which_no_row_commits_is_left_out_unless_idle_steps_run() -> None:
    schedule = ((2, 0, 2), (1, 0, 3))
    assert plan(2, 4, commit_schedule=schedule) == [[(2, 1), (2, 3)]]
    assert plan(2, 4, commit_schedule=schedule, idle_steps="run") == [[(2, 1), (0, 0), (2, 3)]]


def test_a_count_past_the_blocks_end_commits_what_is_left() -> None:
    assert plan(1, 6, block_length=3, commit_schedule=((2, 2, 2, 2),)) == [[(2,), (1,)]] * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"commit_schedule": ()}, "commit_schedule has no rows"),
        ({"commit_schedule": ((4,), (1, 2))}, "row 1: its counts end after 3 positions, expected 4 in 1 blocks of 4"),
        ({"commit_schedule": ((5, 1), (4, -1, 2))}, "row 1: a count is -1, expected 0 or more; record it again"),
        ({"commit_schedule": ((4,),), "block_length": 3}, "L=4 is not divisible by 3"),
        ({"steps": 5, "block_length": 2, "idle_steps": "run"}, "T=5 is not divisible by the 2 blocks of 2 in L=4"),
        ({"steps": 3, "block_length": 2}, "T=3 is not divisible by the 2 blocks"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(2, 4, **settings)


def test_whole_blocks() -> None:
    assert whole_blocks(12, 4) == 3
    with pytest.raises(InputError, match="L=12 is not divisible by 5; choose a divisor of L"):
        whole_blocks(12, 5)
