"""Divergences and entropies of words and rules: closed forms, bias, coverage, and which way temperature pushes them."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from dlmbench import InputError
from dlmbench.profiles.quality import Texts, entropy_of, rule_kl, unigram_entropy, word_kl
from dlmbench.profiles.record import Value

TOPICS = np.random.default_rng(11).dirichlet(np.full(40, 0.5), size=3)
EXACT = TOPICS.mean(axis=0)


def whole(ids: NDArray[np.integer]) -> Texts:
    return Texts(ids, 0, np.full(len(ids), ids.shape[1]))


def topical(rng: np.random.Generator, rows: int, power: float = 1.0) -> Texts:
    """Texts of 40 tokens, each of one topic, whose words are drawn at temperature 1 / power."""
    sharp = TOPICS**power / (TOPICS**power).sum(axis=1, keepdims=True)
    return whole(np.stack([rng.choice(40, p=sharp[topic], size=40) for topic in rng.integers(3, size=rows)]))


def covers(value: Value, truth: float) -> bool:
    assert value.low is not None
    assert value.high is not None
    return value.low <= truth <= value.high


def test_plug_in_and_its_correction_by_hand() -> None:
    """Texts aab and abb: q = ½, ½. Residuals ±½ a text, so var(q) = 2 · (2 · ¼) / 36 = 1/36 a word; ½ Σ var / q = 1/18.

    Against p = (1/4, 3/4): KL = ½ log 2 + ½ log 2/3 = ½ log 4/3.
    """
    texts = whole(np.array([[0, 0, 1], [0, 1, 1]]))
    assert unigram_entropy(texts, 2).value == pytest.approx(math.log(2) + 1 / 18)
    assert word_kl(texts, np.array([0.25, 0.75])).value == pytest.approx(math.log(4 / 3) / 2 - 1 / 18)


def test_for_independent_tokens_the_correction_is_miller_and_madows() -> None:
    """(words - 1) / 2n = 39 / 2n, here 0.00244 for n = 8000; the estimate between texts scatters around it."""
    rng = np.random.default_rng(0)
    corrections = []
    for _ in range(20):
        ids = rng.choice(40, p=np.full(40, 1 / 40), size=(200, 40))
        q = np.bincount(ids.ravel(), minlength=40) / ids.size
        corrections.append((unigram_entropy(whole(ids), 40).value or 0) - entropy_of(q))
    assert np.mean(corrections) == pytest.approx(39 / 2 / 8000, rel=0.05)


def test_one_text_takes_its_tokens_as_independent() -> None:
    """aabb: log 2 + (2 - 1) / (2 · 4), and no interval."""
    value = unigram_entropy(whole(np.array([[0, 0, 1, 1]])), 2)
    assert value.value == pytest.approx(math.log(2) + 1 / 8)
    assert (value.low, value.level, value.why) == (None, None, "one text: no interval")


def test_unbiased_and_covering_although_a_text_stays_with_its_topic() -> None:
    rng = np.random.default_rng(1)
    entropies, zeros, distances = [], [], []
    other = 0.7 * EXACT + 0.3 * np.roll(EXACT, 1)
    distance = float((EXACT * np.log(EXACT / other)).sum())
    for seed in range(60):
        texts = topical(rng, 60)
        entropies.append(unigram_entropy(texts, 40, seed=seed))
        zeros.append(word_kl(texts, EXACT, seed=seed))
        distances.append(word_kl(texts, other, seed=seed))
    exact = entropy_of(EXACT)
    assert np.mean([v.value or 0 for v in entropies]) == pytest.approx(exact, abs=0.005)
    assert np.mean([v.value or 0 for v in distances]) == pytest.approx(distance, rel=0.05)
    assert np.mean([covers(v, exact) for v in entropies]) > 0.87
    assert np.mean([covers(v, distance) for v in distances]) > 0.87
    assert np.mean([covers(v, 0.0) for v in zeros]) > 0.93
    # At 0 the interval must not be wide for that: the whole sample is 2400 tokens.
    assert np.mean([v.high or 0 for v in zeros]) < 0.05


@pytest.mark.parametrize("power", [0.5, 2.0])
def test_the_distance_rises_when_colder_and_when_hotter(power: float) -> None:
    rng = np.random.default_rng(2)
    own, changed = word_kl(topical(rng, 200), EXACT), word_kl(topical(rng, 200, power), EXACT)
    assert own.high is not None
    assert changed.low is not None
    assert changed.low > 3 * own.high


def test_a_word_that_the_source_never_writes_is_named() -> None:
    texts = whole(np.array([[0, 0, 2, 1], [0, 1, 1, 1]]))
    value = word_kl(texts, np.array([0.5, 0.5, 0.0]))
    assert value.value is None
    assert value.why == "infinite: 12.50% of the tokens are words that the source never writes, such as id 2"


def test_rules_by_hand() -> None:
    """Two choices, used 4 and 12 times: ¼ KL((½, ½) ‖ (½, ½)) + ¾ KL((2/3, 1/3) ‖ (1/3, 2/3)) = ¾ · ⅓ log 2.

    Two texts with equal counts: nothing varies between them and no bias is taken out.
    """
    counts = {"a": np.array([[1, 1], [1, 1]]), "b": np.array([[4, 2], [4, 2]])}
    shares = {"a": np.array([0.5, 0.5]), "b": np.array([1 / 3, 2 / 3]), "unused": np.array([1.0])}
    value = rule_kl(counts, shares)
    assert value.value == pytest.approx(0.75 * math.log(2) / 3)
    assert value.low == pytest.approx(value.value)


def test_rules_unbiased_at_zero_and_away_from_it() -> None:
    """Three choice points of 2, 5 and 9 alternatives, 60 texts: exact draws give 0, swapped shares their divergence."""
    rng = np.random.default_rng(4)
    shares = {name: rng.dirichlet(np.full(size, 3.0)) for name, size in (("x", 2), ("y", 5), ("z", 9))}
    uses = {"x": 6, "y": 3, "z": 1}
    turned = {name: p[::-1].copy() for name, p in shares.items()}
    apart = sum(uses[n] / 10 * float((p * np.log(p / turned[n])).sum()) for n, p in shares.items())
    zero, away = [], []
    for seed in range(60):
        counts = {name: rng.multinomial(uses[name], p, size=60) for name, p in shares.items()}
        zero.append(rule_kl(counts, shares, seed=seed))
        away.append(rule_kl(counts, turned, seed=seed))
    assert np.mean([covers(v, 0.0) for v in zero]) > 0.93
    assert np.mean([v.value or 0 for v in zero]) < 0.006  # the plug-in's is (1 + 4 + 8) / (2 · 600) = 0.0108
    assert np.mean([v.value or 0 for v in away]) == pytest.approx(apart, rel=0.05)
    assert np.mean([covers(v, apart) for v in away]) > 0.88


def test_rare_choices_survive_the_bootstrap() -> None:
    """One text of many makes a choice at all: some redrawn samples have none."""
    counts = {"a": np.array([[3, 1]] + [[0, 0]] * 5)}
    value = rule_kl(counts, {"a": np.array([0.5, 0.5])})
    assert value.low is not None
    assert np.isfinite([value.value, value.low, value.high]).all()  # type: ignore[list-item]


def test_what_does_not_fit() -> None:
    half = {"a": np.array([0.5, 0.5])}
    with pytest.raises(InputError, match="'b' has no exact shares"):
        rule_kl({"b": np.array([[1, 2]])}, half)
    with pytest.raises(InputError, match=r"must be \[N, 2\], a row a text, found \[2\]"):
        rule_kl({"a": np.array([1, 2])}, half)
    with pytest.raises(InputError, match="sum to 1, found a sum of"):
        word_kl(topical(np.random.default_rng(0), 2), np.full(40, 0.9 / 40))
    assert rule_kl({"a": np.zeros((3, 2), dtype=int)}, half).why == "no choice of the grammar was made"
    never = rule_kl({"a": np.array([[1, 2]])}, {"a": np.array([1.0, 0.0])})
    assert never.value is None
    assert "never takes" in (never.why or "")


def test_no_tokens_is_null() -> None:
    texts = Texts(np.zeros((2, 3), dtype=int), 0, np.zeros(2, dtype=int))
    assert unigram_entropy(texts, 4).why == word_kl(texts, np.full(4, 0.25)).why == "no token was emitted"
