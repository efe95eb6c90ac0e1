"""The shape of the DiT of MDLM, SEDD and BD3LM, and the facts of the system that it was trained in."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .config import DTYPE_BYTES, Llama3Rope

SIGMA_FREQUENCIES = 256  # width of the sinusoid that a noise level enters as


class DiTConfig(BaseModel):
    """A pre-norm transformer with rotary positions, GELU, an untied biased head and, with `adaln`, sigma conditioning.

    `time_conditioning` False keeps the conditioning path and feeds it sigma = 0 (MDLM). `adaln` False is the
    autoregressive baseline of MDLM and BD3LM, the same network without sigma. `parameterization` says what the head's
    output means: `subs` log-probabilities of the clean token, or SEDD's log `score`, from which `scale_by_sigma`
    subtracts log(expm1(sigma)) + log(V - 1). `graph` uniform has no mask token. `block_size` is BD3LM's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["dit"] = "dit"
    vocab_size: int = Field(ge=2)
    hidden_size: int = Field(ge=1)
    num_hidden_layers: int = Field(ge=1)
    num_attention_heads: int = Field(ge=1)
    cond_dim: int = Field(default=128, ge=1)
    max_position_embeddings: int = Field(default=1024, ge=1)
    adaln: bool = True
    time_conditioning: bool = False
    parameterization: Literal["subs", "score"] = "subs"
    scale_by_sigma: bool = False
    graph: Literal["absorb", "uniform"] = "absorb"
    noise: str = "loglinear"
    sigma_min: float = Field(default=1e-4, gt=0)
    sigma_max: float = Field(default=20.0, gt=0, le=80)  # exp(80) is near the end of float32
    block_size: int | None = Field(default=None, ge=1)
    eos_token_id: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.hidden_size % self.num_attention_heads or self.head_dim % 2:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be an even multiple of num_attention_heads "
                f"({self.num_attention_heads}): RoPE rotates pairs"
            )
        if self.time_conditioning and not self.adaln:
            raise ValueError("time_conditioning needs adaln: sigma enters through it")
        if self.parameterization == "score" and not self.time_conditioning:
            raise ValueError("a score depends on sigma: parameterization score needs time_conditioning")
        if self.graph == "uniform" and (self.scale_by_sigma or self.parameterization != "score"):
            raise ValueError("graph uniform needs parameterization score, without scale_by_sigma")
        if self.eos_token_id is not None and self.eos_token_id >= self.vocab_size:
            raise ValueError(f"eos_token_id ({self.eos_token_id}) is outside the vocabulary of {self.vocab_size}")
        return self

    @property
    def mask_id(self) -> int | None:
        """Id of the mask token: the last of the vocabulary; None for the uniform graph, which has none."""
        return None if self.graph == "uniform" else self.vocab_size - 1

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def num_key_value_heads(self) -> int:
        return self.num_attention_heads

    @property
    def intermediate_size(self) -> int:
        return 4 * self.hidden_size

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.hidden_size

    @property
    def kv_size(self) -> int:
        """Width of all key heads together (the value heads are as wide)."""
        return self.hidden_size

    @property
    def rope_theta(self) -> float:
        return 10_000.0

    @property
    def rope_scaling(self) -> Llama3Rope | None:
        return None

    @property
    def tie_word_embeddings(self) -> bool:
        return False

    @property
    def layer_matrix_parameters(self) -> int:
        """Parameters of one layer that enter a matrix product for every token: q, k, v, o and the two of the MLP."""
        return 12 * self.hidden_size**2

    @property
    def modulation_size(self) -> int:
        """Numbers that a noise level comes to: shifts and scales of all norms, gates of all branches."""
        return self.hidden_size * (6 * self.num_hidden_layers + 2) if self.adaln else 0

    @property
    def conditioning_parameters(self) -> int:
        """Parameters of the sigma MLP and of every adaLN projection."""
        if not self.adaln:
            return 0
        embedder = (SIGMA_FREQUENCIES + 1 + self.cond_dim + 1) * self.cond_dim
        return embedder + (self.cond_dim + 1) * self.modulation_size

    @property
    def conditioning_products(self) -> int:
        """Multiply-adds that each forward's noise level takes; 0 for a network whose level never changes."""
        if not self.time_conditioning:
            return 0
        return self.cond_dim * (SIGMA_FREQUENCIES + self.cond_dim + self.modulation_size)

    @property
    def non_embedding_parameters(self) -> int:
        """All parameters but the embedding and the vocabulary head with its bias."""
        layer = self.layer_matrix_parameters + (4 + 1) * self.hidden_size + 2 * self.hidden_size
        return self.num_hidden_layers * layer + self.hidden_size + self.conditioning_parameters

    @property
    def total_parameters(self) -> int:
        """All parameters."""
        return self.non_embedding_parameters + self.vocab_size * (2 * self.hidden_size + 1)

    @property
    def features(self) -> dict[str, str]:
        """What the shape's numbers do not say, in words, under names that every family shares."""
        conditioning = "none" if not self.adaln else f"adaLN of width {self.cond_dim}"
        if self.adaln:
            conditioning += ", sigma" if self.time_conditioning else ", sigma held at 0"
        return {
            "norm": "LayerNorm without bias, eps 1e-05",
            "positions": "RoPE, base 10000",
            "MLP": "GELU",
            "biases": "MLP, head" + (", adaLN" if self.adaln else ""),
            "conditioning": conditioning,
            "logits": "log score" if self.parameterization == "score" else "as the mask says",
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
