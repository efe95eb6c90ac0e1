"""What every network of ours shares: rotary positions, the ways to attend, and a trunk apart from the vocabulary head.

A network is causal, bidirectional or block-causal by argument, with or without a key-value cache: both sides of a pair
run the same code, and a generator computes logits only for the positions whose logits it needs.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .attention import attend, attend_one, block_causal_mask, causal_mask
from .cache import KVCache
from .config import Attention, BackboneConfig
from .costs import Cost, forward_cost
from .dit_config import DiTConfig
from .generator import Held
from .linear import Linear

# (layer, q [B, H, q, D], k, v [B, Hkv, q, D]) -> [B, H, q, D]
AttendFn = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class _Full:
    """Attention over the whole sequence, no cache."""

    causal: bool
    mask: Tensor | None

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend(query, key, value, causal=self.causal, mask=self.mask)


@dataclass(frozen=True, slots=True)
class _Cached:
    """Write to the cache at `start`, attend to its first `live` slots."""

    cache: KVCache
    start: int
    live: int
    causal: bool
    mask: Tensor | None

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        keys, values = self.cache.append(layer, self.start, key, value, self.live)
        return attend(query, keys, values, causal=self.causal, mask=self.mask)


@dataclass(frozen=True, slots=True)
class _Static:
    """Write at positions held in a tensor, attend to the slots `visible` [live]."""

    cache: KVCache
    position: Tensor
    visible: Tensor

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        keys, values = self.cache.place(layer, self.position, key, value, self.visible.shape[0])
        if torch.compiler.is_compiling() and not query.is_cuda and query.shape[2] == 1:
            return attend_one(query, keys, values, self.visible)
        return attend(query, keys, values, mask=self.visible[None, None, None])


@dataclass(frozen=True, slots=True)
class Padding:
    """Rows of different length in one batch: `valid` [B, S] bool marks real tokens, `positions` [B, S] their places.

    `positions` None: a token's column is its position, whatever lies before it.
    """

    valid: Tensor
    positions: Tensor | None = None


class Network(nn.Module):
    """Embedding, layers and final norm (the trunk), and the vocabulary head. Weights are uninitialised until loaded.

    `condition` is what a network that depends on more than its ids is given beside them (see `DiT.conditioning`).
    """

    cos: Tensor
    sin: Tensor
    config: BackboneConfig | DiTConfig
    embedding: nn.Parameter
    head: Linear

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    @abstractmethod
    def _run(
        self, ids: Tensor, cos: Tensor, sin: Tensor, attend_fn: AttendFn, condition: Tensor | None = None
    ) -> Tensor:
        """Hidden states [B, q, d] after the final norm; cos and sin [q, D/2] or [B, q, D/2]."""

    def conditioning(self, sigma: float | Tensor | None) -> Tensor | None:
        """What `condition` is at noise level `sigma`; None for a network that does not depend on it."""
        return None

    def rotary(self, positions: int) -> None:
        """Make the tables of cosines and sines, [positions, D/2] float32, for sequences up to `positions`."""
        if hasattr(self, "cos") and self.cos.shape[0] >= positions and self.cos.device == self.device:
            return
        angles = torch.outer(
            torch.arange(positions, device=self.device, dtype=torch.float32), _frequencies(self.config, self.device)
        )
        self.cos, self.sin = angles.cos(), angles.sin()

    def favour_single_rows(self, wanted: bool) -> None:
        """Spend memory on layouts that a batch of one decodes faster with (see `linear`), or give it back.

        No effect on CUDA. Weights must not change while they are favoured.
        """
        for module in self.modules():
            if isinstance(module, Linear):
                module.favour_single_rows(wanted)

    def held(self, *caches: KVCache | None, layouts: bool = True) -> Held:
        """What a generator on this network holds beside these caches; `layouts`: it reads those of single rows."""
        weights: list[Tensor] = [*self.parameters(), *self.buffers()]
        if layouts:
            weights += [m.transposed for m in self.modules() if isinstance(m, Linear) and m.transposed is not None]
        kv = tuple(tensor for cache in caches if cache is not None for tensor in cache.tensors)
        return Held(tuple(weights), kv, self.config.vocab_size * self.embedding.element_size())

    def trunk(
        self,
        ids: Tensor,
        *,
        mask: Attention | Tensor,
        cache: KVCache | None = None,
        start: int = 0,
        live: int | None = None,
        block_length: int = 1,
        padding: Padding | None = None,
        condition: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [B, q, d] after the final norm, of ids [B, q] at positions `start`…, or at `positions` [q].

        With a `cache`, keys and values are written at `start`… and attention sees its first `live` slots (default: up
        to here); `mask` applies among the new positions (block-causal with blocks counted from position 0). A tensor
        [q, kv] bool is a mask of one's own: True where a query sees a key.
        """
        q_len = ids.shape[1]
        kv_len = (live or start + q_len) if cache is not None else q_len
        causal, tensor = False, None
        if isinstance(mask, Tensor):
            tensor = mask
        elif mask == "block_causal":
            tensor = block_causal_mask(q_len, kv_len, block_length, ids.device)
        elif mask == "causal" and q_len > 1:
            causal = kv_len == q_len
            tensor = None if causal else causal_mask(q_len, kv_len, ids.device)
        places = slice(start, start + q_len)
        cos, sin = (table[places if positions is None else positions] for table in (self.cos, self.sin))
        if padding is not None:
            visible = padding.valid[:, None, None, :kv_len]
            if causal:
                causal, tensor = False, causal_mask(q_len, kv_len, ids.device)
            tensor = visible if tensor is None else visible & tensor
            if padding.positions is not None:
                columns = padding.positions[:, places]
                cos, sin = self.cos[columns], self.sin[columns]
        if cache is None:
            return self._run(ids, cos, sin, _Full(causal, tensor), condition)
        return self._run(ids, cos, sin, _Cached(cache, start, kv_len, causal, tensor), condition)

    def static_step(self, ids: Tensor, position: Tensor, cache: KVCache, live: int) -> Tensor:
        """Logits [B, V] of one token a row, ids [B, 1], at `position` [1], with shapes that no position changes.

        Slots past the position are masked, so `live` may be any bound above it: one graph serves many positions.
        """
        visible = torch.arange(live, device=ids.device) <= position
        attend_fn = _Static(cache, position, visible)
        hidden = self._run(ids, self.cos.index_select(0, position), self.sin.index_select(0, position), attend_fn)
        return self.logits(hidden[:, 0])

    def static_block(
        self, ids: Tensor, position: Tensor, end: Tensor, cache: KVCache, live: int, condition: Tensor | None = None
    ) -> Tensor:
        """Hidden states [B, q, d] of ids [B, q] at `position` [q], written to the cache; all see the slots before `end`
        [1]. Like `static_step`, with shapes that no position changes."""
        visible = torch.arange(live, device=ids.device) < end
        cos, sin = self.cos.index_select(0, position), self.sin.index_select(0, position)
        return self._run(ids, cos, sin, _Static(cache, position, visible), condition)

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits [..., V], in the weights' dtype, of hidden states [..., d]."""
        logits: Tensor = self.head(hidden)
        return logits

    def forward_cost(
        self,
        network: str,
        rows: int,
        q_len: int,
        kv_len: int,
        logit_rows: int,
        mask: str,
        kv_dtype: str | None = None,
    ) -> Cost:
        """Analytic work of one announced forward (see `costs`)."""
        return forward_cost(
            self.config,
            rows=rows,
            q_len=q_len,
            kv_len=kv_len,
            logit_rows=logit_rows,
            mask=mask,
            dtype=str(self.dtype).removeprefix("torch."),
            kv_dtype=kv_dtype,
        )


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE, half-split convention (as in Hugging Face checkpoints), of x [B, q, H, D].

    cos and sin are [q, D/2] or [B, q, D/2]; with the sine negated it turns back.
    """
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    turned = torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)
    return torch.cat(turned, dim=-1)


def _frequencies(config: BackboneConfig | DiTConfig, device: torch.device) -> Tensor:
    """Rotation per position of each pair, [D/2] radians: RoFormer, with Llama 3.1's scaling where the config has it."""
    exponent = torch.arange(0, config.head_dim, 2, device=device, dtype=torch.float32) / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponent
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    # Long wavelengths are stretched by `factor`, short ones kept, those between interpolated linearly in the number
    # of turns that fit into the original context.
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    keep = keep.clamp(0, 1)
    return frequencies * (keep + (1 - keep) / scaling.factor)
