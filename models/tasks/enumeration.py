"""The same probability where no formula is known: exact, from the list of all right answers.

Let N(C) be the number of answers that agree with answer s on the positions C. Independent draws commit the group G of s
after C with probability prod_{i in G} N(C + i) / N(C). A random order takes each group of its size equally often, so
the probability of ending in s is a recursion over sets of positions, and the validity its sum over s.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from ... import InputError

_MOST_FREE = 16  # positions over whose subsets a recursion is affordable


def enumerated_validity(answers: NDArray[np.integer], counts: Sequence[int]) -> float:
    """Probability of a right answer in random order, from all `answers` [S, L]; `counts` sum to L.

    Raises InputError without answers, or with more than 16 positions that differ among them.
    """
    if not len(answers):
        raise InputError("answers: expected at least one right answer to enumerate, found none")
    free = answers[:, (answers != answers[0]).any(axis=0)]
    size = free.shape[1]
    if size > _MOST_FREE:
        raise InputError(f"answers differ at {size} positions; enumeration reaches {_MOST_FREE}: give more cells")
    agree = (free[:, None, :] == free[None, :, :]) @ (1 << np.arange(size, dtype=np.int64))
    # Answers to which the others stand alike (renamed symbols, say) are equally likely to be reached.
    patterns, multiplicity = np.unique(np.sort(agree, axis=1), axis=0, return_counts=True)
    tables = [_agreeing(pattern, size) for pattern in patterns]
    reached = _reached(tables, size, answers.shape[1] - size, counts)
    return min(1.0, float(multiplicity @ np.array(reached)))  # rounding may pass it


def _agreeing(pattern: NDArray[np.int64], size: int) -> NDArray[np.float64]:
    """N(C) for every set C of positions [2^size], from the sets of positions on which each answer agrees."""
    table = np.bincount(pattern, minlength=1 << size).astype(np.float64)
    for position in range(size):  # sums over supersets, one position after the other
        halves = table.reshape(-1, 2, 1 << position)
        halves[:, 0] += halves[:, 1]
    return table


def _reached(tables: list[NDArray[np.float64]], size: int, constant: int, counts: Sequence[int]) -> list[float]:
    """Probability of ending in the answer of each table.

    Positions that all answers share are no part of the sets: `constant` of them only fill places in the groups.
    """
    after = [np.ones(1 << size) for _ in tables]
    done = size + constant
    for group in reversed(counts):
        done -= group
        left = size + constant - done
        before = [np.zeros(1 << size) for _ in tables]
        for taken in range(max(0, done - constant), min(size, done) + 1):
            fillers = left - (size - taken)
            for fresh in range(min(group, size - taken) + 1):
                chance = comb(fillers, group - fresh) / comb(left, group)
                if not chance:
                    continue
                sets, added = _extensions(size, taken, fresh)
                for table, value, result in zip(tables, after, before, strict=True):
                    weight = value[sets[:, None] | added.sum(axis=-1)]
                    for one in range(fresh):
                        weight *= table[sets[:, None] | added[..., one]]
                    result[sets] += chance * weight.sum(axis=1) / table[sets] ** fresh
        after = before
    return [float(value[0]) for value in after]


def _extensions(size: int, taken: int, fresh: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All sets of `taken` positions [n], and for each the bits of all choices of `fresh` others [n, choices, fresh]."""
    sets, others = _sets(size, taken)
    choices = np.array(list(combinations(range(size - taken), fresh)), dtype=np.int64)
    return sets, others[:, choices.reshape(comb(size - taken, fresh), fresh)]


@cache
def _sets(size: int, taken: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sets of `taken` positions as bits [n], and the bits of the positions outside each [n, size - taken]."""
    everything = np.arange(1 << size, dtype=np.int64)
    member = (everything[:, None] >> np.arange(size)) & 1
    chosen = member.sum(axis=1) == taken
    outside = np.nonzero(member[chosen] == 0)[1].reshape(int(chosen.sum()), size - taken)
    return everything[chosen], np.left_shift(np.int64(1), outside)
