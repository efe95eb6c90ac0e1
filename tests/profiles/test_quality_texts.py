"""What is judged, and inputs that do not fit."""

import numpy as np
import pytest

from dlmbench import InputError
from dlmbench.profiles.quality import Texts, Verdict

IDS = np.array([[9, 9, 1, 2, 2], [9, 9, 3, 0, 7]])


def test_the_prompt_and_what_follows_the_end_are_not_judged() -> None:
    texts = Texts(IDS, 2, np.array([3, 1]))
    assert texts.judged.tolist() == [[False, False, True, True, True], [False, False, True, False, False]]
    assert texts.tokens == 4
    assert [row.tolist() for row in texts.rows()] == [[1, 2, 2], [3]]
    # The 9s of the prompt and the 7 behind the end are nowhere, so four ids suffice.
    assert texts.counts(4).tolist() == [[0, 1, 2, 0], [0, 0, 0, 1]]


def test_possible_tokens_end_at_the_violation_or_at_the_texts_end() -> None:
    verdict = Verdict(np.zeros((2, 5)), np.array([4, 4]), np.array([1, 1]), ("none", "pair"))
    # Row 0: positions 2 and 3 of 2..4. Row 1: emitted one token; the violation stands behind it.
    assert verdict.possible(Texts(IDS, 2, np.array([3, 1]))).tolist() == [2, 1]


@pytest.mark.parametrize(
    ("prompt", "emitted", "message"),
    [
        (5, [0, 0], "prompt_length must lie in 0..4, found 5"),
        (2, [3], r"emitted must be \[2\]"),
        (2, [3, 4], "row 1 emitted 4 tokens; give 0..3"),
    ],
)
def test_texts_that_cannot_be(prompt: int, emitted: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Texts(IDS, prompt, np.array(emitted))


def test_another_vocabulary() -> None:
    with pytest.raises(InputError, match="do not fit 3 word frequencies"):
        Texts(IDS, 2, np.array([3, 1])).counts(3)


def test_verdicts_that_cannot_be() -> None:
    texts = Texts(IDS, 2, np.array([3, 1]))
    zeros, none = np.zeros((2, 5)), np.zeros(2, dtype=int)
    with pytest.raises(InputError, match="prompt of row 1 is impossible at token 1"):
        Verdict(zeros, np.array([5, 1]), none, ("none",)).possible(texts)
    with pytest.raises(InputError, match=r"log_prob must be \[2, 5\]"):
        Verdict(zeros[:, 1:], np.array([5, 5]), none, ("none",)).possible(texts)
    with pytest.raises(InputError, match="log_prob is not finite before valid_until"):
        Verdict(np.full((2, 5), -np.inf), np.array([5, 5]), none, ("none",)).possible(texts)
