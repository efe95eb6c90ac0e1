"""Reads `grammar.toml`, whose notation is explained at its head.

The file is ours: a mistake in it raises ValueError and not InputError.
"""

import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..tokenizer import EOS
from .grammar import START, Alternative, Call, Draw, Grammar, Pick, Recall, Rule, Symbol, Word

GRAMMAR_FILE = Path(__file__).with_name("grammar.toml")
_SYMBOL = re.compile(r"<[^<>]+>|\S+")
_RECALLS = {"same": "copy", "mirror": "permutation"}


def read_grammar(text: str) -> Grammar:
    """The grammar that a TOML text in the notation of `grammar.toml` describes."""
    data = tomllib.loads(text)
    features: dict[str, list[str]] = data["features"]
    signs = [pair.split() for pair in data["signs"]["brackets"]]
    reader = _Notation(features, data["words"], closers=tuple(closer for _, closer in signs))
    rules: dict[str, Rule] = {}
    # Heads with values in place of features first: they take the place of what the general head would say.
    for head, body in sorted(data["rules"].items(), key=lambda item: sum(part in features for part in item[0].split())):
        for name, bound in reader.instances(head):
            if name not in rules:
                rules[name] = Rule(head, reader.alternatives(head, body, bound), False, bound)
    for name, listed in data["words"].items():
        if name in rules:
            raise ValueError(f"grammar: {name!r} names both a rule and a class of words")
        rules[name] = Rule(name.split()[0], reader.word_class(listed), True, reader.values_in(name))
    called = {
        symbol.rule
        for rule in rules.values()
        for a in rule.alternatives
        for symbol in a.symbols
        if isinstance(symbol, Call)
    }
    if unknown := sorted(called - rules.keys()):
        raise ValueError(f"grammar: no rule or class of words is named {unknown}")
    if unused := sorted(rules.keys() - called - {START} - reader.drawn):
        raise ValueError(f"grammar: nothing leads to {unused}")
    return Grammar(
        rules={name: rule for name, rule in rules.items() if name not in reader.drawn},
        openers=tuple(opener for opener, _ in signs),
        closers=reader.closers,
        stops=(*data["signs"]["stops"], EOS),
    )


class _Notation:
    """Reads heads and symbols, given the features and the classes of words."""

    def __init__(
        self, features: Mapping[str, Sequence[str]], words: Mapping[str, str], closers: tuple[str, ...]
    ) -> None:
        self.closers = closers
        self.drawn: set[str] = set()  # classes that only the memory draws from
        self._features = features
        self._words = words

    def instances(self, head: str) -> Iterator[tuple[str, dict[str, str]]]:
        """The name for every choice of the values of the head's features, and that choice."""
        parts = head.split()
        open_features = [part for part in parts if part in self._features]
        for values in itertools.product(*(self._features[feature] for feature in open_features)):
            bound = dict(zip(open_features, values, strict=True))
            yield " ".join(bound.get(part, part) for part in parts), bound

    def values_in(self, name: str) -> dict[str, str]:
        """Feature -> value for the values that occur in the name of a class of words."""
        return {
            feature: value
            for value in name.split()[1:]
            for feature, values in self._features.items()
            if value in values
        }

    def alternatives(
        self, head: str, body: str | dict[str, list[object]], bound: Mapping[str, str]
    ) -> tuple[Alternative, ...]:
        choices: dict[str, list[object]] = {"only": [1, body]} if isinstance(body, str) else body
        total = float(sum(float(str(weight)) for weight, _ in choices.values()))
        return tuple(
            Alternative(name, float(str(weight)) / total, self._symbols(head, str(text), bound))
            for name, (weight, text) in choices.items()
        )

    def word_class(self, listed: str) -> tuple[Alternative, ...]:
        entries = listed.split()
        total = sum(1 / (rank + 3) for rank in range(len(entries)))
        return tuple(
            Alternative(entry, 1 / (rank + 3) / total, _joined(entry.split("_"))) for rank, entry in enumerate(entries)
        )

    def _symbols(self, head: str, text: str, bound: Mapping[str, str]) -> tuple[Symbol, ...]:
        symbols: list[Symbol] = []
        items: tuple[str, ...] = ()
        for piece in _SYMBOL.findall(text):
            name, *arguments = piece.strip("<>").split()
            if not piece.startswith("<"):
                symbols.append(Word(piece, "bracket" if piece in self.closers else ""))
            elif name == "end":
                symbols.append(Word(EOS))
            elif name == "new":
                self.drawn.add(arguments[0])
                items = tuple(self._words[arguments[0]].split())
                symbols.append(Draw(items, int(arguments[1])))
            elif name in _RECALLS:
                symbols.append(Recall(items, int(arguments[0]), _RECALLS[name]))
            elif name == "left":
                symbols.append(Pick(items, int(arguments[0])))
            else:
                symbols.append(Call(" ".join([name, *(self._value(head, argument, bound) for argument in arguments)])))
        return tuple(symbols)

    def _value(self, head: str, argument: str, bound: Mapping[str, str]) -> str:
        if argument.endswith("+"):
            values = self._features[argument[:-1]]
            return values[values.index(bound[argument[:-1]]) + 1]
        if argument in self._features and argument not in bound:
            raise ValueError(f"grammar: {head!r} calls for a {argument} but has none")
        return bound.get(argument, argument)


def _joined(words: list[str]) -> tuple[Symbol, ...]:
    first, *others = words
    return (Word(first), *(Word(word, "pair") for word in others))
