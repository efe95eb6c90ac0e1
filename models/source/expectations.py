"""What the source does on average, in closed form.

Let v(X) be how often symbol X is expected in one document: 1 for the document itself, plus, for every rule R with X in
it, v(R) times the share of the alternative times the number of X in it. That is one linear system, and everything else
is a sum over it: the length is the v of all words and signs, the entropy is the sum of v(R) · H(choice at R) over the
rules, plus log m wherever the memory allows m words (the chain rule: a text has one derivation, so that the entropy of
texts is the entropy of the choices).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .grammar import START, Call, Draw, Grammar, Pick, Recall, Symbol, Word


@dataclass(frozen=True, slots=True)
class Expectations:
    """Per document: expected tokens (its end counts as one) and nats. `word_frequencies` [vocab_size] float64: each
    id's share of all tokens of an endless stream. `rule_frequencies`: head -> share of each alternative at that choice.
    `rule_rates`: head -> choices made there per token."""

    document_tokens: float
    document_entropy: float
    word_frequencies: NDArray[np.float64]
    rule_frequencies: dict[str, NDArray[np.float64]]
    rule_rates: dict[str, float]


def expect(grammar: Grammar, ids: Mapping[str, int], vocab_size: int) -> Expectations:
    """Exact expectations over the documents of `grammar`; `ids`: word -> id, below `vocab_size`."""
    visits = _visits(grammar)
    counts = np.zeros(vocab_size)
    nats = 0.0
    at_choice: dict[str, float] = dict.fromkeys(grammar.choice_points, 0.0)
    shares: dict[str, NDArray[np.float64]] = {}
    for symbol, expected in visits.items():
        match symbol:
            case Word(text):
                counts[ids[text]] += expected
            case Call(name):
                rule = grammar.rules[name]
                nats -= expected * sum(a.share * math.log(a.share) for a in rule.alternatives)
                if rule.head in at_choice and not rule.is_word_class:
                    at_choice[rule.head] += expected
                    shares[rule.head] = np.array([alternative.share for alternative in rule.alternatives])
            case _:
                # By symmetry every word of the class is as likely as the others, also in a copy or a rearrangement.
                for item in symbol.items:
                    counts[ids[item]] += expected / len(symbol.items)
                nats += expected * _memory_entropy(symbol)
    tokens = float(counts.sum())
    return Expectations(
        document_tokens=tokens,
        document_entropy=nats,
        word_frequencies=counts / tokens,
        rule_frequencies=shares,
        rule_rates={head: expected / tokens for head, expected in at_choice.items()},
    )


def _memory_entropy(symbol: Draw | Recall | Pick) -> float:
    match symbol:
        case Draw(items, number, _):
            return math.log(len(items) - number + 1)
        case Pick(_, left, _):
            return math.log(left)
        case Recall():
            return 0.0


def _visits(grammar: Grammar) -> dict[Symbol, float]:
    """Symbol -> how often it is expected in one document."""
    rules = list(grammar.rules)
    place = {name: index for index, name in enumerate(rules)}
    calls = np.zeros((len(rules), len(rules)))  # [called, caller]
    others: list[tuple[Symbol, int, float]] = []
    for name, rule in grammar.rules.items():
        for alternative in rule.alternatives:
            for symbol in alternative.symbols:
                if isinstance(symbol, Call):
                    calls[place[symbol.rule], place[name]] += alternative.share
                else:
                    others.append((symbol, place[name], alternative.share))
    document = np.zeros(len(rules))
    document[place[START]] = 1.0
    expected = np.linalg.solve(np.eye(len(rules)) - calls, document)
    visits: dict[Symbol, float] = {Call(name): float(expected[place[name]]) for name in rules}
    for symbol, caller, share in others:
        visits[symbol] = visits.get(symbol, 0.0) + float(expected[caller]) * share
    return visits
