"""The scorers on answers made by hand, the questions, and the marginals against all answers that the scorer accepts."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from dlmbench import InputError
from dlmbench.models.tasks import Copy, Instance, ReplaceOne, Shuffle, Task, latin_square, sudoku

SMALL = [Copy(3, 4), Shuffle(3, 4), Shuffle(3, 4, moved=True), ReplaceOne(3, 4), latin_square(3, 2)]
ALL = [*SMALL, Shuffle(20), latin_square(4, 4), latin_square(9, 30), sudoku(4), sudoku(4, 3, unique=False), sudoku(9)]

SOLVED = """
    534678912 672195348 198342567
    859761423 426853791 713924856
    961537284 287419635 345286179
"""


def names(tasks: list[Task]) -> list[str]:
    return [task.name for task in tasks]


def test_line_scorers() -> None:
    given = Instance((3, 1, 2), 3, None)
    assert Copy(3).valid(given, [3, 1, 2])
    assert not Copy(3).valid(given, [3, 2, 1])
    for right in itertools.permutations((1, 2, 3)):
        assert Shuffle(3).valid(given, right)
        assert Shuffle(3, moved=True).valid(given, right) == (right != (3, 1, 2))
    for wrong in ([3, 3, 1], [3, 1], [3, 1, 2, 2], [3, 1, 4], []):
        assert not Shuffle(3).valid(given, wrong)
    question = Instance((3, 1, 2, 9), 3, None)
    for right in ([9, 1, 2], [3, 9, 2], [3, 1, 9]):
        assert ReplaceOne(3).valid(question, right)
    for wrong in ([3, 1, 2], [9, 9, 2], [3, 1, 8], [9, 1], [3, 1, 2, 9], [1, 9, 2]):
        assert not ReplaceOne(3).valid(question, wrong)


def test_latin_square_scorer() -> None:
    question = Instance((0, 3, 3, 3, 3, 3, 3, 3, 3), 9, None)
    assert latin_square(3, 1).valid(question, [0, 1, 2, 1, 2, 0, 2, 0, 1])
    assert not latin_square(3, 1).valid(question, [1, 0, 2, 0, 2, 1, 2, 1, 0])  # the given cell is another
    assert not latin_square(3, 1).valid(question, [0, 1, 2, 0, 1, 2, 0, 1, 2])  # columns
    assert not latin_square(3, 1).valid(question, [0, 0, 0, 1, 1, 1, 2, 2, 2])  # rows
    assert not latin_square(3, 1).valid(question, [0, 1, 2, 1, 2, 0, 2, 0])
    assert not latin_square(3, 1).valid(question, [0, 1, 2, 1, 2, 0, 2, 0, 4])  # the mask


def test_sudoku_scorer() -> None:
    grid = [int(digit) - 1 for digit in "".join(SOLVED.split())]
    task = sudoku(9)
    blank = Instance((task.blank,) * 81, 81, None)
    assert task.valid(blank, grid)
    assert task.valid(Instance((*grid[:40], *(task.blank,) * 41), 81, None), grid)
    assert not task.valid(Instance((grid[0] - 1, *(task.blank,) * 80), 81, None), grid)
    swapped = [grid[1], grid[0], *grid[2:]]
    assert not task.valid(blank, swapped)
    assert not task.valid(blank, [(row + column) % 9 for row in range(9) for column in range(9)])  # boxes only
    assert sudoku(4).valid(Instance((4,) * 16, 16, None), [0, 1, 2, 3, 2, 3, 0, 1, 1, 0, 3, 2, 3, 2, 1, 0])


@pytest.mark.parametrize("task", SMALL, ids=names(SMALL))
def test_marginals_are_the_shares_among_all_accepted_answers(task: Task) -> None:
    random = np.random.default_rng(0)
    instance = task.sample(1)
    written = np.array(list(itertools.product(range(task.symbols), repeat=task.length)))
    accepted = written[[task.valid(instance, answer) for answer in written.tolist()]]
    assert len(accepted) == instance.answers
    seen = {True: 0, False: 0}
    for _ in range(60):
        # Half of the canvases come from a right answer; the others mostly contradict all of them.
        source = accepted if random.random() < 0.5 else written
        canvas = np.where(
            random.random(task.length) < random.random(), task.mask_id, source[random.integers(len(source))]
        )
        fits = accepted[((canvas == task.mask_id) | (accepted == canvas)).all(axis=1)]
        shares = (fits[:, :, None] == np.arange(task.vocab_size)).sum(axis=0) / max(1, len(fits))
        torch.testing.assert_close(task.marginals(instance, canvas.tolist()), torch.from_numpy(shares))
        seen[len(fits) > 0] += 1
    assert min(seen.values()) > 5


@pytest.mark.parametrize("canvas", [(3, 1, 2), (3, 1, 26)], ids=["in place", "all but one in place"])
def test_a_moved_shuffle_has_no_answer_with_every_token_in_place(canvas: tuple[int, ...]) -> None:
    question = Instance((3, 1, 2), 3, 5)
    assert Shuffle(3, moved=True).marginals(question, canvas).sum() == 0
    assert Shuffle(3).marginals(question, canvas).sum() == 3


@pytest.mark.parametrize("task", ALL, ids=names(ALL))
def test_a_seed_is_a_question_and_another_seed_another(task: Task) -> None:
    instance = task.sample(5)
    assert instance == task.sample(5)
    assert len({task.sample(seed).prompt for seed in range(10)}) > 3
    assert (len(instance.prompt), instance.length) == (task.prompt_length, task.length)
    assert max(instance.prompt) < task.mask_id


def test_how_many_grids_there_are() -> None:
    # Known counts: Latin squares of order 2, 3, 4 (OEIS A002860), and 4x4 sudoku grids.
    blank = {task.name: len(task.answers((task.blank,) * task.length)) for task in map(latin_square, (2, 3, 4))}
    assert list(blank.values()) == [2, 12, 576]
    assert len(sudoku(4).answers((4,) * 16)) == 288


def test_puzzles_have_as_many_given_cells_and_answers_as_asked() -> None:
    for seed in range(20):
        instance = sudoku(4, 5).sample(seed)
        assert sum(token != 4 for token in instance.prompt) == 5
        assert instance.answers == 1
    assert all(sudoku(4, 3, unique=False).sample(seed).answers != 1 for seed in range(20))  # 3 cells never suffice


@pytest.mark.parametrize("task", [sudoku(9, 45), latin_square(9, 50)], ids=["sudoku", "latin square"])
def test_large_puzzles_can_be_solved(task: Task) -> None:
    for seed in range(3):
        instance = task.sample(seed)
        assert instance.answers is None
        assert task.valid(instance, next(solutions(list(instance.prompt), boxes="sudoku" in task.name)))


def solutions(grid: list[int], boxes: bool) -> Iterator[list[int]]:
    """Fill the blank (9) with the fewest candidates first."""
    best: tuple[int, list[int]] | None = None
    for cell in (place for place, token in enumerate(grid) if token == 9):
        row, column = divmod(cell, 9)
        taken = {grid[9 * row + i] for i in range(9)} | {grid[9 * i + column] for i in range(9)}
        if boxes:
            taken |= {grid[9 * (row // 3 * 3 + i) + column // 3 * 3 + j] for i in range(3) for j in range(3)}
        free = [token for token in range(9) if token not in taken]
        if best is None or len(free) < len(best[1]):
            best = cell, free
    if best is None:
        yield list(grid)
        return
    for token in best[1]:
        grid[best[0]] = token
        yield from solutions(grid, boxes)
    grid[best[0]] = 9


def test_refusals() -> None:
    for make, message in [
        (lambda: Copy(0), "takes 1 to 26 tokens"),
        (lambda: ReplaceOne(26), "takes 1 to 25 tokens"),
        (lambda: Shuffle(1, moved=True), "takes 2 to 26"),
        (lambda: latin_square(1, 0), "at least 2 rows"),
        (lambda: latin_square(4, 17), "has 16 cells"),
        (lambda: sudoku(6), "4 or 9 symbols"),
        (lambda: sudoku(9, unique=True), "one answer is assured up to 4x4"),
        (lambda: sudoku(4, 3).sample(0), "give more cells"),
        (lambda: sudoku(9).answers((9,) * 81), "use the scorer"),
        (lambda: Copy(3).marginals(Copy(3).sample(0), [26, 26]), "canvas of 2 tokens"),
        (lambda: Copy(3).marginals(Copy(3).sample(0), [26, 26, 27]), "canvas token 27"),
    ]:
        with pytest.raises(InputError, match=message):
            make()
