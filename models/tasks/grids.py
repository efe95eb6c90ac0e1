"""Latin squares and sudoku: fill the blank cells so that every row, column and box holds each symbol once.

A Latin square of side n is a sudoku whose boxes are its rows. Up to 4x4 all grids are enumerated once (576 Latin
squares, 288 sudoku), and every question is a filter of that list; larger ones have the scorer only. To a network with
perfect marginals a puzzle with one answer is a copy: only with several answers can parallel draws mix them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import isqrt
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ... import InputError
from .enumeration import enumerated_validity
from .task import Instance, Task

_ENUMERATED = 4  # the largest side of which all grids are listed
_TRIES = 100


class Grid(Task):
    """Grids of `side` x `side` cells in boxes of `box_rows` rows; the prompt is the grid with blanks (id `blank`).

    `given` cells are known. `unique`: exactly one answer is right. The answer is the whole grid, row by row.
    """

    any_order = False

    def __init__(self, name: str, side: int, box_rows: int, given: int, unique: bool) -> None:
        cells = side * side
        if not 0 <= given <= cells:
            raise InputError(f"given {given}: {name} {side}x{side} has {cells} cells; choose 0 to {cells}")
        if unique and side > _ENUMERATED:
            raise InputError(f"unique: one answer is assured up to {_ENUMERATED}x{_ENUMERATED}, not for side {side}")
        self.name = f"{name} {side}x{side}, {given} given" + (", one answer" if unique else "")
        self.side, self.box_rows, self.given, self.unique = side, box_rows, given, unique
        self.symbols, self.blank, self.vocab_size = side, side, side + 2
        self.length = self.prompt_length = cells
        self.exact = side <= _ENUMERATED

    def sample(self, seed: int) -> Instance:
        """A puzzle cut from a random grid. Up to 4x4 every grid is equally likely; larger ones rearrange one grid's
        rows, columns and symbols. InputError if no puzzle with one answer was found for so few given cells."""
        random = Random(f"{self.name}/{seed}")
        for _ in range(_TRIES):
            grid = self._grid(random)
            shown = self._shown(grid, random)
            if len(shown) == self.given:
                prompt = tuple(token if cell in shown else self.blank for cell, token in enumerate(grid))
                return Instance(prompt, self.length, len(self.answers(prompt)) if self.exact else None)
        raise InputError(f"given {self.given}: found no puzzle of {self.name} in {_TRIES} tries; give more cells")

    def valid(self, instance: Instance, answer: Sequence[int]) -> bool:
        if len(answer) != self.length:
            return False
        kept = all(clue in (self.blank, token) for clue, token in zip(instance.prompt, answer, strict=True))
        everything = set(range(self.side))
        return kept and all({answer[cell] for cell in unit} == everything for unit in _units(self.side, self.box_rows))

    def answers(self, prompt: Sequence[int]) -> NDArray[np.int64]:
        """All right answers [S, L], none for a prompt that contradicts itself; InputError above 4x4."""
        if not self.exact:
            raise InputError(f"{self.name}: answers are enumerated up to {_ENUMERATED}x{_ENUMERATED}; use the scorer")
        grids, clues = _all_grids(self.side, self.box_rows), np.asarray(prompt)
        found: NDArray[np.int64] = grids[((clues == self.blank) | (grids == clues)).all(axis=1)]
        return found

    def batch_marginals(self, prompts: Tensor, canvas: Tensor) -> Tensor:
        marginals = torch.zeros((*canvas.shape, self.vocab_size), dtype=torch.float64, device=canvas.device)
        written = F.one_hot(canvas, self.vocab_size)[..., : self.mask_id].float()
        known = written.sum(dim=(1, 2))
        questions, row_of = prompts.unique(dim=0, return_inverse=True)
        for index, question in enumerate(questions.tolist()):
            answers = torch.from_numpy(self.answers(question)).to(canvas.device)
            rows = (row_of == index).nonzero()[:, 0]
            table = F.one_hot(answers, self.vocab_size)
            # An answer fits if it has as many tokens in common with the canvas as are committed.
            common = written[rows].flatten(1) @ table[..., : self.mask_id].flatten(1).float().T
            fits = (common == known[rows, None]).double()
            counts = (fits @ table.flatten(1).double()).view(len(rows), self.length, self.vocab_size)
            marginals[rows] = counts / fits.sum(dim=1).clamp(min=1)[:, None, None]
        return marginals

    def independent_validity(self, instance: Instance, counts: Sequence[int]) -> float | None:
        self.check_counts(counts)
        return enumerated_validity(self.answers(instance.prompt), counts) if self.exact else None

    def _grid(self, random: Random) -> list[int]:
        """A full grid, row by row."""
        if self.exact:
            grids = _all_grids(self.side, self.box_rows)
            return [int(token) for token in grids[random.randrange(len(grids))]]
        rows = _rearranged(self.side, self.box_rows, random)
        columns = _rearranged(self.side, self.side // self.box_rows, random)
        names = random.sample(range(self.side), self.side)
        width = self.side // self.box_rows
        # Each row is the one before moved by a box's width, and by one more from band to band.
        moves = [width * (row % self.box_rows) + row // self.box_rows for row in rows]
        return [names[(move + column) % self.side] for move in moves for column in columns]

    def _shown(self, grid: list[int], random: Random) -> set[int]:
        """The cells to give: at random, or what is left when as many as can be are blanked with one answer."""
        order = random.sample(range(self.length), self.length)
        if not self.unique:
            return set(order[: self.given])
        shown = set(order)
        for cell in order:
            if len(shown) == self.given:
                break
            fewer = [token if at in shown and at != cell else self.blank for at, token in enumerate(grid)]
            if len(self.answers(fewer)) == 1:
                shown.remove(cell)
        return shown


def latin_square(n: int = 4, given: int = 4, *, unique: bool = False) -> Grid:
    """A Latin square of n symbols; as a rule with many answers."""
    if n < 2:
        raise InputError(f"n={n}: a Latin square has at least 2 rows")
    return Grid("latin square", n, 1, given, unique)


def sudoku(n: int = 4, given: int | None = None, *, unique: bool | None = None) -> Grid:
    """A sudoku of n = 4 or 9 symbols. By default 6 given cells and one answer, or 36 given cells and any number."""
    if n not in (4, 9):
        raise InputError(f"n={n}: a sudoku has 4 or 9 symbols")
    cells = (6 if n == 4 else 36) if given is None else given
    return Grid("sudoku", n, isqrt(n), cells, n == 4 if unique is None else unique)


@cache
def _units(side: int, box_rows: int) -> tuple[tuple[int, ...], ...]:
    """Cells of each row, column and box."""
    width = side // box_rows
    place = [(cell // side, cell % side) for cell in range(side * side)]
    kinds = [
        [row for row, _ in place],
        [column for _, column in place],
        [row // box_rows * box_rows + column // width for row, column in place],
    ]
    return tuple(tuple(c for c, unit in enumerate(kind) if unit == n) for kind in kinds for n in range(side))


@cache
def _all_grids(side: int, box_rows: int) -> NDArray[np.int64]:
    """Every full grid [S, side * side], in lexicographic order."""
    peers = [
        sorted({other for unit in _units(side, box_rows) if cell in unit for other in unit if other < cell})
        for cell in range(side * side)
    ]
    grids: list[list[int]] = [[]]
    for earlier in peers:
        grids = [[*g, token] for g in grids for token in range(side) if all(g[other] != token for other in earlier)]
    return np.array(grids, dtype=np.int64)


def _rearranged(side: int, group: int, random: Random) -> list[int]:
    """Lines 0 … side-1 in groups of `group`: the groups in random order, and the lines in each."""
    bands = [list(range(begin, begin + group)) for begin in range(0, side, group)]
    random.shuffle(bands)
    return [line for band in bands for line in random.sample(band, group)]
