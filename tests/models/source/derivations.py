"""Another way to write texts: top down, a derivation tree at a time, straight from the rules.

It shares with the automaton the grammar's data and nothing else: no tables, no stack of moves, no look-ahead.
"""

from __future__ import annotations

import math
import random

from dlmbench.models.source.grammar import START, Call, Draw, Grammar, Pick, Recall, Word


class Writer:
    """Writes one document: its `words`, its derivation's `log_prob` in nats, and the (head, alternative) `chosen`."""

    def __init__(self, grammar: Grammar, seed: int) -> None:
        self.words: list[str] = []
        self.log_prob = 0.0
        self.chosen: list[tuple[str, str]] = []
        self._grammar = grammar
        self._choice_points = grammar.choice_points
        self._random = random.Random(seed)
        self._memory: list[str] = []
        self._unused: list[str] = []
        self._write(START)

    def _write(self, name: str) -> None:
        rule = self._grammar.rules[name]
        (alternative,) = self._random.choices(rule.alternatives, [entry.share for entry in rule.alternatives])
        self.log_prob += math.log(alternative.share)
        if rule.head in self._choice_points and not rule.is_word_class:
            self.chosen.append((rule.head, alternative.name))
        for symbol in alternative.symbols:
            match symbol:
                case Word():
                    self.words.append(symbol.text)
                case Call():
                    self._write(symbol.rule)
                case Draw():
                    if symbol.number == 1:
                        self._memory = []
                    self._memory.append(self._any([item for item in symbol.items if item not in self._memory]))
                    self._unused = list(self._memory)
                case Recall():
                    self.words.append(self._memory[symbol.number - 1])
                case Pick():
                    self._unused.remove(self._any(self._unused))

    def _any(self, words: list[str]) -> str:
        word = self._random.choice(words)
        self.log_prob -= math.log(len(words))
        self.words.append(word)
        return word
