"""Texts from the source: the same seed gives the same words on every machine.

The draws come from numpy's PCG64 and are compared with running sums of the alternatives' shares, in a fixed order:
only additions and divisions, which round alike everywhere.
"""

from bisect import bisect_right
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from .automaton import Automaton, Move
from .reader import Reader

_DRAWS = 1 << 14


class Sampler:
    """Tables of what each symbol can become: the running sums, and the (word, move) that each step of them stands for;
    word None: nothing is added."""

    def __init__(self, automaton: Automaton) -> None:
        self._automaton = automaton
        self._outcomes: list[list[tuple[int | None, tuple[int, ...]]]] = []
        self._sums: list[list[float]] = []
        for moves, skip in zip(automaton.moves, automaton.skips, strict=True):
            outcomes: list[tuple[int | None, Move]] = [*moves.items(), *([(None, skip)] if skip else [])]
            self._outcomes.append([(word, move.push) for word, move in outcomes])
            # All but the last, which takes what rounding leaves.
            self._sums.append(list(accumulate(move.prob for _, move in outcomes))[:-1])

    def stream(self, tokens: int, random: np.random.Generator) -> NDArray[np.int32]:
        """ids [tokens] int32: documents one after the other, the last one cut."""
        words: list[int] = []
        reader = Reader(self._automaton)  # for its stack and its memory
        stack, memory = reader.stack, self._automaton.memory
        all_outcomes, all_sums = self._outcomes, self._sums
        draws: list[float] = []  # used from the end, in the order in which they were drawn
        chunk = min(tokens + 16, _DRAWS)
        while len(words) < tokens:
            symbol = stack.pop()
            if memory[symbol] is not None:
                allowed = reader.allowed(symbol)
                draws = draws or random.random(chunk).tolist()[::-1]
                word = allowed[int(draws.pop() * len(allowed))]
                reader.remember(symbol, word)
                words.append(word)
                continue
            outcomes, sums = all_outcomes[symbol], all_sums[symbol]
            index = 0
            if sums:
                draws = draws or random.random(chunk).tolist()[::-1]
                index = bisect_right(sums, draws.pop())
            chosen, push = outcomes[index]
            stack.extend(push)
            if chosen is not None:
                words.append(chosen)
        return np.array(words, dtype=np.int32)
