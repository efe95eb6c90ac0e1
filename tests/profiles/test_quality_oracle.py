"""Validity and cross-entropy under a known source, by hand and on a source small enough to sample."""

import numpy as np
import pytest

from dlmbench import InputError
from dlmbench.profiles.quality import (
    Texts,
    Verdict,
    cross_entropy,
    cross_entropy_gap,
    valid_prefix,
    validity,
    violation_shares,
)
from dlmbench.profiles.quality.intervals import wilson

KINDS = ("none", "agreement", "pair")
INF = np.inf


def judged() -> tuple[Texts, Verdict]:
    """Prompt 1, then 4 positions. Row 0 valid; 1 breaks at its 3rd token; 2 ended before its violation; 3 empty."""
    log_prob = np.array(
        [
            [-9, -1.0, -2.0, -1.0, -2.0],
            [-9, -3.0, -1.0, -INF, -INF],
            [-9, -0.5, -0.5, -INF, -INF],
            [-9, -INF, -INF, -INF, -INF],
        ]
    )
    texts = Texts(np.zeros((4, 5), dtype=int), 1, np.array([4, 4, 2, 0]))
    return texts, Verdict(log_prob, np.array([5, 3, 3, 1]), np.array([0, 2, 1, 1]), KINDS)


def test_validity_by_hand() -> None:
    texts, verdict = judged()
    value = validity(texts, verdict)
    assert (value.value, value.n, value.level) == (0.5, 4, 0.95)
    assert (value.low, value.high) == wilson(2, 4)
    assert valid_prefix(texts, verdict).value == (1 + 0.5 + 1 + 0) / 4


def test_violations_add_up_with_validity() -> None:
    texts, verdict = judged()
    shares = {kind: share.value for kind, share in violation_shares(texts, verdict).items()}
    # Row 2's agreement is broken behind its end; row 3 wrote nothing, which is no violation of the grammar.
    assert shares == {"agreement": 0.0, "pair": 0.25, "empty": 0.25}


def test_a_broken_text_needs_a_kind() -> None:
    texts, verdict = judged()
    with pytest.raises(InputError, match=r"kind of violation in 1..2"):
        violation_shares(texts, Verdict(verdict.log_prob, verdict.valid_until, np.zeros(4, dtype=int), KINDS))


def test_cross_entropy_by_hand() -> None:
    """(6 + 4 + 1) nats on 4 + 2 + 2 possible tokens; the prompt's 9 nats do not count."""
    texts, verdict = judged()
    value = cross_entropy(texts, verdict)
    assert value.value == pytest.approx(11 / 8)
    assert value.n == 4
    gap = cross_entropy_gap(texts, verdict, entropy_rate=1.0)
    assert gap.value == pytest.approx(11 / 8 - 1.0)
    entropy = np.full((4, 5), np.nan)
    entropy[:3, 1:3] = 0.5
    entropy[0, 3:] = 2.0
    exact = Verdict(verdict.log_prob, verdict.valid_until, verdict.violation, KINDS, entropy)
    # Six positions of 0.5 and two of 2.0 nats.
    assert cross_entropy_gap(texts, exact, entropy_rate=99.0).value == pytest.approx((11 - 7) / 8)


def test_nothing_possible_is_null_not_zero() -> None:
    texts, _ = judged()
    none = Verdict(np.full((4, 5), -INF), np.full(4, 1), np.full(4, 1), KINDS)
    value = cross_entropy(texts, none)
    assert value.value is None
    assert "no text has a possible token" in (value.why or "")
    assert validity(texts, none).value == 0.0


def test_the_gap_of_the_sources_own_texts_covers_zero_under_any_stopping_rule() -> None:
    """A chain of a lively and a dull state; texts stop at their first dull token, so the entropy rate misleads."""
    lively, dull = np.array([0.4, 0.35, 0.25]), np.array([0.02, 0.03, 0.95])  # word 2 leads to the dull state
    entropies = [-(p * np.log(p)).sum() for p in (lively, dull)]
    stationary = 0.05 / 0.3  # share of lively words: 0.25 lead out, 0.05 back in
    rate = stationary * entropies[0] + (1 - stationary) * entropies[1]
    rng = np.random.default_rng(3)
    hits, far = 0, 0
    for _ in range(200):
        words = rng.choice(3, p=lively, size=(80, 30))
        ends = words == 2
        emitted = np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, 30)
        texts = Texts(words, 0, emitted)
        verdict = Verdict(
            np.log(lively)[words], np.full(80, 30), np.zeros(80, dtype=int), KINDS, np.full((80, 30), entropies[0])
        )
        gap = cross_entropy_gap(texts, verdict, rate)
        assert gap.low is not None
        assert gap.high is not None
        hits += gap.low <= 0 <= gap.high
        without = Verdict(verdict.log_prob, verdict.valid_until, verdict.violation, KINDS)
        far += (cross_entropy_gap(texts, without, rate).low or 0.0) > 0
    assert 0.9 < hits / 200 < 0.99
    assert far == 200  # why the exact entropies are asked for
