"""Predictions for masked positions, and how sure the network is of them: Dream's three measures.

Dream ranks positions by a function of the probabilities p that it draws from, after temperature, top-p and top-k (the
sampler published with Ye et al. 2025, "Dream 7B"):

- `probability`: p of the predicted token;
- `margin`: the largest p less the second largest;
- `entropy`: sum p log p, the negative entropy in nats. The published code takes log(p + 1e-10), which differs by less
  than 1e-10 nats a vocabulary entry.

Everything is float32, a few rows at a time, so that no second tensor of the logits' size exists.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .draws import Draws
from .generator import Settings
from .sampling import BLOCK_BYTES, largest, truncate

Measure = Literal["probability", "margin", "entropy"]

# exp(-104) is 0 in float32: weights below are 0 with it and without it, and 0 x log 0 is 0.
_LOWEST = -200.0


def predict(
    logits: Tensor,
    settings: Settings,
    draws: Draws,
    where: Tensor,
    window: tuple[int, int],
    *,
    measure: Measure | None,
    suppress: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """A token for each row of logits [n, V] (any float dtype; overwritten at `suppress`), greedy or drawn.

    Returns ids [n] int64 and, if a `measure` is asked for, the confidence [n] float32, higher first. `suppress` is an
    id that can never be predicted: the mask token. `where` [n] and `window` tell the draws which positions the rows
    belong to (see `draws`).
    """
    if suppress is not None:
        logits[:, suppress] = -torch.inf
    if measure is None and settings.temperature == 0:
        return logits.argmax(dim=-1), None
    rows = max(1, BLOCK_BYTES.get(logits.device.type, 2 << 20) // (4 * logits.shape[1]))
    ids = torch.empty_like(where)
    confidence = logits.new_empty(where.shape, dtype=torch.float32)
    for begin in range(0, logits.shape[0], rows):
        part = slice(begin, begin + rows)
        scaled, weights = _weights(logits[part].float(), settings)
        if settings.temperature > 0:
            ids[part] = draws.tokens(weights, where[part], window)
        else:
            ids[part] = largest(scaled)[1][:, 0]
        if measure is not None:
            confidence[part] = _confidence(scaled, weights, ids[part], measure)
    return ids, None if measure is None else confidence


def _weights(logits: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Logits [n, V] after temperature, top-p and then top-k, their maximum 0, and exp of them."""
    scaled = logits - logits.amax(dim=-1, keepdim=True)
    if settings.temperature > 0:
        scaled.div_(settings.temperature)
    # Two calls, since one would cut to the top k first.
    if settings.top_p < 1:
        scaled = truncate(scaled, 0, settings.top_p)
    if settings.top_k:
        scaled = truncate(scaled, settings.top_k, 1.0)
    scaled.clamp_(min=_LOWEST)
    return scaled, scaled.exp()


def _confidence(scaled: Tensor, weights: Tensor, ids: Tensor, measure: Measure) -> Tensor:
    """The measure [n] of rows of weights [n, V] = exp(scaled)."""
    total = weights.sum(dim=-1)
    if measure == "probability":
        return weights.gather(1, ids[:, None])[:, 0] / total
    if measure == "margin":
        first, second = weights.topk(2, dim=-1).values.unbind(-1)
        return (first - second) / total
    mean: Tensor = torch.linalg.vecdot(weights, scaled) / total
    return mean - total.log()
