"""The source as others use it: texts, their exact probabilities, and what they average to."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ... import InputError
from ..tokenizer import Tokenizer
from .automaton import Automaton, compile_grammar
from .expectations import Expectations, expect
from .notation import GRAMMAR_FILE, read_grammar
from .reader import Reader
from .sampler import Sampler
from .violations import VIOLATIONS, Classifier
from .vocabulary import source_tokenizer, token_ids


@dataclass(frozen=True, slots=True)
class Scores:
    """What the source says of texts [B, S].

    `log_prob` [B, S] float64: nats of each token given all before it, -inf from the first impossible one on.
    `valid_until` [B] int64: the position of that one, S if there is none.
    `violation` [B] int8: what it broke, an index into `VIOLATIONS`; 0 if nothing.
    `prompt_length`: the positions before it were given and are not to be judged.
    """

    log_prob: NDArray[np.float64]
    valid_until: NDArray[np.int64]
    violation: NDArray[np.int8]
    prompt_length: int = 0

    @property
    def valid(self) -> NDArray[np.bool_]:
        """[B]: whether the whole row is possible."""
        return np.equal(self.valid_until, self.log_prob.shape[1])

    @property
    def violations(self) -> dict[str, int]:
        """Kind of violation -> rows that it ended; kinds that ended none included, valid rows not."""
        counts = np.bincount(self.violation, minlength=len(VIOLATIONS))
        return {name: int(count) for name, count in zip(VIOLATIONS[1:], counts[1:], strict=True)}


@dataclass(frozen=True)
class Source:
    """A probability distribution over endless streams of documents, each ended by EOS.

    `entropy_rate`: nats per token, in closed form; a document's end counts as a token. `rules`: choice point -> names
    of its alternatives. `rule_frequencies`: choice point -> exact share of each alternative, which holds in rows of any
    length; `rule_rates`: choice point -> choices made there per token. `word_frequencies` [vocab_size] float64: each
    id's exact share of the tokens. Rates and word shares hold for an endless stream: in short rows that begin with a
    document, its opening words are more frequent.
    """

    tokenizer: Tokenizer
    rules: Mapping[str, tuple[str, ...]]
    expectations: Expectations
    _automaton: Automaton
    _sampler: Sampler
    _classifier: Classifier

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    @property
    def entropy_rate(self) -> float:
        return self.expectations.document_entropy / self.expectations.document_tokens

    @property
    def word_frequencies(self) -> NDArray[np.float64]:
        return self.expectations.word_frequencies

    @property
    def rule_frequencies(self) -> Mapping[str, NDArray[np.float64]]:
        return self.expectations.rule_frequencies

    @property
    def rule_rates(self) -> Mapping[str, float]:
        return self.expectations.rule_rates

    def stream(self, tokens: int, seed: int) -> NDArray[np.int32]:
        """ids [tokens] int32: documents one after the other, from the start of one; the last one may be cut."""
        return self._sampler.stream(tokens, np.random.default_rng(np.random.PCG64(seed)))

    def texts(self, rows: int, length: int, seed: int) -> NDArray[np.int32]:
        """ids [rows, length] int32: independent streams from a document's start; row r depends on `seed` and r."""
        streams = (
            self._sampler.stream(length, np.random.default_rng(np.random.PCG64((seed, row)))) for row in range(rows)
        )
        return np.array(list(streams), dtype=np.int32).reshape(rows, length)

    def score(self, ids: NDArray[np.integer], *, prompt_length: int = 0) -> Scores:
        """Exact log-probability and validity of rows [B, S], each from a document's start, in one pass."""
        rows = self._rows(ids)
        if not 0 <= prompt_length <= rows.shape[1]:
            raise ValueError(f"prompt_length must lie between 0 and {rows.shape[1]}: {prompt_length}")
        log_prob = np.full(rows.shape, -np.inf)
        valid_until = np.full(len(rows), rows.shape[1], dtype=np.int64)
        violation = np.zeros(len(rows), dtype=np.int8)
        for row, words in enumerate(rows.tolist()):
            reader = Reader(self._automaton)
            whole = reader.read(words)
            position = len(reader.log_probs)
            log_prob[row, :position] = reader.log_probs
            if not whole:
                valid_until[row] = position
                violation[row] = self._classifier.kind(reader, words[position])
        return Scores(log_prob, valid_until, violation, prompt_length)

    def entropy(self, ids: NDArray[np.integer]) -> NDArray[np.float64]:
        """[B, S]: nats of uncertainty about each token given all before it; NaN after the first impossible one."""
        rows = self._rows(ids)
        entropies = np.full(rows.shape, np.nan)
        for row, words in enumerate(rows.tolist()):
            reader = Reader(self._automaton)
            for position, word in enumerate(words):
                entropies[row, position] = reader.entropy()
                if not reader.read((word,)):
                    break
        return entropies

    def next_distribution(self, ids: Sequence[int]) -> NDArray[np.float64]:
        """[vocab_size] float64: the exact probabilities of the token after `ids`, which begin with a document's start.

        Raises InputError if `ids` are impossible.
        """
        reader = Reader(self._automaton)
        if not reader.read(ids):
            position = len(reader.log_probs)
            raise InputError(
                f"token {position} of the text: found {self.tokenizer.decode([ids[position]])!r}, which the source "
                "never writes there; expected a text that begins as its documents do; cut the text before it"
            )
        distribution = np.zeros(self.vocab_size)
        for word, prob in reader.outcomes():
            distribution[word] += prob
        return distribution

    def rule_counts(self, ids: NDArray[np.integer]) -> dict[str, NDArray[np.int64]]:
        """Choice point -> how often each alternative was taken in rows [B, S].

        Each row counts up to its first impossible token.
        """
        counts = {head: np.zeros(len(names), dtype=np.int64) for head, names in self.rules.items()}
        seen = np.zeros(len(self._automaton.choices), dtype=np.int64)
        for words in self._rows(ids).tolist():
            reader = Reader(self._automaton)
            reader.read(words)
            seen += np.bincount(reader.choices, minlength=len(seen))
        for (head, index), count in zip(self._automaton.choices, seen.tolist(), strict=True):
            counts[head][index] = count
        return counts

    def _rows(self, ids: NDArray[np.integer]) -> NDArray[np.integer]:
        rows = np.asarray(ids)
        if rows.ndim != 2 or not np.issubdtype(rows.dtype, np.integer):
            raise ValueError(f"ids must be integers [B, S], not {rows.dtype} {list(rows.shape)}")
        if rows.size and not 0 <= rows.min() <= rows.max() < self.vocab_size:
            raise ValueError(f"ids must lie below {self.vocab_size}: found {rows.min()} to {rows.max()}")
        return rows


@functools.cache
def embedded_source() -> Source:
    """The source that ships with dlmbench, as `grammar.toml` describes it."""
    grammar = read_grammar(GRAMMAR_FILE.read_text(encoding="utf-8"))
    tokenizer = source_tokenizer()
    ids = token_ids(grammar.words)
    automaton = compile_grammar(grammar, ids)
    return Source(
        tokenizer=tokenizer,
        rules=grammar.choice_points,
        expectations=expect(grammar, ids, tokenizer.vocab_size),
        _automaton=automaton,
        _sampler=Sampler(automaton),
        _classifier=Classifier(grammar, automaton, ids),
    )
