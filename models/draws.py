"""Where random choices come from: exact inverse-CDF draws, the Gumbel race of the published samplers, or a recording.

Two ways to draw from weights w: the inverse CDF needs one uniform a position; the race, argmax_v w_v / (-log u_v), one
for every vocabulary entry. The same law with exact uniforms, but float32 ones cut the tails of the race (Zheng et al.
2024, "Masked diffusion models are secretly time-agnostic…", section 4): the published MDLM and SEDD samplers race in
float32, LLaDA's in float64. `exact` is the default: the law without the cost. The races reproduce, seed for seed, what
the published code draws.

Draws speak of positions: `where` [n] are flat places, row * width + column, in a window [rows, width] that the sampler
works on. Exact draws ignore it; a race takes the window's uniforms at these places, so that a sampler which computes
logits only where it needs them still sees the published stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 128
# Entries of a row that a race tries first, and entries that it holds at once: what a CPU's caches hold.
_LIKELY, _RACED = 128, 1 << 18


class Draws(Protocol):
    """The random choices of one generation, in the order in which its sampler makes them.

    `whole` says that a draw needs the weights of every open position with the mask token's among them, as the
    published loops draw; otherwise a sampler may first draw which positions leave the mask, and compute only those.
    """

    whole: bool

    def tokens(self, weights: Tensor, where: Tensor, window: tuple[int, int]) -> Tensor:
        """Ids [n] in proportion to weights [n, V] >= 0 at the places `where` of a `window` of rows x width.

        A call is one draw of the whole window; the weights need not be normalised and are not kept.
        """
        ...

    def uniform(self, rows: int, columns: int) -> Tensor:
        """Uniforms [rows, columns] float64 in [0, 1)."""
        ...

    def positions(self, weights: Tensor, count: int) -> Tensor:
        """Columns [B, count], all different, drawn one after the other in proportion to weights [B, n] >= 0.

        A row with fewer than `count` weights above 0 ends with columns of no weight.
        """
        ...


class ExactDraws:
    """Inverse-CDF draws from a generator's uniforms (see `inverse_cdf`)."""

    whole = False

    def __init__(self, random: torch.Generator) -> None:
        self.random = random

    def tokens(self, weights: Tensor, where: Tensor, window: tuple[int, int]) -> Tensor:
        return inverse_cdf(weights, self.uniform(weights.shape[0], 1)[:, 0])

    def uniform(self, rows: int, columns: int) -> Tensor:
        return torch.rand(rows, columns, dtype=torch.float64, device=self.random.device, generator=self.random)

    def positions(self, weights: Tensor, count: int) -> Tensor:
        return race(weights.double().log(), self.uniform(*weights.shape), count)


class RaceDraws:
    """argmax over v of w_v / (eps - log(u_v + eps)): the Gumbel trick as published, on uniforms from `source`.

    `source(shape)` gives the uniforms of a whole window [rows, width, V]; eps is 1e-10 in MDLM, SEDD and BD3LM, 0 in
    LLaDA.
    """

    whole = True

    def __init__(self, source: Callable[[tuple[int, ...]], Tensor], eps: float = 1e-10) -> None:
        self.source = source
        self.eps = eps

    def tokens(self, weights: Tensor, where: Tensor, window: tuple[int, int]) -> Tensor:
        uniforms = self.source((*window, weights.shape[1])).flatten(0, 1)[where]
        return weights.div(self._times(uniforms)).argmax(dim=-1)

    def of_logits(self, logits: Tensor, temperature: float, where: Tensor, window: tuple[int, int]) -> Tensor:
        """`tokens` with the weights exp(logits / temperature), in float64, of logits [n, V] in any float dtype.

        On a CPU only the entries that can win are raced: those with a uniform near 1, and, given the best of these,
        those whose weight alone could beat it with any other uniform.
        """
        uniforms = self.source((*window, logits.shape[1])).flatten(0, 1)
        top = logits.amax(dim=-1, keepdim=True).double()
        if logits.is_cuda:
            weights = (logits.double() - top).div_(temperature).exp_()
            return weights.div_(self._times(uniforms[where].double())).argmax(dim=-1)
        rows = max(1, _RACED // logits.shape[1])
        parts = [
            self._winners(part, best, temperature, uniforms[chosen])
            for part, best, chosen in zip(logits.split(rows), top.split(rows), where.split(rows), strict=True)
        ]
        return torch.cat(parts)

    def _winners(self, logits: Tensor, top: Tensor, temperature: float, uniforms: Tensor) -> Tensor:
        """`of_logits` of rows that fit the cache."""
        near = 1 - min(1.0, _LIKELY / logits.shape[1])
        # No uniform up to `near` arrives before this.
        least = float(self._times(torch.tensor(near, dtype=torch.float64)))

        def raced(found: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            row, column = found.nonzero(as_tuple=True)
            weights = (logits[row, column].double() - top[row, 0]).div_(temperature).exp_()
            return row, column, weights.div_(self._times(uniforms[row, column].double()))

        row, column, key = raced(uniforms > near)
        best = key.new_full((len(top),), 0.0).scatter_reduce_(0, row, key, "amax")
        # In the logits' own dtype, with room for its rounding: one too many is only work.
        bound = top[:, 0] + temperature * ((best * least).log() - 1e-3)
        others = raced(logits >= bound.to(logits.dtype)[:, None])
        row, column, key = (torch.cat(both) for both in zip((row, column, key), others, strict=True))
        best = best.scatter_reduce_(0, row, key, "amax")
        ids = torch.zeros(len(top), dtype=torch.int64)
        won = key == best[row]
        ids[row[won]] = column[won]
        return ids

    def _times(self, uniforms: Tensor) -> Tensor:
        """Arrival times, exponential of rate one."""
        return self.eps - (uniforms + self.eps).log()

    def uniform(self, rows: int, columns: int) -> Tensor:
        return self.source((rows, columns)).double()

    def positions(self, weights: Tensor, count: int) -> Tensor:
        return race(weights.double().log(), self.uniform(*weights.shape), count)


def make_draws(kind: Literal["exact", "gumbel64", "gumbel32"], random: torch.Generator) -> Draws:
    """Draws of one kind from a generator."""
    if kind == "exact":
        return ExactDraws(random)
    dtype = torch.float64 if kind == "gumbel64" else torch.float32
    return RaceDraws(lambda shape: torch.rand(shape, dtype=dtype, device=random.device, generator=random))


def race(log_weights: Tensor, uniforms: Tensor, count: int) -> Tensor:
    """The first `count` columns to arrive when column j of log_weights [B, n] arrives at an exponential time of rate
    exp(w_j): draws in proportion, without replacement. `uniforms` [B, n] float64 in [0, 1). Returns [B, count].

    In logarithms, since the last to arrive may have weights too small for any float.
    """
    late = torch.log(-torch.log1p(-uniforms)) - log_weights
    late = late.masked_fill(log_weights.isneginf(), torch.inf)  # a uniform of 0 is at once: -inf + inf
    return late.topk(count, dim=1, largest=False).indices


def inverse_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Draw an index per row in proportion to weights [n, V] >= 0, by uniforms [n] float64 in [0, 1). Returns [n]."""
    count, size = weights.shape
    padded = F.pad(weights, (0, -size % CHUNK)) if size % CHUNK else weights
    chunks = padded.view(count, -1, CHUNK)
    ends = chunks.sum(dim=-1).double().cumsum(dim=-1)
    target = (uniforms * ends[:, -1])[:, None]
    # right=True: a target that equals an end belongs to the next chunk, so a chunk of no weight is never chosen.
    chunk = torch.searchsorted(ends, target, right=True).clamp_(max=ends.shape[1] - 1)
    before = torch.where(chunk > 0, ends.gather(1, (chunk - 1).clamp_(min=0)), 0.0)
    inside = chunks.gather(1, chunk[:, :, None].expand(-1, 1, CHUNK))[:, 0].double().cumsum(dim=-1)
    # The chunk's float64 sum may exceed its float32 one by rounding; scaling by the former keeps the draw inside.
    span = ends.gather(1, chunk) - before
    within = (target - before) / span * inside[:, -1:]
    token = torch.searchsorted(inside, within, right=True)
    last = (inside < inside[:, -1:]).sum(dim=-1, keepdim=True)
    return (chunk * CHUNK + torch.minimum(token, last))[:, 0]
