"""Scaled dot-product attention with grouped-query heads, and the published list of kernels a side may choose from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from .. import InputError

# "auto" lets torch choose for each call; the others pin one kernel. Both sides of a pair choose from this list.
BACKENDS: dict[str, SDPBackend | None] = {
    "auto": None,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


@contextmanager
def attention_backend(name: str) -> Iterator[None]:
    """Pin the attention kernel inside the block; `auto` pins none."""
    if name not in BACKENDS:
        raise InputError(f"attention {name!r} is unknown; choose from {', '.join(BACKENDS)}")
    backend = BACKENDS[name]
    if backend is None:
        yield
        return
    with sdpa_kernel(backend):
        yield


def attend(query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False, mask: Tensor | None = None) -> Tensor:
    """Attention of query [B, H, q, D] on key and value [B, Hkv, kv, D], H a multiple of Hkv. Returns [B, H, q, D].

    `causal` requires q = kv; `mask` is boolean or additive and broadcasts to [B, 1, q, kv]. Where all queries see
    the same keys, the heads of a group are folded into the query length: the same sums, with no copy of keys and
    values, on any kernel.
    """
    batch, heads, q_len, head_dim = query.shape
    kv_heads = key.shape[1]
    if kv_heads == heads:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
    if not causal and (mask is None or mask.shape[-2] == 1):
        folded = query.reshape(batch, kv_heads, heads // kv_heads * q_len, head_dim)
        return scaled_dot_product_attention(folded, key, value, attn_mask=mask).reshape(batch, heads, q_len, head_dim)
    if query.is_cuda:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal, enable_gqa=True)
    # The CPU's fused kernel takes equal head counts only; its fallback would materialise the [q, kv] scores.
    group = heads // kv_heads
    key, value = (t.repeat_interleave(group, dim=1) for t in (key, value))
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)


def attend_one(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """Attention of a single position, query [B, H, 1, D] on key and value [B, Hkv, kv, D], under `visible` [kv] bool.

    Written out, for compiled graphs on a CPU: the compiler fuses it with the cache's update around it.
    """
    batch, heads, _, head_dim = query.shape
    kv_heads = key.shape[1]
    grouped = query.view(batch, kv_heads, heads // kv_heads, 1, head_dim).float() * head_dim**-0.5
    scores = (grouped * key[:, :, None].float()).sum(dim=-1)
    weights = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)
    mixed: Tensor = (weights[..., None] * value[:, :, None].float()).sum(dim=-2)
    return mixed.to(query.dtype).view(batch, heads, 1, head_dim)


def block_causal_mask(q_len: int, kv_len: int, block_length: int, device: torch.device) -> Tensor:
    """Boolean [q_len, kv_len]: query i, at position kv_len - q_len + i, sees its own block whole and all before it."""
    queries = torch.arange(kv_len - q_len, kv_len, device=device) // block_length
    keys = torch.arange(kv_len, device=device) // block_length
    return keys[None, :] <= queries[:, None]


def causal_mask(q_len: int, kv_len: int, device: torch.device) -> Tensor:
    """Boolean [q_len, kv_len] for queries that are the last `q_len` of `kv_len` positions."""
    return block_causal_mask(q_len, kv_len, 1, device)
