"""Tokens of a text, counted by a tokenizer that is named: what a server says of its own work is shown beside it."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

from ..tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Tokenised:
    """A text's tokens: `ends` [n] are the characters, from the beginning, after which each token is complete."""

    ends: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ends)

    def within(self, characters: int) -> int:
        """How many tokens the first `characters` characters hold whole."""
        return bisect.bisect_right(self.ends, characters)


def tokenised(tokenizer: Tokenizer, text: str) -> Tokenised:
    """The tokens of a text. Several tokens of one character end with it."""
    ends: list[int] = []
    last = 0
    for end in tokenizer.ends(text):
        last = max(last, end)
        ends.append(last)
    return Tokenised(tuple(ends))
