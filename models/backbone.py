"""The one backbone: a Llama-style decoder whose attention is causal, bidirectional or block-causal by argument.

Both sides of a pair run this code, so that only the decoding differs. Projections that read the same input are fused
(q, k, v in one product; gate, up in one), which helps both sides alike. `trunk` stops before the vocabulary head, so
that a generator computes logits only for the positions whose logits it needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import attend, attend_one, block_causal_mask, causal_mask
from .cache import KVCache
from .config import Attention, BackboneConfig
from .costs import Cost, forward_cost
from .linear import Linear

# (layer, q [B, H, q, D], k, v [B, Hkv, q, D]) -> [B, H, q, D]
AttendFn = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class Layer(nn.Module):
    """Pre-norm attention and SwiGLU, each added to the residual stream."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden_size
        self.input_norm = nn.Parameter(torch.empty(hidden))
        self.qkv = Linear(hidden, config.query_size + 2 * config.kv_size, bias=config.attention_bias)
        if config.qk_norm:
            self.q_norm = nn.Parameter(torch.empty(config.head_dim))
            self.k_norm = nn.Parameter(torch.empty(config.head_dim))
        self.output = Linear(config.query_size, hidden)
        self.post_norm = nn.Parameter(torch.empty(hidden))
        self.gate_up = Linear(hidden, 2 * config.intermediate_size)
        self.down = Linear(config.intermediate_size, hidden)

    def forward(self, index: int, x: Tensor, cos: Tensor, sin: Tensor, attend_fn: AttendFn) -> Tensor:
        """One layer on x [B, q, d]; cos and sin [q, D/2] of the positions of x."""
        config = self.config
        batch, q_len, _ = x.shape
        qkv = self.qkv(_rms_norm(x, self.input_norm, config.rms_norm_eps))
        qkv = qkv.unflatten(-1, (-1, config.head_dim))
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        rotated, value = qkv.split([heads + kv_heads, kv_heads], dim=2)
        if config.qk_norm:
            query, key = rotated.split([heads, kv_heads], dim=2)
            query = _rms_norm(query, self.q_norm, config.rms_norm_eps)
            key = _rms_norm(key, self.k_norm, config.rms_norm_eps)
            rotated = torch.cat((query, key), dim=2)
        query, key = _rotate(rotated, cos, sin).split([heads, kv_heads], dim=2)
        attended = attend_fn(index, query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        x = x + self.output(attended.transpose(1, 2).reshape(batch, q_len, config.query_size))
        gate, up = self.gate_up(_rms_norm(x, self.post_norm, config.rms_norm_eps)).chunk(2, dim=-1)
        mixed: Tensor = self.down(F.silu(gate).mul_(up))
        return x + mixed


@dataclass(frozen=True, slots=True)
class _Full:
    """Attention over the whole sequence, no cache."""

    causal: bool
    mask: Tensor | None

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend(query, key, value, causal=self.causal, mask=self.mask)


@dataclass(frozen=True, slots=True)
class _Cached:
    """Append to the cache at `start`, attend to its live part."""

    cache: KVCache
    start: int
    causal: bool
    mask: Tensor | None

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        keys, values = self.cache.append(layer, self.start, key, value)
        return attend(query, keys, values, causal=self.causal, mask=self.mask)


@dataclass(frozen=True, slots=True)
class _Static:
    """Write one token at a position held in a tensor, attend to the slots `visible` [live]."""

    cache: KVCache
    position: Tensor
    visible: Tensor

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        keys, values = self.cache.place(layer, self.position, key, value, self.visible.shape[0])
        if torch.compiler.is_compiling() and not query.is_cuda:
            return attend_one(query, keys, values, self.visible)
        return attend(query, keys, values, mask=self.visible[None, None, None])


class Backbone(nn.Module):
    """Embedding, layers, final norm and vocabulary head. Weights are uninitialised until loaded or drawn."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.Parameter(torch.empty(config.hidden_size))
        self.head = Linear(config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            self.head.weight = self.embedding
        self.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

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

    def trunk(
        self,
        ids: Tensor,
        *,
        mask: Attention,
        cache: KVCache | None = None,
        start: int = 0,
        block_length: int = 1,
    ) -> Tensor:
        """Hidden states [B, q, d] after the final norm, of ids [B, q] at positions `start`….

        With a `cache`, keys and values are appended at `start` and attention sees everything up to here; `mask`
        applies among the new positions (block-causal with blocks counted from position 0).
        """
        q_len = ids.shape[1]
        kv_len = start + q_len if cache is not None else q_len
        causal, tensor = False, None
        if mask == "block_causal":
            tensor = block_causal_mask(q_len, kv_len, block_length, ids.device)
        elif mask == "causal" and q_len > 1:
            causal = kv_len == q_len
            tensor = None if causal else causal_mask(q_len, kv_len, ids.device)
        attend_fn: AttendFn = _Full(causal, tensor) if cache is None else _Cached(cache, start, causal, tensor)
        return self._run(ids, self.cos[start : start + q_len], self.sin[start : start + q_len], attend_fn)

    def static_step(self, ids: Tensor, position: Tensor, cache: KVCache, live: int) -> Tensor:
        """Logits [B, V] of one token a row, ids [B, 1], at `position` [1], with shapes that no position changes.

        Slots past the position are masked, so `live` may be any bound above it: one graph serves many positions.
        """
        visible = torch.arange(live, device=ids.device) <= position
        attend_fn = _Static(cache, position, visible)
        hidden = self._run(ids, self.cos.index_select(0, position), self.sin.index_select(0, position), attend_fn)
        return self.logits(hidden[:, 0])

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits [..., V], in the weights' dtype, of hidden states [..., d]."""
        logits: Tensor = self.head(hidden)
        return logits

    def _run(self, ids: Tensor, cos: Tensor, sin: Tensor, attend_fn: AttendFn) -> Tensor:
        x = F.embedding(ids, self.embedding)
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        for index, layer in enumerate(self.layers):
            x = layer(index, x, cos, sin, attend_fn)
        return _rms_norm(x, self.norm, self.config.rms_norm_eps)

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
        """Analytic work of one announced forward (see `costs`); any mask but causal is counted as bidirectional."""
        return forward_cost(
            self.config,
            rows=rows,
            q_len=q_len,
            kv_len=kv_len,
            logit_rows=logit_rows,
            mask="causal" if mask == "causal" else "bidirectional",
            dtype=str(self.dtype).removeprefix("torch."),
            kv_dtype=kv_dtype,
        )


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE, half-split convention (as in Hugging Face checkpoints): x [B, q, H, D], cos and sin [q, D/2]."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    turned = torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)
    return torch.cat(turned, dim=-1)


def _frequencies(config: BackboneConfig, device: torch.device) -> Tensor:
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
