"""Filling gaps: everything else stays, the mask is never written, and a perfect network fills perfectly."""

from typing import Any

import torch
from torch import Tensor

from dlmbench.models.infill import infill


class Counting:
    """Knows that each token is the one before plus one; sees both sides, and counts its forwards."""

    def __init__(self, vocabulary: int, mask: int) -> None:
        self.vocabulary, self.mask, self.forwards = vocabulary, mask, 0

    def rotary(self, positions: int) -> None:
        assert positions > 0

    def conditioning(self, sigma: None) -> None:
        return None

    def trunk(self, ids: Tensor, *, mask: str, condition: None) -> Tensor:
        assert mask == "bidirectional"
        self.forwards += 1
        # The row's first token stands outside the gap: position i holds first + i.
        return ids[:, :1] + torch.arange(ids.shape[1])

    def logits(self, hidden: Tensor) -> Tensor:
        logits = torch.full((len(hidden), self.vocabulary), -30.0)
        logits.scatter_(1, hidden[:, None], 0.0)
        logits[:, self.mask] = 50.0  # a network may favour its mask; it must never be written
        return logits


def test_only_the_gap_is_written_and_by_one_position_a_step() -> None:
    network: Any = Counting(40, 39)
    ids = torch.arange(10)[None] + torch.tensor([[1], [5], [20]])
    broken = ids.clone()
    broken[:, 3:7] = 0
    assert infill(network, broken, 3, 7, mask_id=39, seed=0).tolist() == ids.tolist()
    assert network.forwards == 4
    assert (broken[:, 3:7] == 0).all(), "what was given stays as it was"


def test_a_seed_decides_the_draws() -> None:
    class Undecided(Counting):
        def logits(self, hidden: Tensor) -> Tensor:
            return torch.zeros(len(hidden), self.vocabulary)

    network: Any = Undecided(40, 39)
    ids = torch.zeros(8, 12, dtype=torch.int64)
    first, again, other = (infill(network, ids, 2, 10, mask_id=39, seed=seed) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()
    assert int(first.max()) < 39
