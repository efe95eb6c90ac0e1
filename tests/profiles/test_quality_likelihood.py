"""Generative perplexity and held-out likelihood."""

import math

import numpy as np
import pytest

from dlmbench import InputError
from dlmbench.profiles.quality import Texts, gen_ppl, heldout, heldout_from_errors

TEXTS = Texts(np.zeros((2, 4), dtype=int), 1, np.array([3, 1]))


def test_corpus_level_perplexity_by_hand() -> None:
    """4 judged tokens of log 2, log 2, log 4, log 16 nats: exp(8 log 2 / 4) = 4.

    A mean of the texts' perplexities (SEDD's definition) would be (2^(4/3) + 16) / 2 = 9.3.
    """
    judge = -np.log(np.array([[99.0, 2, 2, 4], [99, 16, 99, 99]]))
    value = gen_ppl(TEXTS, judge)
    assert value.value == pytest.approx(4.0)
    assert value.n == 2
    assert value.low is not None
    assert value.high is not None
    assert value.low * value.high == pytest.approx(16.0)  # symmetric in nats


def test_what_a_judge_cannot_say() -> None:
    judge = np.zeros((2, 4))
    judge[0, 2] = -np.inf
    value = gen_ppl(TEXTS, judge)
    assert value.value is None
    assert value.why == "infinite: the judge holds 1 of 4 tokens impossible"
    judge[0, 2] = np.nan
    with pytest.raises(InputError, match="NaN or above 0"):
        gen_ppl(TEXTS, judge)
    judge[0, 2] = 0.0
    judge[1, 2:] = np.nan  # behind the text's end
    assert gen_ppl(TEXTS, judge).value == 1.0
    with pytest.raises(InputError, match=r"must be \[2, 4\]"):
        gen_ppl(TEXTS, judge[:, 1:])


def test_heldout_by_hand() -> None:
    """Two draws of two texts of 2 and 3 tokens: 5/5 and 7/5 nats a token; error = (0.4 / √2) / √2 = 0.2."""
    nats, tokens = np.array([[2.0, 3.0], [2.0, 5.0]]), np.array([2, 3])
    held = heldout(nats, tokens, exact=False)
    assert held.nats.value == pytest.approx(1.2)
    assert held.monte_carlo_error == pytest.approx(0.2)
    exact = heldout(nats[:1], tokens, exact=True)
    assert (exact.nats.value, exact.monte_carlo_error, exact.draws) == (1.0, 0.0, 1)


def test_the_interval_includes_the_noise_of_the_draws() -> None:
    """Texts of 1.5 ± 0.1 nats in 2 draws of ± 0.3: the interval over 50 texts must cover 1.5 in about 95 % of cases."""
    rng = np.random.default_rng(0)
    hits, errors = 0, []
    for _ in range(400):
        texts = rng.normal(1.5, 0.1, 50)
        held = heldout(texts + rng.normal(0, 0.3, (2, 50)), np.ones(50, dtype=int), exact=False)
        assert held.nats.low is not None
        assert held.nats.high is not None
        hits += held.nats.low <= 1.5 <= held.nats.high
        errors.append(held.monte_carlo_error)
    assert 0.92 < hits / 400 < 0.98
    assert math.sqrt(np.mean(np.square(errors))) == pytest.approx(0.3 / 10, rel=0.1)


def test_a_training_runs_summary_gives_the_same_interval() -> None:
    nats = np.array([[1.0, 2.0, 3.0, 2.5]])
    direct = heldout(nats, np.ones(4, dtype=int), exact=True)
    error = float(nats.std(ddof=1)) / 2
    summary = heldout_from_errors(2.125, error, 0.0, texts=4, draws=1, exact=True)
    assert (summary.nats.low, summary.nats.high) == pytest.approx((direct.nats.low, direct.nats.high))
    assert heldout_from_errors(2.0, 0.0, 0.0, texts=1, draws=1, exact=True).nats.low is None


def test_heldout_that_cannot_be() -> None:
    one = np.array([3])
    with pytest.raises(InputError, match="two or more draws, to know their error, found 1"):
        heldout(np.array([[2.0]]), one, exact=False)
    with pytest.raises(InputError, match="exactly one pass, found 2"):
        heldout(np.array([[2.0], [2.0]]), one, exact=True)
    with pytest.raises(InputError, match="not finite"):
        heldout(np.array([[np.inf]]), one, exact=True)
