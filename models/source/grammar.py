"""The grammar as data, its features filled in.

A rule written for features ("rest topic number") becomes one rule for each of their values ("rest sea one"). What an
alternative adds is a tuple of symbols:

    Word     this very word
    Call     another rule, or a class of words
    Draw     <new item 2>: a word that the memory does not hold yet
    Recall   <same 2>, <mirror 2>: a word out of the memory
    Pick     <left 3>: one of the 3 words of the memory that were not picked yet

`notation.py` reads the file.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ..tokenizer import EOS

START = "document"


@dataclass(frozen=True, slots=True)
class Word:
    """A word or sign. `breaks`: the kind of violation if another word stands in its place, "" if it has none."""

    text: str
    breaks: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    rule: str


@dataclass(frozen=True, slots=True)
class Draw:
    """A word of `items` that no lower number drew, all with the same chance; number 1 forgets the words before it."""

    items: tuple[str, ...]
    number: int
    breaks: str = "permutation"


@dataclass(frozen=True, slots=True)
class Recall:
    """The word drawn under `number`."""

    items: tuple[str, ...]
    number: int
    breaks: str


@dataclass(frozen=True, slots=True)
class Pick:
    """One of the `left` drawn words that were not picked before, all with the same chance."""

    items: tuple[str, ...]
    left: int
    breaks: str = "permutation"


Symbol = Word | Call | Draw | Recall | Pick


@dataclass(frozen=True, slots=True)
class Alternative:
    name: str
    share: float
    symbols: tuple[Symbol, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """One choice. `head` is its name in the file, which rules that differ in features alone have in common."""

    head: str
    alternatives: tuple[Alternative, ...]
    is_word_class: bool
    features: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Grammar:
    rules: Mapping[str, Rule]
    openers: tuple[str, ...]
    closers: tuple[str, ...]
    stops: tuple[str, ...]

    @property
    def choice_points(self) -> dict[str, tuple[str, ...]]:
        """Head -> names of its alternatives, for the written rules that leave a choice (not the classes of words)."""
        return {
            rule.head: tuple(alternative.name for alternative in rule.alternatives)
            for rule in self.rules.values()
            if not rule.is_word_class and len(rule.alternatives) > 1
        }

    @property
    def words(self) -> list[str]:
        """Every word and sign in alphabetical order, the end of the document left out."""
        symbols = (
            symbol
            for rule in self.rules.values()
            for alternative in rule.alternatives
            for symbol in alternative.symbols
        )
        found = {
            text
            for symbol in symbols
            if not isinstance(symbol, Call)
            for text in ((symbol.text,) if isinstance(symbol, Word) else symbol.items)
        }
        return sorted(found - {EOS})
