"""The one backbone: a Llama-style decoder whose attention is causal, bidirectional or block-causal by argument.

Both sides of a pair run this code, so that only the decoding differs. Projections that read the same input are fused
(q, k, v in one product; gate, up in one), which helps both sides alike. `trunk` stops before the vocabulary head, so
that a generator computes logits only for the positions whose logits it needs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import BackboneConfig
from .linear import Linear
from .network import AttendFn, Network, rotate


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
        query, key = rotate(rotated, cos, sin).split([heads, kv_heads], dim=2)
        attended = attend_fn(index, query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        x = x + self.output(attended.transpose(1, 2).reshape(batch, q_len, config.query_size))
        gate, up = self.gate_up(_rms_norm(x, self.post_norm, config.rms_norm_eps)).chunk(2, dim=-1)
        mixed: Tensor = self.down(F.silu(gate).mul_(up))
        return x + mixed


class Backbone(Network):
    """Embedding, layers, final norm and vocabulary head. Weights are uninitialised until loaded or drawn."""

    config: BackboneConfig

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

    def _run(
        self, ids: Tensor, cos: Tensor, sin: Tensor, attend_fn: AttendFn, condition: Tensor | None = None
    ) -> Tensor:
        x = F.embedding(ids, self.embedding)
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        for index, layer in enumerate(self.layers):
            x = layer(index, x, cos, sin, attend_fn)
        return _rms_norm(x, self.norm, self.config.rms_norm_eps)


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, eps)
