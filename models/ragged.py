"""Forwards of rows that stand at different positions, on one static cache.

Row b's new tokens are at `positions[b]`, and a slot of the cache is a position: what an earlier forward wrote there for
tokens that were given up since is written over, or lies past what a row's queries may see.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .cache import KVCache
from .engines import built
from .network import Network, Padding

# ids [B, q], positions [B, q], ends [B, q] or [B, 1], live slots -> hidden [B, q, d]
RaggedBlock = Callable[[Tensor, Tensor, Tensor, int], Tensor]


class RowCache(KVCache):
    """A view of `cache` that writes the q new tokens of row b at the slots `positions[b]`, positions [B, q]."""

    __slots__ = ("positions",)

    def __init__(self, cache: KVCache, positions: Tensor) -> None:
        self.keys, self.values, self.capacity = cache.keys, cache.values, cache.capacity
        self.positions = positions

    def append(
        self, layer: int, start: int, key: Tensor, value: Tensor, live: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `KVCache.append`; `start` means nothing here."""
        keys, values = self.keys[layer], self.values[layer]
        rows = torch.arange(key.shape[0], device=key.device)[:, None]
        keys[rows, :, self.positions] = key.transpose(1, 2).to(keys.dtype)
        values[rows, :, self.positions] = value.transpose(1, 2).to(values.dtype)
        return keys[:, :, :live].to(key.dtype), values[:, :, :live].to(value.dtype)


def ragged_block(engine: str, network: Network, cache: KVCache, rows: int, q_len: int, ends: int) -> RaggedBlock:
    """A function that runs `q_len` ids per row at positions of each row's own, written to the cache.

    A query sees the slots before its `ends`: one end for every query (`ends` = q_len here), or one for all of a row
    (`ends` = 1). Eager reads the first `live` slots, compiled and captured ones the whole cache.
    """
    device = cache.keys[0].device
    slots = torch.arange(cache.capacity, device=device)
    anything = torch.ones(1, cache.capacity, dtype=torch.bool, device=device)
    with torch.inference_mode():
        condition = network.conditioning(None)

    def run(ids: Tensor, positions: Tensor, ends: Tensor, live: int) -> Tensor:
        seen = (slots[:live] < ends[:, :, None])[:, None]
        at_rows, padding = RowCache(cache, positions), Padding(anything, positions)
        return network.trunk(ids, mask=seen, cache=at_rows, live=live, padding=padding, condition=condition)

    if engine == "eager":
        return run

    def whole(ids: Tensor, positions: Tensor, ends: Tensor) -> Tensor:
        return run(ids, positions, ends, cache.capacity)

    positions = torch.arange(q_len, device=device).expand(rows, q_len).contiguous()
    step = built(engine, whole, torch.zeros_like(positions), positions, positions[:, :ends] + 1)
    return lambda ids, positions, ends, live: step(ids, positions, ends)
