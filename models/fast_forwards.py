"""The forwards of a sampler with an approximate cache: of the whole sequence, and of a part beside stale keys."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .cache import KVCache
from .engines import BlockStep, block_step, denoiser
from .generator import Shape
from .network import Network

CacheKind = Literal["none", "prefix", "dual"]


class FastForwards:
    """Built for one shape and block length. With `cache` none there is no partial forward, and no cache."""

    def __init__(
        self, network: Network, engine: str, cache: CacheKind, kv_dtype: torch.dtype, shape: Shape, block_length: int
    ) -> None:
        self.cache = cache
        self.positions = shape.prompt_length + shape.length
        network.rotary(self.positions)
        with torch.inference_mode():
            self._condition = network.conditioning(None)
        self._parts: dict[int, BlockStep] = {}
        self.store: KVCache | None = None
        if cache == "none":
            self._exact = denoiser(engine, network, shape.batch, self.positions)
            return
        self.store = store = KVCache(network.config, shape.batch, self.positions, kv_dtype, network.device)
        self._refresh = block_step(engine, network, store, shape.batch, [0], self.positions)
        starts = range(shape.prompt_length, self.positions, block_length)
        if cache == "dual":
            # One length for all blocks: one function serves them.
            self._parts = dict.fromkeys(starts, block_step(engine, network, store, shape.batch, starts, block_length))
        else:
            for start in starts:
                self._parts[start] = block_step(engine, network, store, shape.batch, [start], self.positions - start)

    def fed(self, begin: int, end: int) -> range:
        """The positions that a partial forward for the block [begin, end) computes."""
        return range(begin, end if self.cache == "dual" else self.positions)

    def whole(self, ids: Tensor) -> Tensor:
        """Hidden states [B, S, d] of the canvas [B, S]; a cache then holds all its keys and values."""
        if self.cache != "none":
            return self._refresh(ids, 0, self.positions, self._condition)
        return self._exact(ids) if self._condition is None else self._exact(ids, self._condition)

    def part(self, ids: Tensor, fed: range) -> Tensor:
        """Hidden states [B, n, d] of the positions `fed` of the canvas [B, S], beside what the cache holds."""
        return self._parts[fed.start](ids[:, fed.start : fed.stop], fed.start, self.positions, self._condition)
