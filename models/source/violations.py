"""Which constraint a text broke: a name for the first word that cannot stand where it stands.

    agreement     the other number of a word that could stand there ("the stars … shines")
    pair          a second half that belongs to another first ("new francisco")
    bracket       a bracket or quote that is not open, not the innermost, or not closed in time
    copy          not the word that was to be repeated
    permutation   a word twice in a list, or out of its order or missing in the list's reverse or rearrangement
    topic         the word of another topic in place of one of the document's
    other         any other impossible word

A parallel sampler breaks these without noticing: each word is likely at its own position, together they are impossible.
"""

from .automaton import Automaton
from .grammar import Draw, Grammar
from .reader import Reader

VIOLATIONS = ("none", "agreement", "pair", "bracket", "copy", "permutation", "topic", "other")
_OF_FEATURE = {"number": "agreement", "topic": "topic"}


class Classifier:
    """Names violations. `ids`: word -> id."""

    def __init__(self, grammar: Grammar, automaton: Automaton, ids: dict[str, int]) -> None:
        self._automaton = automaton
        self._classes = {name: rule for name, rule in grammar.rules.items() if rule.is_word_class}
        self._signs = {ids[sign] for sign in (*grammar.openers, *grammar.closers)}
        self._stops = {ids[stop] for stop in grammar.stops}
        self._classes_of: dict[int, list[str]] = {}
        for name, rule in self._classes.items():
            for alternative in rule.alternatives:
                self._classes_of.setdefault(ids[alternative.name.split("_")[0]], []).append(name)

    def kind(self, reader: Reader, word: int) -> int:
        """Index into `VIOLATIONS`; `reader` has read all before `word`, which is impossible."""
        return VIOLATIONS.index(self._name(reader, word))

    def _name(self, reader: Reader, word: int) -> str:
        automaton = self._automaton
        top = reader.stack[-1]
        if isinstance(automaton.memory[top], Draw) and word not in automaton.pools[top]:
            return "other"
        if automaton.breaks[top]:
            return automaton.breaks[top]
        is_open = any(automaton.breaks[symbol] == "bracket" for symbol in reader.stack)
        if word in self._signs or (is_open and word in self._stops):
            return "bracket"
        due = self._due(reader)
        differing = {self._difference(name, other) for name in self._classes_of.get(word, ()) for other in due}
        for kind in ("agreement", "topic"):
            if kind in differing:
                return kind
        return "bracket" if automaton.breaks[self._last(reader)] == "bracket" else "other"

    def _due(self, reader: Reader) -> set[str]:
        """The classes of words of which one could come next."""
        due: set[str] = set()
        for symbol in reversed(reader.stack):
            due |= self._automaton.starts[symbol]
            if self._automaton.skips[symbol] is None:
                break
        return due

    def _last(self, reader: Reader) -> int:
        """The first symbol from the top that must add a word."""
        return next(symbol for symbol in reversed(reader.stack) if self._automaton.skips[symbol] is None)

    def _difference(self, name: str, other: str) -> str | None:
        """The violation if a word of class `name` stands for one of class `other`; None if they are unlike things."""
        one, two = self._classes[name], self._classes[other]
        if one.head != two.head:
            return None
        differing = {feature for feature, value in one.features.items() if two.features.get(feature) != value}
        return _OF_FEATURE["topic"] if "topic" in differing else _OF_FEATURE["number"]
