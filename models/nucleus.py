"""Cutting a distribution before a draw: the top k, then the nucleus, with either rule for the token that crosses p.

The nucleus of mass p (Holtzman et al. 2020) holds the most probable tokens, in order. Whether it includes the one with
which the running sum first exceeds p is a convention: transformers *keeps* that token, BD3LM *drops* it (its nucleus
then has mass at most p, but for a single token that exceeds p alone, which always stays).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Crossing = Literal["keep", "drop"]


def truncated(weights: Tensor, top_k: int = 0, top_p: float = 1.0, crossing: Crossing = "keep") -> Tensor:
    """Weights [n, V] >= 0, not normalised, with 0 outside the top k (0: all; ties at rank k stay) and the nucleus."""
    if 0 < top_k < weights.shape[1]:
        least = weights.topk(top_k, dim=-1).values[:, -1:]
        weights = weights.masked_fill(weights < least, 0.0)
    if top_p >= 1:
        return weights
    ordered, order = weights.sort(dim=-1, descending=True, stable=True)
    limit = top_p * ordered.sum(dim=-1, keepdim=True)
    mass = ordered.cumsum(dim=-1)
    outside = mass - ordered >= limit if crossing == "keep" else mass > limit
    outside[:, 0] = False
    return weights.masked_fill(torch.empty_like(outside).scatter_(1, order, outside), 0.0)
