"""The closed forms against sampled documents, and samples against exact probabilities. Seeds are fixed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dlmbench.models.source import Source

TOKENS = 400_000


@pytest.fixture(scope="module")
def documents(source: Source) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids [N] of whole documents, their log-probabilities [N], and the index [N] of the document of each token."""
    ids = source.stream(TOKENS, 17)
    ids = ids[: np.flatnonzero(ids == source.tokenizer.eos_id)[-1] + 1]
    document = np.concatenate([[0], np.cumsum(ids == source.tokenizer.eos_id)[:-1]])
    return ids, source.score(ids[None]).log_prob[0], document


def _ratio(numerators: np.ndarray, denominators: np.ndarray) -> tuple[float, float]:
    """A ratio of sums over independent documents, and its standard error (delta method)."""
    ratio = numerators.sum() / denominators.sum()
    error = np.std(numerators - ratio * denominators) * np.sqrt(len(numerators)) / denominators.sum()
    return float(ratio), float(error)


def test_entropy_rate_and_length(source: Source, documents: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    _, log_prob, document = documents
    nats, tokens = np.bincount(document, weights=-log_prob), np.bincount(document)
    rate, error = _ratio(nats, tokens)
    assert error < 0.006
    assert abs(rate - source.entropy_rate) < 3 * error
    length, error = _ratio(tokens, np.ones(len(tokens)))
    assert abs(length - source.expectations.document_tokens) < 3 * error
    assert 1.5 <= source.entropy_rate <= 2.5


def test_mean_conditional_entropy_is_the_entropy_rate(
    source: Source, documents: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    """Over whole documents, the entropies of the next token average to the rate."""
    ids, _, document = (part[:50_000] for part in documents)
    whole = document < document[-1]
    entropies = source.entropy(ids[None])[0][whole]
    rate, error = _ratio(np.bincount(document[whole], weights=entropies), np.bincount(document[whole]))
    assert error < 0.02
    assert abs(rate - source.entropy_rate) < 3 * error


def test_word_frequencies(source: Source, documents: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """Every word, at a threshold that chance passes once in a thousand runs; and no bias overall."""
    ids, _, document = documents
    tokens = np.bincount(document)
    limit = stats.norm.isf(0.001 / 2 / source.vocab_size)
    assert source.word_frequencies.sum() == pytest.approx(1)
    size = source.vocab_size
    counts = np.bincount(document * size + ids, minlength=len(tokens) * size).reshape(-1, size)
    deviations = []
    for word in range(size - 1):
        frequency, error = _ratio(counts[:, word], tokens)
        deviations.append((frequency - source.word_frequencies[word]) / error)
    assert max(map(abs, deviations)) < limit
    assert np.std(deviations) == pytest.approx(1, abs=0.2)
    assert source.word_frequencies[source.tokenizer.mask_id] == 0


def test_rule_frequencies(source: Source, documents: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """Choices are independent draws: a chi-square test at each point, and their number as expected."""
    ids, _, _ = documents
    counts = source.rule_counts(ids[None])
    assert set(counts) == set(source.rules) == set(source.rule_frequencies)
    for head, observed in counts.items():
        expected = source.rule_frequencies[head] * observed.sum()
        assert stats.chisquare(observed, expected).pvalue > 0.001 / len(counts), head
        # Sentences come in documents: twice the error of independent ones, at four of it.
        error = 2 * 4 / np.sqrt(observed.sum())
        assert observed.sum() / len(ids) == pytest.approx(source.rule_rates[head], rel=min(error, 0.5)), head


def test_rule_shares_are_exact_in_short_rows_too(source: Source) -> None:
    """Cutting a text must not favour alternatives that end early: a choice counts when the next word reveals it."""
    counts = source.rule_counts(source.texts(4000, 20, 9))
    for head in ("sentence topic", "modifier topic number", "adjective", "clause topic"):
        expected = source.rule_frequencies[head] * counts[head].sum()
        assert stats.chisquare(counts[head], expected).pvalue > 1e-4, head


def test_samples_follow_the_next_distribution(source: Source) -> None:
    """The first tokens of many rows: grouped by what stands before, each group against its exact distribution."""
    ids = source.texts(20_000, 8, 2)
    compared = 0
    for length in range(8):
        prefixes, group = np.unique(ids[:, :length], axis=0, return_inverse=True)
        for index, prefix in enumerate(prefixes):
            observed = np.bincount(ids[group.ravel() == index, length], minlength=source.vocab_size)
            expected = source.next_distribution(prefix.tolist()) * observed.sum()
            assert not observed[expected == 0].any()
            usual = expected >= 5
            if usual.sum() < 2:
                continue
            compared += 1
            # What is rarer goes into one bin.
            pooled = [np.append(counts[usual], counts[~usual].sum()) for counts in (observed, expected)]
            kept = pooled[1] > 0.5
            scaled = pooled[1][kept] * pooled[0][kept].sum() / pooled[1][kept].sum()
            assert stats.chisquare(pooled[0][kept], scaled).pvalue > 1e-5, prefix
    assert compared > 100
