"""`trunk` at positions of one's own: what block diffusion's two copies need."""

from collections.abc import Callable

import torch

from dlmbench.models.network import Network
from dlmbench.models.training.shapes import Model


def test_positions_are_where_tokens_stand(network: Callable[[Model], Network]) -> None:
    made, ids = network("ar"), torch.tensor([[1, 2, 3, 4]])
    plain = made.trunk(ids, mask="bidirectional")
    assert torch.equal(made.trunk(ids, mask="bidirectional", positions=torch.arange(4)), plain)
    # Attention without a mask does not know the order in which tokens are given, only where they stand.
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(made.trunk(ids[:, order], mask="bidirectional", positions=order), plain[:, order])
    assert not torch.allclose(made.trunk(ids[:, order], mask="bidirectional"), plain[:, order])
