"""What SEDD's samplers draw from at each position: weights of all tokens, from the raw output of the network.

A sampler's step changes the noise by `change`: step size x dsigma for `euler`, sigma(t) - sigma(s) for `analytic`, all
that is left for `denoise`, the last draw (Lou et al. 2024, section 4.1; `graphs` has the general forms).

The general forms take many passes over all tokens, these few. On the absorbing graph only masks move, and there both
steps have one form. With the scores s of the other tokens,

    weight of token y = a s_y,    weight of the mask = 1 - a sum_y s_y,

a = change for `euler` and expm1(change) for `analytic`: exp(-change Q) times the transposed transition leaves no other
terms at a mask. (In float32 the general form loses the mask's weight to cancellation where exp(change) nears 10^7, as
with geometric noise up to 20 in few steps; this one does not.) A negative weight, of a step too long for its rates,
never wins the published race, so it counts as 0.

On the uniform graph an Euler step is the same with a = change / N and the position's own token in place of the mask.
An analytic one takes c = expm1(change) / N times the sum of all scores, its own 1 included, off each exp(change) s_y,
and weighs the difference by the transition: k = (1 - exp(-change)) / N, and k + exp(-change) for the own token.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from .draws import Draws
from .sampling import BLOCK_BYTES

Kind = Literal["euler", "analytic", "denoise"]


def absorbing_weights(output: Tensor, kind: Kind, sigma: float, change: float, *, scale_by_sigma: bool) -> Tensor:
    """Weights >= 0 at masked positions, [n, V] with the mask last, or [n, V - 1] without it for `denoise`.

    output: [n, V] float32 raw output of the network at noise `sigma`, overwritten.
    """
    mask_id = output.shape[1] - 1
    if kind == "denoise":
        # Only their proportions count: relative to the largest, none can leave float32.
        scores = output[:, :mask_id]
        return (scores - scores.amax(dim=-1, keepdim=True)).exp_()
    shift = math.log(change if kind == "euler" else math.expm1(change))
    if scale_by_sigma:
        shift -= math.log(math.expm1(sigma)) + math.log(mask_id)
    weights = output.add_(shift).exp_()
    weights[:, mask_id] = 0
    weights[:, mask_id] = (1 - weights.sum(dim=-1)).clamp_(min=0)
    return weights


def uniform_weights(output: Tensor, tokens: Tensor, kind: Kind, change: float) -> Tensor:
    """Weights >= 0 of every token, [n, N], at positions that hold `tokens` [n].

    output: [n, N] float32 raw output of the network, overwritten.
    """
    own, size = tokens[:, None], output.shape[1]
    if kind == "euler":
        weights = output.add_(math.log(change / size)).exp_().scatter_(1, own, 0.0)
        return weights.scatter_(1, own, (1 - weights.sum(dim=-1, keepdim=True)).clamp_(min=0))
    score = output.exp_().scatter_(1, own, 1.0)
    lost = math.expm1(change) / size * score.sum(dim=-1, keepdim=True)
    kept, moved = math.exp(-change), -math.expm1(-change) / size
    weights = score.mul_(math.exp(change)).sub_(lost).clamp_(min=0).mul_(moved)
    return weights.scatter_(1, own, (math.exp(change) - lost).clamp_(min=0) * (moved + kept))


def tempered(weights: Tensor, stay: Tensor | None, temperature: float) -> Tensor:
    """Weights [n, N] of which those of jumping are sharpened by 1 / temperature, their sum kept; 0: all on the largest.

    `stay` [n] is the id that means no jump, whose weight is left as it is: when a position jumps is decided as it was.
    None: every id is a jump, in the last draw.
    """
    jumps = weights if stay is None else weights.scatter(1, stay[:, None], 0.0)
    total = jumps.sum(dim=-1, keepdim=True)
    top = jumps.argmax(dim=-1, keepdim=True)
    if temperature == 0:
        sharp = torch.zeros_like(jumps).scatter_(1, top, total)
    else:
        # Relative to the largest: no power leaves float32. Where nothing can jump, the 0 stays 0.
        largest = jumps.gather(1, top)
        sharp = torch.where(largest > 0, jumps / largest, 0.0).pow_(1 / temperature)
        sharp *= total / sharp.sum(dim=-1, keepdim=True).clamp_(min=1)
    return sharp if stay is None else sharp.scatter_(1, stay[:, None], weights.gather(1, stay[:, None]))


def draw_in_rows(
    weigh: Callable[[slice], Tensor], where: Tensor, size: int, draws: Draws, window: tuple[int, int]
) -> Tensor:
    """Ids [n] drawn from `weigh(rows)` [n', size], in as many rows at a time as a CPU's caches hold.

    `where` [n] are the places in the `window`. A draw of the whole window is not divided.
    """
    count = where.shape[0]
    if draws.whole:
        return draws.tokens(weigh(slice(0, count)), where, window)
    rows = max(1, BLOCK_BYTES.get(where.device.type, 2 << 20) // (4 * size))
    parts = [
        draws.tokens(weigh(slice(begin, begin + rows)), where[begin : begin + rows], window)
        for begin in range(0, count, rows)
    ]
    return torch.cat(parts) if parts else where.new_empty(0)
