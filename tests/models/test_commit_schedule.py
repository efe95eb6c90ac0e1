"""How a commit schedule is cut at the ends of blocks, worked out by hand."""

import pytest

from dlmbench import InputError
from dlmbench.models.commit_schedule import cut_at_blocks


def test_blocks_take_as_long_as_their_slowest_row_and_rows_are_used_cyclically() -> None:
    # Row 0 takes 2 | 1, 2 of its 9. Row 1 takes 1, 1 | 3. Row 2 is row 0 again.
    plan = cut_at_blocks([(2, 1, 9), (1, 1, 3)], 3, [2, 3])
    assert plan == [[(2, 1, 2), (0, 1, 0)], [(1, 3, 1), (2, 0, 2)]]


def test_waiting_is_left_out_unless_rows_stay_in_step() -> None:
    schedule = [(0, 2, 0, 2), (1, 0, 0, 3)]
    assert cut_at_blocks(schedule, 2, [4]) == [[(2, 1), (0, 0), (2, 0), (0, 3)]]
    assert cut_at_blocks(schedule, 2, [4], idle=False) == [[(2, 1), (2, 0), (0, 3)]]
    assert cut_at_blocks(schedule, 2, [4], in_step=True) == [[(0, 1), (2, 0), (0, 0), (2, 3)]]


def test_an_opening_forward_commits_one_position_whatever_its_count() -> None:
    """Blocks of 3, 1 and 2: the 2, the 5 and the 4 are opening; 1 + 2, 1, 1 + 1."""
    assert cut_at_blocks([(2, 2, 5, 4, 9)], 1, [3, 1, 2], opening=True) == [[(1,), (2,)], [(1,)], [(1,), (1,)]]
    with pytest.raises(InputError, match="after 2 positions, expected 6 in 2 blocks of 3, each opened by a forward"):
        cut_at_blocks([(5, 1)], 1, [3, 3], opening=True)


def test_positions_that_nobody_asked_for_go_along_with_the_last_step() -> None:
    assert cut_at_blocks([(2, 1, 1)], 1, [2, 4], asked=4) == [[(2,)], [(1,), (3,)]]
    with pytest.raises(InputError, match=r"row 1: .* after 3 positions, expected 4 in 2 blocks of 2 or 4; record it"):
        cut_at_blocks([(2, 2), (2, 1)], 2, [2, 4], asked=4)


def test_a_row_that_is_not_used_is_not_read() -> None:
    assert cut_at_blocks([(2,), (-1,)], 1, [2]) == [[(2,)]]
    with pytest.raises(InputError, match="row 1: a count is -1, expected 0 or more; record it again"):
        cut_at_blocks([(2,), (3, -1)], 2, [2])
    with pytest.raises(InputError, match="commit_schedule has no rows; give at least one list"):
        cut_at_blocks([], 1, [2])
