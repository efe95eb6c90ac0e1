"""Where each tensor of a published checkpoint lies in a network of ours: one function for each naming.

Projections that a network fuses (q, k, v; gate, up) are row ranges of one parameter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .config import BackboneConfig
from .dit_config import SIGMA_FREQUENCIES, DiTConfig

# Hugging Face's names (Llama, Qwen2, Qwen3, Dream, SDAR); LLaDA's own; the DiT's, plain (SEDD) or below `backbone.`.
Layout = Literal["hf", "llada", "dit", "dit-prefixed"]

# Tensors that follow from the config, or that only training reads: stored by some, needed by none.
DERIVED = re.compile(
    r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq|(backbone\.)?rotary_emb\.inv_freq|sampling_eps_(min|max)"
)
HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor of a checkpoint: `shape[0]` rows, from row `start`, of one of the network's parameters."""

    name: str
    parameter: str
    shape: tuple[int, ...]
    start: int = 0

    def of(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The view of the network's parameter that holds this tensor."""
        return parameters[self.parameter][self.start : self.start + self.shape[0]]


def pieces(config: BackboneConfig | DiTConfig, layout: Layout = "hf") -> Iterator[Piece]:
    """Every tensor that a checkpoint of this shape and layout must have; a tied head is not stored."""
    if isinstance(config, DiTConfig):
        return _dit_pieces(config, "backbone." if layout == "dit-prefixed" else "")
    return _llada_pieces(config) if layout == "llada" else _hf_pieces(config)


def _hf_pieces(config: BackboneConfig) -> Iterator[Piece]:
    hidden, inner, query, kv = config.hidden_size, config.intermediate_size, config.query_size, config.kv_size
    yield Piece("model.embed_tokens.weight", "embedding", (config.vocab_size, hidden))
    for index in range(config.num_hidden_layers):
        theirs, ours = f"model.layers.{index}.", f"layers.{index}."
        yield Piece(theirs + "input_layernorm.weight", ours + "input_norm", (hidden,))
        for name, rows, start in (("q", query, 0), ("k", kv, query), ("v", kv, query + kv)):
            yield Piece(theirs + f"self_attn.{name}_proj.weight", ours + "qkv.weight", (rows, hidden), start)
            if config.attention_bias:
                yield Piece(theirs + f"self_attn.{name}_proj.bias", ours + "qkv.bias", (rows,), start)
        if config.qk_norm:
            yield Piece(theirs + "self_attn.q_norm.weight", ours + "q_norm", (config.head_dim,))
            yield Piece(theirs + "self_attn.k_norm.weight", ours + "k_norm", (config.head_dim,))
        yield Piece(theirs + "self_attn.o_proj.weight", ours + "output.weight", (hidden, query))
        yield Piece(theirs + "post_attention_layernorm.weight", ours + "post_norm", (hidden,))
        yield Piece(theirs + "mlp.gate_proj.weight", ours + "gate_up.weight", (inner, hidden))
        yield Piece(theirs + "mlp.up_proj.weight", ours + "gate_up.weight", (inner, hidden), inner)
        yield Piece(theirs + "mlp.down_proj.weight", ours + "down.weight", (hidden, inner))
    yield Piece("model.norm.weight", "norm", (hidden,))
    if not config.tie_word_embeddings:
        yield Piece(HEAD, "head.weight", (config.vocab_size, hidden))


def _llada_pieces(config: BackboneConfig) -> Iterator[Piece]:
    hidden, inner, query, kv = config.hidden_size, config.intermediate_size, config.query_size, config.kv_size
    top = "model.transformer."
    yield Piece(top + "wte.weight", "embedding", (config.vocab_size, hidden))
    for index in range(config.num_hidden_layers):
        theirs, ours = f"{top}blocks.{index}.", f"layers.{index}."
        yield Piece(theirs + "attn_norm.weight", ours + "input_norm", (hidden,))
        for name, rows, start in (("q", query, 0), ("k", kv, query), ("v", kv, query + kv)):
            yield Piece(theirs + f"{name}_proj.weight", ours + "qkv.weight", (rows, hidden), start)
        yield Piece(theirs + "attn_out.weight", ours + "output.weight", (hidden, query))
        yield Piece(theirs + "ff_norm.weight", ours + "post_norm", (hidden,))
        yield Piece(theirs + "ff_proj.weight", ours + "gate_up.weight", (inner, hidden))
        yield Piece(theirs + "up_proj.weight", ours + "gate_up.weight", (inner, hidden), inner)
        yield Piece(theirs + "ff_out.weight", ours + "down.weight", (hidden, inner))
    yield Piece(top + "ln_f.weight", "norm", (hidden,))
    if not config.tie_word_embeddings:
        yield Piece(top + "ff_out.weight", "head.weight", (config.vocab_size, hidden))


def _dit_pieces(config: DiTConfig, prefix: str) -> Iterator[Piece]:
    hidden, cond = config.hidden_size, config.cond_dim
    yield Piece(prefix + "vocab_embed.embedding", "embedding", (config.vocab_size, hidden))

    def linear(theirs: str, ours: str, size_out: int, size_in: int, bias: bool = True) -> Iterator[Piece]:
        yield Piece(f"{prefix}{theirs}.weight", f"{ours}.weight", (size_out, size_in))
        if bias:
            yield Piece(f"{prefix}{theirs}.bias", f"{ours}.bias", (size_out,))

    if config.adaln:
        yield from linear("sigma_map.mlp.0", "sigma_in", cond, SIGMA_FREQUENCIES)
        yield from linear("sigma_map.mlp.2", "sigma_out", cond, cond)
    for index in range(config.num_hidden_layers):
        at = f"blocks.{index}."
        yield Piece(f"{prefix}{at}norm1.weight", f"{at}norm1", (hidden,))
        yield from linear(at + "attn_qkv", at + "qkv", 3 * hidden, hidden, bias=False)
        yield from linear(at + "attn_out", at + "output", hidden, hidden, bias=False)
        yield Piece(f"{prefix}{at}norm2.weight", f"{at}norm2", (hidden,))
        yield from linear(at + "mlp.0", at + "up", 4 * hidden, hidden)
        yield from linear(at + "mlp.2", at + "down", hidden, 4 * hidden)
        if config.adaln:
            yield from linear(at + "adaLN_modulation", at + "modulation", 6 * hidden, cond)
    yield Piece(prefix + "output_layer.norm_final.weight", "norm", (hidden,))
    if config.adaln:
        yield from linear("output_layer.adaLN_modulation", "modulation", 2 * hidden, cond)
    yield from linear("output_layer.linear", "head", config.vocab_size, hidden)
