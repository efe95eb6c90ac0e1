"""FLOPs and bytes of a forward, from its shape alone.

Conventions (design, section 4): a multiply-add is 2 FLOPs; matrix products and attention count, element-wise work
(norms, rotations, activations, softmax) does not. Over 1024 positions, with five operations to a softmax, it would be
at most 0.2 % more from 1B parameters on, 0.5 % at 124M and 4 % in the embedded models of half a million. Causal
attention counts the lower triangle, a cache only its live keys, the vocabulary head only the rows that it computes.
Where the rows of a batch stand at different positions, or are padded, each counts as the longest.

Bytes are the least that must move: weights once per forward, the embedding rows looked up, keys and values written once
and read once, logits written once. Activations are left out: they stay on chip at the sizes where bytes decide.

A DiT that sees the time evaluates its sigma networks for many noise levels at once: a forward counts the products of
its own level and reads what came of them. Their weights, read once in 64 levels, are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .config import DTYPE_BYTES, Attention, BackboneConfig
from .dit_config import DiTConfig

if TYPE_CHECKING:
    from .gemma_config import GemmaConfig


@dataclass(frozen=True, slots=True)
class Cost:
    """Work of one or more forwards: floating-point operations and bytes moved."""

    flops: float
    bytes: float

    def floor_s(self, flop_s: float, byte_s: float) -> float:
        """The least time that this forward can take on a device with these peaks (FLOP/s, B/s), in seconds."""
        return max(self.flops / flop_s, self.bytes / byte_s)


def block_causal(block_length: int) -> str:
    """The mask of a block-causal forward as it is announced: with its block length, which its cost depends on."""
    return f"block_causal:{block_length}"


def attended_pairs(q_len: int, kv_len: int, mask: Attention, block_length: int = 1) -> int:
    """Query-key pairs of one row and one head, the queries being the last `q_len` of `kv_len` positions.

    More queries than keys (a window that reaches past the text) begin at position 0.

    >>> attended_pairs(4, 4, "causal")
    10
    """
    if mask == "bidirectional":
        return q_len * kv_len
    size = block_length if mask == "block_causal" else 1
    begin = max(kv_len - q_len, 0)
    end, cut = begin + q_len, kv_len // size * size
    # From the last block's begin on, `cut`, a query sees all keys, whether or not its block ends with them.
    within = _seen_from_start(min(end, cut), size) - _seen_from_start(min(begin, cut), size)
    return within + kv_len * max(end - max(begin, cut), 0)


def _seen_from_start(positions: int, block_length: int) -> int:
    """Query-key pairs of the first `positions` queries, each of which sees up to the end of its block."""
    blocks, rest = divmod(positions, block_length)
    return block_length * (block_length * blocks * (blocks + 1) // 2 + rest * (blocks + 1))


def forward_cost(
    config: BackboneConfig | DiTConfig | GemmaConfig,
    *,
    rows: int,
    q_len: int,
    kv_len: int,
    logit_rows: int,
    mask: str,
    dtype: str,
    kv_dtype: str | None = None,
) -> Cost:
    """Work of one forward of `rows` x `q_len` new positions that attend to `kv_len` positions in all.

    `logit_rows` is the number of positions, over all rows, whose vocabulary logits are computed; `mask` causal,
    block_causal:N or anything else, which counts as bidirectional.
    """
    if config.family == "gemma":
        return config.forward_cost(
            rows=rows, q_len=q_len, kv_len=kv_len, logit_rows=logit_rows, mask=mask, dtype=dtype, kv_dtype=kv_dtype
        )
    weight, kv = DTYPE_BYTES[dtype], DTYPE_BYTES[kv_dtype or dtype]
    tokens = rows * q_len
    matrix = config.num_hidden_layers * config.layer_matrix_parameters
    head = config.hidden_size * config.vocab_size
    kind, _, block = mask.partition(":")
    seen: Attention = "causal" if kind == "causal" else "block_causal" if block else "bidirectional"
    pairs = rows * attended_pairs(q_len, kv_len, seen, int(block or 1))
    flops = 2 * tokens * matrix + 2 * logit_rows * head + 4 * config.num_hidden_layers * config.query_size * pairs
    read, head_read = config.non_embedding_parameters, head
    if config.family == "dit":
        flops += 2 * config.conditioning_products
        read += config.modulation_size - config.conditioning_parameters
        head_read += config.vocab_size  # its bias
    kv_token = 2 * config.num_hidden_layers * config.kv_size * kv
    moved = (
        weight * read
        + (weight * head_read if logit_rows else 0)
        + weight * tokens * config.hidden_size
        + kv_token * rows * (kv_len + q_len)
        + weight * logit_rows * config.vocab_size
    )
    return Cost(float(flops), float(moved))
