"""distinct-n at equal size."""

import numpy as np
import pytest

from dlmbench import InputError
from dlmbench.profiles.quality import Texts, distinct_n


def test_by_hand() -> None:
    """Samples of 6 tokens: (1 1 2 | 1 1 3) and (4 5 6 | 4 5 6).

    Words: 3 and 3 of 6. Pairs within texts: 11 12 11 13 -> 3; 45 56 45 56 -> 2. Triples: 2 and 1.
    """
    texts = Texts(np.array([[1, 1, 2], [1, 1, 3], [4, 5, 6], [4, 5, 6]]), 0, np.full(4, 3))
    values = [distinct_n(texts, n, tokens=6) for n in (1, 2, 3)]
    assert [v.value for v in values] == pytest.approx([0.5, 2.5 / 6, 1.5 / 6])
    assert [v.n for v in values] == [2, 2, 2]
    # t(1) = 12.706, standard error = |3 - 2| / 6 / 2.
    assert values[1].high == pytest.approx(2.5 / 6 + 12.7062 / 12, rel=1e-4)


def test_the_prompt_and_the_rest_of_a_cut_text_are_left_out() -> None:
    """Samples of 2 tokens out of texts of 3: (1 2), (4 5); the 3 and the 6 are cut off, the prompt's 9 never counts."""
    texts = Texts(np.array([[9, 1, 2, 3], [9, 4, 5, 6]]), 1, np.array([3, 3]))
    value = distinct_n(texts, 1, tokens=2)
    assert (value.value, value.n) == (1.0, 2)


def test_it_falls_with_the_samples_size_and_not_with_the_number_of_samples() -> None:
    rng = np.random.default_rng(0)
    p = 1 / np.arange(2, 202)
    ids = rng.choice(200, p=p / p.sum(), size=(400, 50))
    texts, few = Texts(ids, 0, np.full(400, 50)), Texts(ids[:100], 0, np.full(100, 50))
    small, large = distinct_n(texts, 1, tokens=500), distinct_n(texts, 1, tokens=5000)
    assert (small.value or 0) > 3 * (large.value or 1)
    again = distinct_n(few, 1, tokens=500)
    assert again.low is not None
    assert again.high is not None
    assert again.low <= (small.value or 0) <= again.high
    assert again.high - again.low > (small.high or 0) - (small.low or 0)


def test_too_few_tokens_and_one_sample() -> None:
    texts = Texts(np.array([[1, 2, 3]]), 0, np.array([3]))
    assert distinct_n(texts, 1).why == "the texts have 3 tokens, fewer than the 1000 that distinct-1 is taken of"
    one = distinct_n(texts, 1, tokens=3)
    assert (one.value, one.low, one.why) == (1.0, None, "one sample of 3 tokens: no interval")
    with pytest.raises(InputError, match="at least n tokens"):
        distinct_n(texts, 3, tokens=2)
