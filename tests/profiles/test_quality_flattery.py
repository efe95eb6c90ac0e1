"""A cold sampler of a known source: its likelihood is better than the source's own, and it is found out."""

import numpy as np
import pytest

from dlmbench.profiles.quality import Quality, SourceFacts, Texts, Verdict, entropy_of, evaluate, flattered
from dlmbench.profiles.record import Value

CHAIN = np.random.default_rng(5).dirichlet(np.full(30, 0.6), size=30)
STATIONARY = np.linalg.matrix_power(CHAIN, 200)[0]
ENTROPIES = -(CHAIN * np.log(CHAIN)).sum(axis=1)
FACTS = SourceFacts(float(STATIONARY @ ENTROPIES), STATIONARY)


def written_at(temperature: float, rows: int = 120, seed: int = 0) -> Quality:
    """Texts of a chain over 30 words, a prompt of one word and 60 more at a temperature, judged by the chain itself."""
    rng = np.random.default_rng(seed)
    sharp = CHAIN ** (1 / temperature)
    cumulative = np.cumsum(sharp / sharp.sum(axis=1, keepdims=True), axis=1)
    ids = np.empty((rows, 61), dtype=np.int64)
    ids[:, 0] = rng.choice(30, p=STATIONARY, size=rows)
    for at in range(1, 61):
        ids[:, at] = np.minimum((cumulative[ids[:, at - 1]] < rng.random((rows, 1))).sum(axis=1), 29)
    log_prob, entropy = np.zeros(ids.shape), np.zeros(ids.shape)
    log_prob[:, 1:] = np.log(CHAIN[ids[:, :-1], ids[:, 1:]])
    entropy[:, 1:] = ENTROPIES[ids[:, :-1]]
    verdict = Verdict(log_prob, np.full(rows, 61), np.zeros(rows, dtype=int), ("none", "other"), entropy)
    return evaluate(Texts(ids, 1, np.full(rows, 60)), verdict, FACTS, judge_log_prob=log_prob)


def test_a_low_temperature_has_the_better_perplexity_and_is_flagged() -> None:
    own, cold = written_at(1.0), written_at(0.6)
    for name in ("quality.cross_entropy", "quality.gen_ppl"):
        assert (cold.metrics[name].high or 0) < (own.metrics[name].low or 0)
    assert (cold.metrics["quality.cross_entropy"].high or 9) < FACTS.entropy_rate
    assert (cold.metrics["quality.word_kl"].low or 0) > 3 * (own.metrics["quality.word_kl"].high or 9)
    assert own.flattered is None
    assert cold.flattered is not None
    assert cold.flattered.code == "flattered_by_low_entropy"
    for part in ("cross-entropy", "the words' entropy", "low temperature", "word KL"):
        assert part in cold.flattered.message


def test_a_high_temperature_is_not_flattered_but_far() -> None:
    hot = written_at(1.6)
    assert hot.flattered is None
    assert (hot.metrics["quality.cross_entropy_gap"].low or 0) > 0
    assert (hot.metrics["quality.word_kl"].low or 0) > 0


def test_the_sources_own_texts_are_hardly_ever_flagged() -> None:
    assert sum(written_at(1.0, rows=30, seed=seed).flattered is not None for seed in range(40)) <= 1


@pytest.mark.parametrize(
    ("gap", "unigram", "source", "flagged"),
    [
        ((-0.5, -0.6, -0.4), (3.0, 2.9, 3.1), 3.0, True),  # likelier than the source can be
        ((-0.5, -1.1, 0.1), (3.0, 2.9, 3.1), 3.0, False),  # not significant
        (
            (-0.01, -0.012, -0.008),
            (3.0, 2.9, 3.1),
            3.0,
            False,
        ),  # significant, yet within 2 % of 2.0 nats
        ((0.0, -0.1, 0.1), (2.5, 2.4, 2.6), 3.0, True),  # few words, often: collapse into contexts that are sure anyway
        ((0.0, -0.1, 0.1), (2.5, 2.4, 2.6), Value(value=2.7, low=2.55, high=2.85), False),  # the source's own are near
    ],
)
def test_when_it_is_flagged(
    gap: tuple[float, ...], unigram: tuple[float, ...], source: Value | float, flagged: bool
) -> None:
    def value(numbers: tuple[float, ...], offset: float = 0.0) -> Value:
        centre, low, high = (number + offset for number in numbers)
        return Value(value=centre, low=low, high=high, n=50, level=0.95)

    assert (flattered(value(gap, 2.0), value(gap), value(unigram), source) is not None) is flagged


def test_without_an_interval_nothing_is_claimed() -> None:
    alone = Value(value=0.1, why="one text: no interval")
    assert flattered(alone, Value(value=-3.0), alone, entropy_of(STATIONARY)) is None
    missing = Value(value=None, why="no text has a possible token")
    assert flattered(missing, missing, missing, 3.0) is None
