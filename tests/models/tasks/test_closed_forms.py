"""The closed forms and the enumeration, against every order, every group and every draw tried out."""

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest

from dlmbench import InputError
from dlmbench.models.tasks import Copy, Instance, ReplaceOne, Shuffle, Task, latin_square
from dlmbench.models.tasks.closed_forms import moved_shuffle_validity, replace_one_validity, shuffle_validity
from dlmbench.models.tasks.enumeration import enumerated_validity


def tried_out(task: Task, instance: Instance, counts: Sequence[int]) -> float:
    """Validity by walking through all choices of positions and all draws, each weighted with its probability."""

    @functools.cache
    def onwards(canvas: tuple[int, ...], step: int) -> float:
        if step == len(counts):
            return float(task.valid(instance, canvas))
        marginals = task.marginals(instance, canvas).tolist()
        masked = [place for place, token in enumerate(canvas) if token == task.mask_id]
        groups = list(itertools.combinations(masked, counts[step]))
        found = 0.0
        for group in groups:
            likely = [[(token, p) for token, p in enumerate(marginals[place]) if p > 0] for place in group]
            for drawn in itertools.product(*likely):
                following = list(canvas)
                for place, (token, _) in zip(group, drawn, strict=True):
                    following[place] = token
                found += math.prod(p for _, p in drawn) * onwards(tuple(following), step + 1)
        return found / len(groups)

    return onwards((task.mask_id,) * task.length, 0)


TASKS = ("copy", "shuffle", "shuffle moved", "replace one")


@pytest.mark.parametrize("counts", [(1, 1, 1, 1), (2, 2), (1, 3), (3, 1), (2, 1, 1), (4,)], ids=str)
@pytest.mark.parametrize("task", [Copy(4, 5), Shuffle(4, 5), Shuffle(4, 5, moved=True), ReplaceOne(4, 5)], ids=TASKS)
def test_the_closed_form_is_what_all_draws_together_come_to(task: Task, counts: tuple[int, ...]) -> None:
    instance = task.sample(0)
    assert task.independent_validity(instance, counts) == pytest.approx(tried_out(task, instance, counts), abs=1e-12)


@pytest.mark.parametrize("counts", [(1,) * 9, (3, 3, 3), (2, 2, 2, 2, 1)], ids=str)
def test_the_enumeration_is_what_all_draws_together_come_to(counts: tuple[int, ...]) -> None:
    task = latin_square(3, 1)
    instance = task.sample(0)
    assert instance.answers == 4  # 12 squares of three symbols, a third of them with a given one in a given cell
    assert task.independent_validity(instance, counts) == pytest.approx(tried_out(task, instance, counts), abs=1e-12)


@pytest.mark.parametrize("counts", [(1, 1, 1, 1, 1), (2, 2, 1), (3, 2), (5,)], ids=str)
def test_enumeration_and_closed_forms_agree(counts: tuple[int, ...]) -> None:
    orders = np.array(list(itertools.permutations(range(5))))
    replaced = np.where(np.eye(5, dtype=bool), 9, np.arange(5))
    assert enumerated_validity(orders, counts) == pytest.approx(shuffle_validity(counts), abs=1e-12)
    # The first permutation is the identity.
    assert enumerated_validity(orders[1:], counts) == pytest.approx(moved_shuffle_validity(counts), abs=1e-12)
    assert enumerated_validity(replaced, counts) == pytest.approx(replace_one_validity(counts), abs=1e-12)
    assert enumerated_validity(orders[:1], counts) == 1


def test_values_by_hand() -> None:
    # n=6 in pairs: 6/6 5/6, 4/4 3/4, 2/2 1/2.
    assert shuffle_validity((2, 2, 2)) == 5 / 6 * 3 / 4 / 2 == 0.3125
    assert shuffle_validity((6,)) == pytest.approx(720 / 6**6)
    assert replace_one_validity((6,)) == pytest.approx((5 / 6) ** 5)
    # n=4 in pairs: one of the first two replaced, 2 · 1/4 · 3/4; or neither, 9/16, and then one of two, 1/2.
    assert replace_one_validity((2, 2)) == pytest.approx(3 / 8 + 9 / 32)
    # Two tokens to be moved can only change places.
    assert moved_shuffle_validity((2,)) == 1
    # Three tokens to be moved, all at once: in place 1/5, either other token 2/5. The 5 orders: 3 swaps with one in
    # place, 2 cycles.
    assert moved_shuffle_validity((3,)) == pytest.approx(3 * 1 / 5 * (2 / 5) ** 2 + 2 * (2 / 5) ** 3)


@pytest.mark.parametrize(("counts", "valid"), [((4,), 1 / 8), ((3, 1), 1 / 4), ((2, 2), 1 / 2), ((1, 1, 1, 1), 1)])
def test_a_latin_square_of_two_symbols_hangs_on_one_choice(counts: tuple[int, ...], valid: float) -> None:
    # Either of two squares; every cell drawn beside the first of its group must agree with it.
    task = latin_square(2, 0)
    assert task.independent_validity(task.sample(0), counts) == pytest.approx(valid)


def test_shared_cells_make_room() -> None:
    # Three positions, of which one is given: two draws meet in one of three pairs, and then agree half of the time.
    answers = np.array([[0, 0, 7], [1, 1, 7]])
    assert enumerated_validity(answers, (2, 1)) == pytest.approx(1 / 3 * 1 / 2 + 2 / 3)


@pytest.mark.parametrize("function", [shuffle_validity, moved_shuffle_validity, replace_one_validity])
def test_a_step_that_commits_nothing_changes_nothing(function: object) -> None:
    assert callable(function)
    assert function((2, 0, 2)) == function((2, 2))


def test_refusals() -> None:
    task = Shuffle(4)
    with pytest.raises(InputError, match="must commit 4 positions"):
        task.independent_validity(task.sample(0), (2, 1))
    with pytest.raises(InputError, match="at least one right answer"):
        enumerated_validity(np.empty((0, 4), dtype=np.int64), (4,))
    with pytest.raises(InputError, match="enumeration reaches 16"):
        enumerated_validity(np.arange(2)[:, None].repeat(17, axis=1), (17,))
