"""Which candidates a step commits: every rule by hand, and against plain loops."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dlmbench.models.selection import above_threshold, candidates, top_k, within_entropy, within_factor

NO = -torch.inf


def chosen(rule: Callable[..., Tensor], scores: list[list[float]], *args: Any, **options: Any) -> list[list[int]]:
    """The columns that a rule chooses in each row."""
    flags = rule(torch.tensor(scores), *args, **options)
    assert flags.dtype is torch.bool
    assert flags.shape == torch.tensor(scores).shape
    return [row.nonzero()[:, 0].tolist() for row in flags]


def test_the_best_are_chosen_row_by_row() -> None:
    scores = [[0.1, 0.9, 0.5, 0.7], [0.4, 0.3, 0.2, 0.1]]
    assert chosen(top_k, scores, 2) == [[1, 3], [0, 1]]
    assert chosen(top_k, scores, 0) == [[], []]
    assert chosen(top_k, scores, 9) == [[0, 1, 2, 3]] * 2
    assert chosen(top_k, scores, torch.tensor([3, 0])) == [[1, 2, 3], []]


def test_what_is_no_candidate_is_never_chosen() -> None:
    scores = [[NO, 0.2, NO, 0.1], [NO, NO, NO, NO]]
    assert chosen(top_k, scores, 3) == [[1, 3], []]
    assert chosen(above_threshold, scores, 0.0) == [[1, 3], []]
    assert chosen(above_threshold, scores, 0.9) == [[1], []]
    assert chosen(within_factor, scores, 100.0) == [[1, 3], []]
    assert chosen(within_entropy, scores, 100.0) == [[1, 3], []]
    assert candidates(torch.tensor(scores)).tolist() == [[False, True, False, True], [False] * 4]


def test_ties_go_to_the_left() -> None:
    scores = [[0.5] * 5, [NO, 0.5, NO, 0.5, 0.5]]
    assert chosen(top_k, scores, 2) == [[0, 1], [1, 3]]
    assert chosen(above_threshold, scores, 0.9) == [[0], [1]]


def test_a_threshold_is_reached_by_equality_unless_strict() -> None:
    scores = [[0.25, 0.5, 0.75]]
    assert chosen(above_threshold, scores, 0.5) == [[1, 2]]
    assert chosen(above_threshold, scores, 0.5, strict=True) == [[2]]
    # None reaches it: the best one goes all the same, so that a step always commits something.
    assert chosen(above_threshold, scores, 0.8) == [[2]]


def test_least_and_most() -> None:
    scores = [[0.25, 0.5, 0.75, 0.95], [0.1, 0.2, 0.3, 0.05]]
    assert chosen(above_threshold, scores, 0.6, least=3) == [[1, 2, 3], [0, 1, 2]]
    assert chosen(above_threshold, scores, 0.6, least=torch.tensor([1, 2])) == [[2, 3], [1, 2]]
    assert chosen(above_threshold, scores, 0.0, most=2) == [[2, 3], [1, 2]]
    assert chosen(above_threshold, scores, 0.0, most=torch.tensor([1, 4])) == [[3], [0, 1, 2, 3]]


def test_the_factor_rule_by_hand() -> None:
    """Factor 1: the r-th best must reach 1 - 1 / (r + 1), 1/2 then 2/3 then 3/4 then 4/5; the first goes anyway."""
    assert chosen(within_factor, [[0.99, 0.9, 0.8, 0.7]], 1.0) == [[0, 1, 2]]
    assert chosen(within_factor, [[0.7, 0.66, 0.99, 0.8]], 1.0) == [[2, 3]]
    assert chosen(within_factor, [[0.1, 0.2, 0.3, 0.4]], 1.0) == [[3]]
    # Factor 4: -1, -1/3, 0, 1/5.
    assert chosen(within_factor, [[0.9, 0.2, 0.3, 0.19]], 4.0) == [[0, 1, 2]]
    assert chosen(within_factor, [[0.9, 0.25, 0.3, 0.21]], 4.0) == [[0, 1, 2, 3]]


def test_the_entropy_bound_by_hand() -> None:
    """Entropies 0.1, 0.2, 0.4, 0.8: sums without the last one are 0, 0.1, 0.3, 0.7."""
    scores = [[-0.4, -0.1, -0.8, -0.2]]
    assert chosen(within_entropy, scores, 0.05) == [[1]]
    assert chosen(within_entropy, scores, 0.15) == [[1, 3]]
    assert chosen(within_entropy, scores, 0.35) == [[0, 1, 3]]
    assert chosen(within_entropy, scores, 0.75) == [[0, 1, 2, 3]]


def test_positions_without_entropy_cost_nothing() -> None:
    assert chosen(within_entropy, [[-0.0, -5.0, -0.0, -6.0]], 1e-6) == [[0, 1, 2]]


@pytest.mark.parametrize("rule", ["top_k", "threshold", "factor", "entropy"])
def test_against_plain_loops(rule: str) -> None:
    random = torch.Generator().manual_seed(3)
    confidence = torch.rand(50, 9, generator=random)
    confidence[torch.rand(50, 9, generator=random) < 0.3] = NO
    counts = torch.randint(0, 6, (50,), generator=random)
    scores = torch.where(confidence > NO, confidence.log(), NO) if rule == "entropy" else confidence
    flags = {
        "top_k": lambda: top_k(scores, counts),
        "threshold": lambda: above_threshold(scores, 0.6),
        "factor": lambda: within_factor(scores, 1.5),
        "entropy": lambda: within_entropy(scores, 0.8),
    }[rule]()
    several = 0
    for row in range(50):
        ranked = sorted(((s, -i) for i, s in enumerate(scores[row].tolist()) if s > NO), reverse=True)
        if rule == "top_k":
            keep = int(counts[row])
        elif rule == "threshold":
            keep = max(1, sum(s >= 0.6 for s, _ in ranked))
        elif rule == "factor":
            keep = max([1, *(r for r, (s, _) in enumerate(ranked, 1) if (r + 1) * (1 - s) <= 1.5)])
        else:
            keep = max([0, *(k for k in range(1, len(ranked) + 1) if sum(-s for s, _ in ranked[: k - 1]) <= 0.8)])
        expected = sorted(-i for _, i in ranked[:keep])
        assert flags[row].nonzero()[:, 0].tolist() == expected
        several += len(expected) > 1
    assert several > 10
