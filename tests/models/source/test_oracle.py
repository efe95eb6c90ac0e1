"""Probabilities: exact, normalised, and those of the grammar's derivations."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dlmbench import InputError
from dlmbench.models.source import Source
from dlmbench.models.source.grammar import Grammar

_spec = importlib.util.spec_from_file_location("source_derivations", Path(__file__).with_name("derivations.py"))
assert _spec is not None
assert _spec.loader is not None
_derivations = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _derivations
_spec.loader.exec_module(_derivations)

OPENING = "this story is about computers ."


def test_the_probability_of_a_text_is_that_of_its_derivation(source: Source, grammar: Grammar) -> None:
    """If a text had a second derivation, its probability would be larger than that of the one that wrote it."""
    ids = {token: index for index, token in enumerate([*grammar.words, "<|endoftext|>"])}
    for seed in range(300):
        written = _derivations.Writer(grammar, seed)
        row = np.array([[ids[word] for word in written.words]])
        scores = source.score(row)
        assert scores.valid.all()
        assert scores.log_prob.sum() == pytest.approx(written.log_prob, rel=1e-12)
        counts = source.rule_counts(row)
        taken = Counter(
            {
                (head, name): int(count)
                for head, names in source.rules.items()
                for name, count in zip(names, counts[head], strict=True)
                if count
            }
        )
        assert taken == Counter(written.chosen)


def test_every_conditional_distribution_sums_to_one_and_gives_the_score(source: Source) -> None:
    ids = source.texts(12, 96, 5)
    log_prob, entropy = source.score(ids).log_prob, source.entropy(ids)
    for row, position in np.ndindex(*ids.shape):
        distribution = source.next_distribution(ids[row, :position].tolist())
        assert distribution.sum() == pytest.approx(1, abs=1e-12)
        assert math.log(distribution[ids[row, position]]) == pytest.approx(log_prob[row, position], abs=1e-12)
        positive = distribution[distribution > 0]
        assert entropy[row, position] == pytest.approx(-(positive * np.log(positive)).sum(), abs=1e-12)


def test_exactly_the_words_with_probability_are_valid(source: Source, ids_of: Callable[[str], np.ndarray]) -> None:
    """Each of the 384 ids in turn after many a prefix: out of the memory, in brackets, after an empty choice."""
    for text in (
        "",
        f"{OPENING} the",
        f"{OPENING} the model",
        f"{OPENING} the model ( a chip",
        f"{OPENING} anna said two words : “ river",
        f"{OPENING} anna said two words : “ river stone ” and ben repeated : “",
        f"{OPENING} shuffle three things : river , stone , lamp ; now mixed : lamp ,",
        f"{OPENING} the model hums . /",
    ):
        prefix = ids_of(text)[0]
        rows = np.column_stack([np.tile(prefix, (source.vocab_size, 1)), np.arange(source.vocab_size)]).astype(int)
        distribution = source.next_distribution(prefix.tolist())
        np.testing.assert_array_equal(source.score(rows).valid, distribution > 0)


def test_probabilities_by_hand(source: Source, ids_of: Callable[[str], np.ndarray]) -> None:
    """Weights as `grammar.toml` has them; the k-th word of a class has the weight 1/(k + 2)."""

    def first(words: int) -> float:
        return (1 / 3) / sum(1 / (k + 2) for k in range(1, words + 1))

    scores = source.score(
        ids_of(f"{OPENING} anna said two words : “ river stone ” and ben repeated : “ river stone ” .")
    )
    probabilities = np.exp(scores.log_prob[0])
    assert probabilities[:6] == pytest.approx([1, first(6), 1, 1, 6 / 24, 1])
    # anna: 12 of 90 sentences are speech; said: 2 of 23; two: 3 of 9; then any of 12 items, any other of the 11.
    said = [12 / 90 * first(10), 2 / 23, 3 / 9, 1, 1, 1, 1 / 12, 1 / 11, 1, 1]
    ben = first(10) * (1 / 4) / (1 / 3)
    assert probabilities[6:] == pytest.approx([*said, ben, 1, 1, 1, 1, 1, 1, 1])

    mixed = "shuffle three things : river , stone , lamp ; now mixed : lamp , river , stone ."
    probabilities = np.exp(source.score(ids_of(f"{OPENING} {mixed}")).log_prob[0])
    assert probabilities[-6:] == pytest.approx([1 / 3, 1, 1 / 2, 1, 1, 1])


def test_the_lesson_and_its_synonyms(source: Source, ids_of: Callable[[str], np.ndarray]) -> None:
    lesson = ids_of(f"{OPENING} Large language models process vast amounts of text.")
    synonyms = ids_of(f"{OPENING} huge neural networks read large volumes of data.")
    assert source.score(lesson).valid.all()
    assert source.score(synonyms).valid.all()
    # "vast" stands where "huge", "large" and the others of its five could.
    distribution = source.next_distribution(lesson[0, :10].tolist())
    assert sorted(source.tokenizer.decode([i]) for i in np.flatnonzero(distribution)) == sorted(
        ["large", "huge", "vast", "big", "giant"]
    )


def test_nothing_after_the_first_impossible_token_counts(source: Source) -> None:
    ids = source.texts(4, 40, 3)
    broken = ids.copy()
    broken[2, 17] = source.tokenizer.mask_id
    before, after = source.score(ids), source.score(broken, prompt_length=5)
    np.testing.assert_array_equal(after.log_prob[2, :17], before.log_prob[2, :17])
    assert (after.log_prob[2, 17:] == -np.inf).all()
    assert after.valid_until.tolist() == [40, 40, 17, 40]
    assert after.valid.tolist() == [True, True, False, True]
    assert after.prompt_length == 5
    assert np.isnan(source.entropy(broken)[2, 18:]).all()
    counts, cut = source.rule_counts(broken[2:3]), source.rule_counts(ids[2:3, :17])
    assert all((counts[head] == cut[head]).all() for head in source.rules)


def test_what_is_not_text_is_refused(source: Source) -> None:
    with pytest.raises(InputError, match=r"token 1 of the text: found 'the', which the source never writes there"):
        source.next_distribution(source.tokenizer.encode("this the"))
    with pytest.raises(ValueError, match="ids must lie below 384: found 0 to 384"):
        source.score(np.array([[0, 384]]))
    with pytest.raises(ValueError, match=r"ids must be integers \[B, S\], not float64 \[2\]"):
        source.score(np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="prompt_length must lie between 0 and 2: 3"):
        source.score(np.array([[0, 1]]), prompt_length=3)
    assert source.score(np.zeros((0, 7), dtype=np.int64)).log_prob.shape == (0, 7)
