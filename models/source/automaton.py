"""The grammar compiled: what each next word does to the stack, and with which probability.

This is the table of an LL(1) parser with probabilities in it. The state after any prefix is a stack of symbols (what
must still come, the next on top) and a memory of drawn words. The top symbol and the next word have at most one move
between them; a symbol that may add nothing is skipped if the word is not its own. So a text has at most one parse, and
its probability is the product of the moves' and skips'. `compile_grammar` refuses a grammar for which this fails: two
alternatives that begin with the same word, or an empty one whose word could also follow.

Symbols and words are small integers here. A symbol that looks into the memory has no moves of its own: see `memory`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..tokenizer import EOS
from .grammar import START, Alternative, Call, Draw, Grammar, Pick, Recall, Symbol, Word


class Move(NamedTuple):
    """What a word does: nats of log-probability, the symbols that it puts on the stack (the next one last), and the
    choices that it reveals (indices into `Automaton.choices`)."""

    log_prob: float
    push: tuple[int, ...]
    choices: tuple[int, ...]
    prob: float


@dataclass(frozen=True, slots=True)
class Automaton:
    """`moves[symbol]`: word -> move. `skips[symbol]`: the move of adding nothing, or None.

    `memory[symbol]`: the Draw, Recall or Pick that the symbol stands for, else None; `pool[symbol]`: its words' ids.
    `breaks[symbol]`: the kind of violation if the symbol's word is not the next. `starts[symbol]`: the classes of words
    with which it may begin. `choices`: (head, alternative) for each choice that is counted.
    """

    start: int
    moves: list[dict[int, Move]]
    skips: list[Move | None]
    memory: list[Draw | Recall | Pick | None]
    pools: list[tuple[int, ...]]
    breaks: list[str]
    starts: list[frozenset[str]]
    choices: tuple[tuple[str, int], ...]


def compile_grammar(grammar: Grammar, ids: Mapping[str, int]) -> Automaton:
    """The tables of `grammar` for words with these `ids`. Raises ValueError if a text could have two derivations."""
    compiler = _Compiler(grammar, ids)
    compiler.check_followers()
    return Automaton(
        start=compiler.numbers[Call(START)],
        moves=compiler.moves,
        skips=compiler.skips,
        memory=[symbol if isinstance(symbol, Draw | Recall | Pick) else None for symbol in compiler.symbols],
        pools=[
            tuple(ids[item] for item in symbol.items) if isinstance(symbol, Draw | Recall | Pick) else ()
            for symbol in compiler.symbols
        ],
        breaks=["" if isinstance(symbol, Call) else symbol.breaks for symbol in compiler.symbols],
        starts=[frozenset(starts) for starts in compiler.starts],
        choices=compiler.choices,
    )


class _Compiler:
    def __init__(self, grammar: Grammar, ids: Mapping[str, int]) -> None:
        self.choices = tuple(
            (head, index) for head, names in grammar.choice_points.items() for index in range(len(names))
        )
        self._choice_of = {choice: index for index, choice in enumerate(self.choices)}
        self._grammar = grammar
        self._ids = ids
        self.symbols: list[Symbol] = [Call(START)]
        self.numbers: dict[Symbol, int] = {Call(START): 0}
        for symbol in self.symbols:  # which grows while it is read
            for part in (part for alternative in self._alternatives(symbol) for part in alternative.symbols):
                if part not in self.numbers:
                    self.numbers[part] = len(self.symbols)
                    self.symbols.append(part)
        self.moves: list[dict[int, Move]] = [{} for _ in self.symbols]
        self.skips: list[Move | None] = [None for _ in self.symbols]
        self.starts: list[set[str]] = [set() for _ in self.symbols]
        self._begun: set[int] = set()
        self._done: set[int] = set()
        for number in range(len(self.symbols)):
            self._fill(number)

    def _alternatives(self, symbol: Symbol) -> tuple[Alternative, ...]:
        return self._grammar.rules[symbol.rule].alternatives if isinstance(symbol, Call) else ()

    def _fill(self, number: int) -> None:
        """Make the symbol's moves, unless they are made."""
        if number in self._done:
            return
        symbol = self.symbols[number]
        if number in self._begun:
            raise ValueError(f"grammar: {symbol} may begin with itself")
        self._begun.add(number)
        if isinstance(symbol, Word):
            # After the end of a document the next one begins.
            push = (self.numbers[Call(START)],) if symbol.text == EOS else ()
            self.moves[number][self._ids[symbol.text]] = Move(0.0, push, (), 1.0)
        elif isinstance(symbol, Call):
            rule = self._grammar.rules[symbol.rule]
            if rule.is_word_class:
                self.starts[number].add(symbol.rule)
            for position, alternative in enumerate(rule.alternatives):
                choice = self._choice_of.get((rule.head, position))
                self._add(number, alternative, () if choice is None else (choice,))
        self._done.add(number)

    def _add(self, number: int, alternative: Alternative, choices: tuple[int, ...]) -> None:
        """Add the alternative's moves: those of its first symbol, and of the next one if the first can be skipped."""
        prob = alternative.share
        for position, symbol in enumerate(alternative.symbols):
            first = self.numbers[symbol]
            self._fill(first)
            if isinstance(symbol, Draw | Recall | Pick):
                raise ValueError(f"grammar: {self.symbols[number]} may begin with {symbol}; put a word before it")
            self.starts[number] |= self.starts[first]
            rest = tuple(self.numbers[later] for later in reversed(alternative.symbols[position + 1 :]))
            for word, move in self.moves[first].items():
                if word in self.moves[number]:
                    raise ValueError(f"grammar: two alternatives of {self.symbols[number]} begin with word {word}")
                share = prob * move.prob
                self.moves[number][word] = Move(math.log(share), rest + move.push, choices + move.choices, share)
            skip = self.skips[first]
            if skip is None:
                return
            prob, choices = prob * skip.prob, choices + skip.choices
        if self.skips[number] is not None:
            raise ValueError(f"grammar: two alternatives of {self.symbols[number]} may add nothing")
        self.skips[number] = Move(math.log(prob), (), choices, prob)

    def check_followers(self) -> None:
        """No word that may follow a symbol which can be empty may also begin it."""
        begins = [set(moves) for moves in self.moves]
        for index, symbol in enumerate(self.symbols):
            if isinstance(symbol, Draw | Recall | Pick):
                begins[index] = {self._ids[item] for item in symbol.items}
        followers: list[set[int]] = [set() for _ in self.symbols]
        grew = True
        while grew:
            before = sum(map(len, followers))
            for owner, symbol in enumerate(self.symbols):
                for alternative in self._alternatives(symbol):
                    after = set(followers[owner])
                    for part in reversed([self.numbers[part] for part in alternative.symbols]):
                        followers[part] |= after
                        after = begins[part] | (after if self.skips[part] is not None else set())
            grew = sum(map(len, followers)) > before
        for index, symbol in enumerate(self.symbols):
            if self.skips[index] is not None and (shared := begins[index] & followers[index]):
                raise ValueError(f"grammar: {symbol} may be empty, and words {sorted(shared)} may begin or follow it")
