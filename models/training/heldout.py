"""The loss on texts that no step has seen, with what is uncertain about it."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import torch
from torch import Tensor

from ..network import Network
from .data import seed_of
from .objectives import Objective


@dataclass(frozen=True, slots=True)
class HeldOut:
    """`nats` per token over `tokens` tokens: exact, or the mean of `passes` estimates of a bound on the same texts.

    `mc_error`: standard error from the draws of what is hidden, 0 for an exact value. `text_error`: standard error from
    the choice of texts, rows being independent.
    """

    nats: float
    mc_error: float
    text_error: float
    tokens: int
    passes: int


@torch.no_grad()
def held_out_loss(
    network: Network, objective: Objective, ids: Tensor, *, batch: int, passes: int, seed: int
) -> HeldOut:
    """The held-out loss on ids [rows, S], `batch` rows at a time; at least 2 passes where it is a bound."""
    network.rotary(ids.shape[1])
    count = 1 if objective.exact else passes
    estimates = torch.stack([_rows(network, objective, ids, batch, seed, number) for number in range(count)])
    per_pass = (estimates.sum(dim=1) / ids.numel()).tolist()
    # Each row's own mean over the passes; what the draws leave of noise in it counts as the texts', which errs high.
    rows = estimates.mean(dim=0) / ids.shape[1]
    return HeldOut(
        nats=statistics.fmean(per_pass),
        mc_error=0.0 if count == 1 else statistics.stdev(per_pass) / math.sqrt(count),
        text_error=float(rows.std()) / math.sqrt(len(ids)),
        tokens=ids.numel(),
        passes=count,
    )


def _rows(network: Network, objective: Objective, ids: Tensor, batch: int, seed: int, number: int) -> Tensor:
    """One estimate of every row's nats. [rows] float64."""
    random = torch.Generator().manual_seed(seed_of(seed, "held out", number))
    parts = [objective.held_out(network, part, random).nats.double() for part in ids.split(batch)]
    return torch.cat(parts)
