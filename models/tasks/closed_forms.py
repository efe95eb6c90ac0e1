"""How often independent draws from perfect marginals end in a right answer: in closed form.

Steps commit `counts` positions: g of the m that are left. Every position of a group is drawn by itself, from its true
marginal given the groups before. Both tasks look the same from every position, so that the order of positions does not
matter as long as it does not look at the draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, factorial, perm


def shuffle_validity(counts: Sequence[int]) -> float:
    """Any order of n different tokens: each position draws evenly from the m tokens left, and all g must differ.

    A group succeeds with m!/((m-g)! m^g), and then the rest is a shuffle of m - g tokens.

    >>> shuffle_validity([2, 2, 2])
    0.3125
    """
    valid, left = 1.0, sum(counts)
    for group in counts:
        valid *= perm(left, group) / left**group
        left -= group
    return valid


def moved_shuffle_validity(counts: Sequence[int]) -> float:
    """Any order but the given one (ParallelBench's rule).

    Once a token has moved, this is `shuffle_validity`. As long as all stand at their own places, m! - 1 answers are
    left, of which (m-1)! - 1 keep a given position in place and (m-1)! put a given other token there. A group with f of
    its g positions in place is one of C(g, f) times the injections of the other g - f without a fixed point.

    >>> moved_shuffle_validity([2])
    1.0
    """
    in_place, moved, left = 1.0, 0.0, sum(counts)
    for group in counts:
        moved *= perm(left, group) / left**group
        answers = factorial(left) - 1
        if answers:
            keep, go = (factorial(left - 1) - 1) / answers, factorial(left - 1) / answers
            moved += in_place * sum(
                comb(group, fixed) * _none_in_place(group - fixed, left - fixed) * keep**fixed * go ** (group - fixed)
                for fixed in range(group)
            )
            in_place *= keep**group
        elif group:
            in_place = 0.0  # one position is left, and its own token is all that it could take
        left -= group
    return moved


def replace_one_validity(counts: Sequence[int]) -> float:
    """One of n tokens becomes a given other one; where is free.

    Until a group has replaced one, each of the m positions left replaces with probability 1/m; afterwards none does. So
    a group keeps all its tokens with (1 - 1/m)^g and replaces exactly one with g/m (1 - 1/m)^(g-1); the answer is right
    if some group replaces exactly one after groups that kept theirs. With one group of n: (1 - 1/n)^(n-1).

    >>> replace_one_validity([2])
    0.5
    """
    valid, kept, left = 0.0, 1.0, sum(counts)
    for group in counts:
        if group:
            stays = 1 - 1 / left
            valid += kept * group / left * stays ** (group - 1)
            kept *= stays**group
        left -= group
    return valid


def _none_in_place(positions: int, tokens: int) -> int:
    """Ways to give `positions` different tokens, none its own, all of whose own are among the `tokens`."""
    return sum((-1) ** own * comb(positions, own) * perm(tokens - own, positions - own) for own in range(positions + 1))
