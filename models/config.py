"""The shape of a backbone: everything that its parameters, FLOPs and bytes follow from.

Both sides of a pair share these fields; field names are those of Hugging Face configs, so that a Llama, Qwen2 or Qwen3
`config.json` maps onto them one to one.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

Attention = Literal["causal", "bidirectional", "block_causal"]


class Llama3Rope(BaseModel):
    """Llama 3.1's frequency-dependent position scaling (`rope_type: llama3`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    factor: float = Field(gt=0)
    low_freq_factor: float = Field(gt=0)
    high_freq_factor: float = Field(gt=0)
    original_max_position_embeddings: int = Field(ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError("high_freq_factor must exceed low_freq_factor")
        return self


class BackboneConfig(BaseModel):
    """A Llama-style decoder: RMSNorm, RoPE, SwiGLU, grouped-query attention.

    `attention_bias` puts biases on q, k and v only (Qwen2); `qk_norm` normalises q and k per head (Qwen3).
    `mask_token_id` is the id that diffusion uses for a masked position; None takes the last id of the vocabulary.
    `shifted_logits`: trained for row i to predict token i + 1 also with bidirectional attention (Dream). `block_size`:
    trained for block-causal attention with blocks of this many positions (SDAR).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["llama"] = "llama"
    vocab_size: int = Field(ge=2)
    hidden_size: int = Field(ge=1)
    intermediate_size: int = Field(ge=1)
    num_hidden_layers: int = Field(ge=1)
    num_attention_heads: int = Field(ge=1)
    num_key_value_heads: int = Field(ge=1)
    head_dim: int = Field(ge=2)
    rms_norm_eps: float = Field(default=1e-5, gt=0)
    rope_theta: float = Field(default=10_000.0, gt=0)
    rope_scaling: Llama3Rope | None = None
    max_position_embeddings: int = Field(default=4096, ge=1)
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    qk_norm: bool = False
    mask_token_id: int | None = Field(default=None, ge=0)
    eos_token_id: int | None = Field(default=None, ge=0)
    shifted_logits: bool = False
    block_size: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even: RoPE rotates pairs")
        for name in ("mask_token_id", "eos_token_id"):
            token = getattr(self, name)
            if token is not None and token >= self.vocab_size:
                raise ValueError(f"{name} ({token}) is outside the vocabulary of {self.vocab_size}")
        if self.mask_id == self.eos_token_id:
            raise ValueError(f"mask_token_id and eos_token_id are both {self.mask_id}; they must differ")
        return self

    @property
    def mask_id(self) -> int:
        """Id of the mask token, inside the vocabulary."""
        return self.vocab_size - 1 if self.mask_token_id is None else self.mask_token_id

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key heads together (the value heads are as wide)."""
        return self.num_key_value_heads * self.head_dim

    @property
    def layer_matrix_parameters(self) -> int:
        """Parameters of one layer that enter a matrix product: q, k, v, o, gate, up, down."""
        attention = self.hidden_size * (2 * self.query_size + 2 * self.kv_size)
        return attention + 3 * self.hidden_size * self.intermediate_size

    @property
    def non_embedding_parameters(self) -> int:
        """All parameters but the embedding and the vocabulary head."""
        layer = self.layer_matrix_parameters + 2 * self.hidden_size
        if self.attention_bias:
            layer += self.query_size + 2 * self.kv_size
        if self.qk_norm:
            layer += 2 * self.head_dim
        return self.num_hidden_layers * layer + self.hidden_size

    @property
    def total_parameters(self) -> int:
        """All parameters; a tied head counts once."""
        matrix = self.vocab_size * self.hidden_size
        return self.non_embedding_parameters + (matrix if self.tie_word_embeddings else 2 * matrix)

    @property
    def features(self) -> dict[str, str]:
        """What the shape's numbers do not say, in words, under names that every family shares."""
        scaling = self.rope_scaling
        stretched = "" if scaling is None else (
            f", llama3 scaling: factor {scaling.factor:g}, low {scaling.low_freq_factor:g}, "
            f"high {scaling.high_freq_factor:g}, from {scaling.original_max_position_embeddings}"
        )  # fmt: skip
        return {
            "norm": f"RMSNorm, eps {self.rms_norm_eps:g}" + (", QK-norm" if self.qk_norm else ""),
            "positions": f"RoPE, base {self.rope_theta:g}{stretched}",
            "MLP": "SwiGLU",
            "biases": "q, k, v" if self.attention_bias else "none",
            "conditioning": "none",
            "logits": "row i predicts token i + 1, shifted by the sampler"
            if self.shifted_logits
            else "as the mask says",
        }

    @property
    def active_parameters(self) -> int:
        """Parameters that one token passes through: all of them."""
        return self.total_parameters

    def weight_bytes(self, dtype: str) -> int:
        """Bytes of all weights in `dtype`."""
        return self.total_parameters * DTYPE_BYTES[dtype]

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Bytes that one token's keys and values take in a cache of `dtype`, over all layers."""
        return 2 * self.num_hidden_layers * self.kv_size * DTYPE_BYTES[dtype]
