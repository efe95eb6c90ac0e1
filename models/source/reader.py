"""The parse: one pass over the words of a text, a dictionary look-up or two a word.

The reader's state after any prefix is exact: the stack of what must still come, and the memory of the words drawn for a
copy or a permutation. From it follow the probabilities of every next word (`outcomes`) and their entropy.
"""

import math
from collections.abc import Iterable, Iterator

from .automaton import Automaton, Move
from .grammar import Draw, Pick, Recall


class Reader:
    """Reads words, beginning at a document's start; `log_probs` and `choices` grow by what each word says."""

    __slots__ = ("_automaton", "_entropies", "choices", "drawn", "left", "log_probs", "stack")

    def __init__(self, automaton: Automaton) -> None:
        self._automaton = automaton
        self.stack = [automaton.start]
        self.drawn: list[int] = []  # the words in the memory, in their order
        self.left: list[int] = []  # those of them not yet picked
        self.log_probs: list[float] = []
        self.choices: list[int] = []

    def read(self, words: Iterable[int]) -> bool:
        """Read `words`, nats and choices appended for each. False at the first that is impossible, which leaves the
        state as it was before that word."""
        stack, moves = self.stack, self._automaton.moves
        add_log_prob, add_choices = self.log_probs.append, self.choices.extend
        for word in words:
            move = moves[stack[-1]].get(word) or self._detour(word)
            if move is None:
                return False
            stack.pop()
            stack.extend(move[1])
            add_log_prob(move[0])
            if move[2]:
                add_choices(move[2])
        return True

    def outcomes(self) -> Iterator[tuple[int, float]]:
        """Every word that may come next, with its probability."""
        prob = 1.0
        for symbol in reversed(self.stack):
            if self._automaton.memory[symbol] is not None:
                allowed = self.allowed(symbol)
                yield from ((word, prob / len(allowed)) for word in allowed)
                return
            yield from ((word, prob * move.prob) for word, move in self._automaton.moves[symbol].items())
            skip = self._automaton.skips[symbol]
            if skip is None:
                return
            prob *= skip.prob

    def entropy(self) -> float:
        """Nats of uncertainty about the next word."""
        return -sum(prob * math.log(prob) for _, prob in self.outcomes())

    def allowed(self, symbol: int) -> list[int]:
        """The words, equally likely, that a symbol which looks into the memory allows now."""
        kind = self._automaton.memory[symbol]
        match kind:
            case Recall():
                return [self.drawn[kind.number - 1]]
            case Pick():
                return self.left
            case Draw():
                held = self.drawn[: kind.number - 1]
                return [word for word in self._automaton.pools[symbol] if word not in held]
            case None:
                raise ValueError(f"symbol {symbol} does not look into the memory")

    def remember(self, symbol: int, word: int) -> None:
        """Take note that the symbol, which looks into the memory, became `word`."""
        kind = self._automaton.memory[symbol]
        if isinstance(kind, Draw):
            self.drawn = [*self.drawn[: kind.number - 1], word]
            self.left = sorted(self.drawn)
        elif isinstance(kind, Pick):
            self.left = [other for other in self.left if other != word]

    def _detour(self, word: int) -> Move | None:
        """The move of a word that is not the top symbol's own: out of the memory, or after symbols that add nothing.

        What is skipped is taken off the stack, all but the symbol that the move is for.
        """
        automaton, stack = self._automaton, self.stack
        log_prob, prob = 0.0, 1.0
        choices: tuple[int, ...] = ()
        depth = len(stack)
        while True:
            depth -= 1
            symbol = stack[depth]
            if automaton.memory[symbol] is not None:
                allowed = self.allowed(symbol)
                if word not in allowed:
                    return None
                move = Move(-math.log(len(allowed)), (), (), 1 / len(allowed))
                self.remember(symbol, word)
                break
            found = automaton.moves[symbol].get(word)
            if found is not None:
                move = found
                break
            skip = automaton.skips[symbol]
            if skip is None:
                return None
            log_prob += skip.log_prob
            prob *= skip.prob
            choices += skip.choices
        del stack[depth + 1 :]
        return Move(log_prob + move.log_prob, move.push, choices + move.choices, prob * move.prob)
