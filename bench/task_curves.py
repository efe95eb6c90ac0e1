"""What the project's own sampler makes of tasks whose right answers are all known: measured, beside the closed form.

The network is `PerfectMarginals`, which is never wrong, so that every wrong answer comes of drawing the positions of a
step independently. The curves depend on no trained weights; on one thread all of them take about three seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..models.generator import Settings
from ..models.names import MASKED_DIFFUSION
from ..models.training.data import seed_of
from ..profiles.quality.intervals import share
from ..profiles.studies import TaskCurve, TaskPoint

if TYPE_CHECKING:
    from ..models.tasks import Task

SAMPLER = f"{MASKED_DIFFUSION}, random remasking, temperature 1"
# A 95 % interval then reaches at most 2.2 points of per cent to either side; neighbouring T differ by 8 or more.
GENERATIONS = 2000
_LISTED = "the chance of each right answer, all of them listed, summed"


@dataclass(frozen=True, slots=True)
class _Asked:
    """A task with its name and what the record says of it."""

    name: str
    task: Task
    description: str
    source: str


def task_curves(seed: int, generations: int = GENERATIONS) -> tuple[TaskCurve, ...]:
    """Share of right answers of each task at T = n, n/2, n/3 … 1 (whole numbers only), with 95 % Wilson intervals.

    A task's points share their questions and a stream of random numbers, so they scatter together; tasks do not.
    Deterministic for a seed. Raises InputError for `generations` below 1.
    """
    return tuple(_curve(asked, seed, generations) for asked in _asked())


def _curve(asked: _Asked, seed: int, generations: int) -> TaskCurve:
    n = asked.task.length
    steps = [n // tokens for tokens in range(1, n + 1) if n % tokens == 0]
    return TaskCurve(
        task=asked.name,
        description=asked.description,
        length=n,
        sampler=SAMPLER,
        source=asked.source,
        points=tuple(_point(asked.task, count, seed_of(asked.name, seed), generations) for count in steps),
    )


def _point(task: Task, steps: int, seed: int, generations: int) -> TaskPoint:
    from ..models.tasks import measure

    settings = Settings(temperature=1, steps=steps, remasking="random")
    found = measure(task, settings, generations=generations, seed=seed)
    return TaskPoint(steps=steps, measured=share(found.valid, generations), closed_form=found.expected)


def _asked() -> tuple[_Asked, ...]:
    # Here, as it imports scipy.stats, which would cost every worker a second that measures no tasks.
    from ..models.tasks import Copy, ReplaceOne, Shuffle, latin_square, sudoku

    latin, puzzle = latin_square(4, 4), sudoku(4, 3, unique=False)
    return (
        _Asked("copy", Copy(6), "repeat the tokens given", "1, as there is one right answer and no draw can miss it"),
        _Asked(
            "shuffle", Shuffle(6), "write the tokens given in any order",
            "the product over the steps of m! / ((m-g)! m^g), m positions left and g drawn at the step",
        ),
        _Asked(
            "replace-one", ReplaceOne(6), "repeat the tokens given, any one of them replaced by a given other",
            "(1 - 1/n)^(n-1) for all n at once; in steps, the chance that exactly one is replaced in all",
        ),
        _Asked(
            "latin square 4x4", latin,
            f"fill the grid, {latin.given} cells of it given, each symbol once a row and column", _LISTED,
        ),
        _Asked(
            "sudoku 4x4", puzzle,
            f"fill the grid, {puzzle.given} cells of it given, each symbol once a row, column and box", _LISTED,
        ),
    )  # fmt: skip
