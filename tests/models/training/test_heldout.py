"""The held-out loss and its two errors, by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from dlmbench.models.network import Network
from dlmbench.models.training.heldout import held_out_loss
from dlmbench.models.training.objectives import Cost

NETWORK = cast(Network, SimpleNamespace(rotary=lambda positions: None))


class Known:
    """Costs row r exactly r nats, plus 4 or minus 4 by turns of the calls where it is not `exact`."""

    def __init__(self, exact: bool) -> None:
        self.exact, self.calls = exact, 0

    def training(self, *_: Any) -> Cost:
        raise NotImplementedError

    def held_out(self, network: Network, ids: Tensor, random: torch.Generator) -> Cost:
        nats = ids[:, 0].float()
        if not self.exact:
            nats = nats + (4 if self.calls % 2 == 0 else -4)
        self.calls += 1
        return Cost(nats, ids.numel())


IDS = torch.tensor([[1, 0], [3, 0], [5, 0], [7, 0]])


def test_exact() -> None:
    objective = Known(exact=True)
    found = held_out_loss(NETWORK, objective, IDS, batch=3, passes=5, seed=0)
    # 16 nats over 8 tokens; rows per token .5, 1.5, 2.5, 3.5: variance 5/3.
    assert (found.nats, found.mc_error, found.tokens, found.passes, objective.calls) == (2.0, 0.0, 8, 1, 2)
    assert found.text_error == pytest.approx(math.sqrt(5 / 3) / 2)


def test_bound() -> None:
    found = held_out_loss(NETWORK, Known(exact=False), IDS, batch=4, passes=2, seed=0)
    # Passes of 32 and 0 nats: 4 and 0 a token, standard deviation sqrt(8), of their mean 2.
    assert found.nats == 2.0
    assert found.mc_error == pytest.approx(2.0)
    assert found.passes == 2
