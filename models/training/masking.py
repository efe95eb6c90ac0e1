"""Which positions a diffusion objective hides, spread evenly over how many may be hidden.

The bound of masked diffusion is an average over a time t in (0, 1], at which each token is hidden with chance t and
what is hidden weighs 1 / t. Times are *stratified* over a batch, one in each of B equal parts, which takes most of the
noise out of a batch's sum (Kingma et al. 2021, "Variational Diffusion Models", appendix I.1; MDLM does so).

The integral over t of 1 / t times the chance of hiding exactly k of n positions is 1 / k, for every k in 1..n. So the
same bound is an average over a *number* k, uniform in 1..n, of k positions hidden at weight n / k (Nie et al. 2025,
"Large Language Diffusion Models", on evaluating likelihood): no weight above n, and no draw that hides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Hidden:
    """`places` [n] flat among [B, S], in order; `weights` [n] of each one's nats; `time` [B], or one a block."""

    places: Tensor
    weights: Tensor
    time: Tensor

    def noisy(self, ids: Tensor, mask_id: int) -> Tensor:
        """ids [B, S] with the mask at every place."""
        return ids.flatten().index_fill(0, self.places, mask_id).view_as(ids)

    def row_sums(self, nats: Tensor, rows: int, length: int) -> Tensor:
        """The weighted sum of nats [n] in each row. [B]."""
        return nats.new_zeros(rows).index_add_(0, self.places // length, self.weights * nats)


def stratified(count: int, random: torch.Generator) -> Tensor:
    """Numbers in (0, 1], one in each of `count` equal parts, in random order. [count]."""
    spread = (torch.arange(1, count + 1) - torch.rand(count, generator=random)) / count
    return spread[torch.randperm(count, generator=random)]


def hide_by_time(rows: int, length: int, random: torch.Generator) -> Hidden:
    """Each position of [B, S] hidden with chance t, a time a row, at weight 1 / t."""
    time = stratified(rows, random)
    hidden = torch.rand(rows, length, generator=random) < time[:, None]
    places = hidden.flatten().nonzero()[:, 0]
    return Hidden(places, (1 / time)[places // length], time)


def hide_by_count(rows: int, length: int, block: int, random: torch.Generator) -> Hidden:
    """k positions of each block of [B, S] hidden, k uniform in 1..n a block of n, at weight n / k.

    `time` is one a block: of the times that hide so many, one as the bound has them, Beta(k, n - k + 1). It is drawn as
    the k-th smallest of the n uniforms whose smallest k are hidden.
    """
    blocks = rows * length // block
    counts = (stratified(blocks, random) * block).ceil()
    uniforms = torch.rand(blocks, block, generator=random, dtype=torch.float64)
    time = uniforms.sort(dim=1).values.gather(1, counts.long()[:, None] - 1)
    places = (uniforms <= time).flatten().nonzero()[:, 0]
    return Hidden(places, (block / counts)[places // block], time[:, 0].float())
