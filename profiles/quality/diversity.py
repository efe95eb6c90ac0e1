"""How many different words and word sequences the texts have."""

from __future__ import annotations

import numpy as np

from ... import InputError
from ..record import Value
from .intervals import mean
from .texts import Ints, Texts

TOKENS = 1000


def distinct_n(texts: Texts, n: int, *, tokens: int = TOKENS) -> Value:
    """Distinct n-grams / tokens (Li et al. 2016, distinct-1 and distinct-2), in samples of exactly `tokens` tokens.

    The share falls with the size of the sample, since new words become rarer, so it compares only at equal size. The
    texts are gathered, in order, into groups of `tokens` tokens (a group's last text is cut and its rest left out).
    The value is the mean over groups, the interval Student's t over groups, `n` their number. A bootstrap over texts
    would not do: a text drawn twice adds no new word. n-grams do not cross texts.

    Null with a reason where all texts together have fewer tokens. Raises InputError for n below 1 or tokens below n.
    """
    if n < 1 or tokens < n:
        raise InputError(f"distinct-{n} of {tokens} tokens: give n from 1 on and at least n tokens")
    shares = [_distinct(group, n) / tokens for group in _groups(texts, tokens)]
    if not shares:
        why = f"the texts have {texts.tokens} tokens, fewer than the {tokens} that distinct-{n} is taken of"
        return Value(value=None, n=0, why=why)
    return mean(np.array(shares), why=f"one sample of {tokens} tokens: no interval")


def _groups(texts: Texts, tokens: int) -> list[list[Ints]]:
    groups: list[list[Ints]] = []
    group: list[Ints] = []
    missing = tokens
    for row in texts.rows():
        group.append(row[:missing])
        missing -= len(group[-1])
        if not missing:
            groups.append(group)
            group, missing = [], tokens
    return groups


def _distinct(group: list[Ints], n: int) -> int:
    windows = [np.lib.stride_tricks.sliding_window_view(row, n) for row in group if len(row) >= n]
    return len(np.unique(np.concatenate(windows), axis=0)) if windows else 0
