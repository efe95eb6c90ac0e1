"""Tasks whose right answers are all known, and what independent parallel draws make of them.

A masked diffusion model predicts each position by itself. Were its predictions perfect, it would draw the true marginal
of every masked position, and still spoil an answer whose positions depend on each other as soon as it commits two at a
time. How often is pure arithmetic:

    copy           repeat n tokens                        one answer: nothing can go wrong
    shuffle        any order of n different tokens        product over the steps of m! / ((m-g)! m^g)
    replace-one    one of n tokens becomes a given other  at all n at once (1 - 1/n)^(n-1)
    latin square, sudoku                                  by enumeration up to 4x4; 9x9 has the scorer only

(m positions left, g committed at a step). `PerfectMarginals` is a network that predicts exactly these marginals, so the
project's own samplers run on it, and what they reach must stand on the closed form: a test of the samplers, and the
scale on which a trained model is read. `python -m dlmbench.models.tasks` prints both.
"""

from .grids import latin_square, sudoku
from .lines import Copy, ReplaceOne, Shuffle
from .measure import Measured, expected_validity, measure
from .perfect_marginals import PerfectMarginals
from .task import Instance, Task

__all__ = [
    "Copy",
    "Instance",
    "Measured",
    "PerfectMarginals",
    "ReplaceOne",
    "Shuffle",
    "Task",
    "expected_validity",
    "latin_square",
    "measure",
    "sudoku",
]
