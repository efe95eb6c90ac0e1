"""Prints what independent parallel draws from perfect marginals reach: by closed form, and measured on the samplers.

python -m dlmbench.models.tasks --generations 4000 --seed 0
"""

import argparse
from dataclasses import replace

import torch

from ... import InputError
from ..generator import Settings
from .grids import latin_square, sudoku
from .lines import Copy, ReplaceOne, Shuffle
from .measure import Measured, measure

_LINES = (Copy(6), Shuffle(6), Shuffle(6, moved=True), ReplaceOne(6))
_GRIDS = (latin_square(4, 4), sudoku(4, 3, unique=False), sudoku(4))
_TOKENS_PER_STEP = {6: (1, 2, 3, 6), 16: (1, 2, 4, 8, 16)}
_HEADER = f"{'task':<32} {'k':>3} {'closed form':>11}   {'random order':<24}   {'low confidence':<24}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dlmbench.models.tasks", description=__doc__.splitlines()[0])
    parser.add_argument("--generations", type=int, default=4000, metavar="N", help="answers per row (default 4000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the questions and the draws (default 0)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # thousands of tiny operations gain nothing from more
    try:
        _table(options.generations, options.seed)
    except InputError as error:
        parser.error(str(error))


def _table(generations: int, seed: int) -> None:
    print(f"Right answers of {generations}, with 95 % Wilson intervals; k tokens are committed per step\n\n{_HEADER}")
    for task in (*_LINES, *_GRIDS):
        ar = measure(task, Settings(temperature=1), side="ar", generations=generations, seed=seed)
        print(f"{task.name:<32} {'AR':>3} {_exact(ar)}   {_share(ar)}")
        for tokens in _TOKENS_PER_STEP[task.length]:
            settings = Settings(temperature=1, steps=task.length // tokens, remasking="random")
            random = measure(task, settings, generations=generations, seed=seed)
            settings = replace(settings, remasking="low_confidence")
            confident = measure(task, settings, generations=generations, seed=seed)
            print(f"{'':<32} {tokens:>3} {_exact(random)}   {_share(random)}   {_share(confident)}")
    print(f"\n{sudoku(9).name}: the scorer only, its marginals are not known")


def _exact(measured: Measured) -> str:
    return f"{'-':>11}" if measured.expected is None else f"{measured.expected:>11.4f}"


def _share(measured: Measured) -> str:
    low, high = measured.interval()
    return f"{measured.rate:.4f} [{low:.4f}, {high:.4f}]"


if __name__ == "__main__":
    main()
