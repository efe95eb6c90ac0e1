"""The shape of Gemma 4's text model with experts, and of DiffusionGemma, which is the same network denoising canvases.

Everything that parameters, FLOPs and bytes follow from. Field names are those of the Hugging Face config, where
`global_*` belongs to the full-attention layers: these have heads of their own size and no value projection (the keys'
serves both). The vocabulary head is the embedding. DiffusionGemma's encoder and decoder are one set of weights; what
its denoising adds is `self_conditioning`. A vision tower is never counted: nothing here runs it.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .config import DTYPE_BYTES
from .costs import Cost, attended_pairs

LayerType = Literal["sliding_attention", "full_attention"]

# The mask of a canvas's first denoising forward, which has no previous prediction to be conditioned on.
UNCONDITIONED = "bidirectional:unconditioned"

DIFFUSION, CAUSAL, CAUSAL_TEXT = "diffusion_gemma", "gemma4", "gemma4_text"
_FULL_EVERY = 6


class GemmaConfig(BaseModel):
    """A Gemma 4 text model: RMSNorm around every part, an MLP and routed experts side by side, 5:1 sliding attention.

    `layer_types` None makes every sixth layer and the last one full attention. `self_conditioning` adds the gated MLP
    that DiffusionGemma's denoising feeds its previous prediction through: true on the diffusion side, false on the AR
    side, which has neither its parameters nor its work.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["gemma"] = "gemma"
    vocab_size: int = Field(ge=2)
    hidden_size: int = Field(ge=1)
    intermediate_size: int = Field(ge=1)
    num_hidden_layers: int = Field(ge=1)
    num_attention_heads: int = Field(ge=1)
    num_key_value_heads: int = Field(ge=1)
    head_dim: int = Field(ge=2)
    global_head_dim: int = Field(default=512, ge=2)
    num_global_key_value_heads: int = Field(ge=1)
    sliding_window: int = Field(ge=2)
    layer_types: tuple[LayerType, ...] | None = None
    num_experts: int = Field(ge=1)
    top_k_experts: int = Field(ge=1)
    moe_intermediate_size: int = Field(ge=1)
    rms_norm_eps: float = Field(default=1e-6, gt=0)
    rope_theta: float = Field(default=10_000.0, gt=0)
    global_rope_theta: float = Field(default=1_000_000.0, gt=0)
    global_partial_rotary_factor: float = Field(default=0.25, gt=0, le=1)
    max_position_embeddings: int = Field(default=131_072, ge=1)
    final_logit_softcapping: float = Field(default=30.0, gt=0)
    canvas_length: int = Field(default=256, ge=1)
    self_conditioning: bool = False
    pad_token_id: int = Field(default=0, ge=0)
    eos_token_id: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("num_key_value_heads", "num_global_key_value_heads"):
            if self.num_attention_heads % getattr(self, name):
                raise ValueError(
                    f"num_attention_heads ({self.num_attention_heads}) must be a multiple of {name} "
                    f"({getattr(self, name)})"
                )
        for name in ("head_dim", "global_head_dim"):
            if getattr(self, name) % 2:
                raise ValueError(f"{name} ({getattr(self, name)}) must be even: RoPE rotates pairs")
        if self.top_k_experts > self.num_experts:
            raise ValueError(f"top_k_experts ({self.top_k_experts}) exceeds num_experts ({self.num_experts})")
        if self.layer_types is not None:
            if len(self.layer_types) != self.num_hidden_layers:
                raise ValueError(
                    f"layer_types has {len(self.layer_types)} entries for {self.num_hidden_layers} hidden layers"
                )
            if self.layer_types[-1] != "full_attention":
                raise ValueError(f"the last of layer_types is {self.layer_types[-1]}, must be full_attention")
        for name in ("pad_token_id", "eos_token_id"):
            token = getattr(self, name)
            if token is not None and token >= self.vocab_size:
                raise ValueError(f"{name} ({token}) is outside the vocabulary of {self.vocab_size}")
        return self

    @property
    def mask_id(self) -> None:
        """None: the canvas starts from uniform noise over the vocabulary, not from a mask token."""
        return None

    @property
    def layers(self) -> tuple[LayerType, ...]:
        """The attention of every layer."""
        if self.layer_types is not None:
            return self.layer_types
        last = self.num_hidden_layers
        return tuple(
            "full_attention" if i % _FULL_EVERY == 0 or i == last else "sliding_attention" for i in range(1, last + 1)
        )

    @property
    def full_layers(self) -> int:
        """Layers that attend to every position."""
        return self.layers.count("full_attention")

    @property
    def sliding_layers(self) -> int:
        """Layers that attend to a window."""
        return self.num_hidden_layers - self.full_layers

    @property
    def expert_parameters(self) -> int:
        """Parameters of one expert: gate, up, down."""
        return 3 * self.hidden_size * self.moe_intermediate_size

    @property
    def self_conditioning_parameters(self) -> int:
        """Parameters of the self-conditioning MLP and its norm; 0 where there is none."""
        gated = 3 * self.hidden_size * self.intermediate_size
        return gated + self.hidden_size if self.self_conditioning else 0

    @property
    def _shared_matrix_parameters(self) -> int:
        """Parameters, over all layers, of the products that every token takes part in: all but the experts."""
        d, heads = self.hidden_size, self.num_attention_heads
        # Queries and output; keys and values in a sliding layer, keys alone in a full one.
        sliding = d * self.head_dim * (2 * heads + 2 * self.num_key_value_heads)
        full = d * self.global_head_dim * (2 * heads + self.num_global_key_value_heads)
        each = 3 * d * self.intermediate_size + d * self.num_experts
        return self.sliding_layers * sliding + self.full_layers * full + self.num_hidden_layers * each

    @property
    def _shared_parameters(self) -> int:
        """All parameters but the embedding and the experts, of both kinds of layer."""
        # Seven norms a layer, the router's scale per channel and per expert, the norms of queries and keys.
        each = 8 * self.hidden_size + self.num_experts
        heads = 2 * (self.sliding_layers * self.head_dim + self.full_layers * self.global_head_dim)
        vectors = self.num_hidden_layers * each + heads + self.hidden_size
        return self._shared_matrix_parameters + vectors + self.self_conditioning_parameters

    @property
    def non_embedding_parameters(self) -> int:
        """All parameters but the embedding, which is the vocabulary head as well."""
        return self._shared_parameters + self.num_hidden_layers * self.num_experts * self.expert_parameters

    @property
    def total_parameters(self) -> int:
        """All parameters; the embedding, the head and the two roles of DiffusionGemma's layers count once.

        Counted with the self-conditioning MLP where `self_conditioning` is true; without the vision tower and its
        projection, and without the per-layer output scalars, which are buffers.
        """
        return self.non_embedding_parameters + self.vocab_size * self.hidden_size

    @property
    def tie_word_embeddings(self) -> bool:
        return True

    @property
    def kv_size(self) -> int:
        """Width of all key heads together, in the sliding layers, of which there are more."""
        return self.num_key_value_heads * self.head_dim

    @property
    def query_size(self) -> int:
        """Width of all query heads together, in the widest layers."""
        return self.num_attention_heads * max(self.head_dim, self.global_head_dim)

    @property
    def features(self) -> dict[str, str]:
        """What the shape's numbers do not say, in words, under names that every family shares."""
        experts = f"{self.num_experts} experts of {self.moe_intermediate_size}, {self.top_k_experts} active"
        return {
            "norm": f"RMSNorm, eps {self.rms_norm_eps:g}, QKV-norm",
            "positions": f"RoPE, base {self.rope_theta:g}; full layers {self.global_rope_theta:g}, partial",
            "MLP": f"gated, beside {experts}",
            "biases": "none",
            "conditioning": "previous prediction" if self.self_conditioning else "none",
            "logits": "as the mask says",
        }

    @property
    def active_parameters(self) -> int:
        """Parameters that one token passes through: of the experts, those that it is routed to."""
        idle = self.num_experts - self.top_k_experts
        return self.total_parameters - self.num_hidden_layers * idle * self.expert_parameters

    def weight_bytes(self, dtype: str) -> int:
        """Bytes of all weights in `dtype`."""
        return self.total_parameters * DTYPE_BYTES[dtype]

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Bytes that one token's keys and values take in a cache of `dtype`, over all layers.

        Full layers share a projection, but keys are rotated and values are not: both are stored. Beyond the window a
        sliding layer forgets, so a long context takes less than its length times this.
        """
        sliding, full = self._kv_sizes
        return (self.sliding_layers * sliding + self.full_layers * full) * DTYPE_BYTES[dtype]

    def kv_bytes(self, positions: int, dtype: str) -> int:
        """Bytes that the keys and values of a sequence of `positions` take: a sliding layer keeps its window."""
        sliding, full = self._kv_sizes
        kept = min(positions, self.sliding_window)
        return (self.sliding_layers * sliding * kept + self.full_layers * full * positions) * DTYPE_BYTES[dtype]

    @property
    def _kv_sizes(self) -> tuple[int, int]:
        """Numbers that a token's keys and values are, in a sliding and in a full layer."""
        return 2 * self.num_key_value_heads * self.head_dim, 2 * self.num_global_key_value_heads * self.global_head_dim

    def expected_experts(self, tokens: int) -> float:
        """Distinct experts of one layer that `tokens` tokens are expected to touch: E (1 - (1 - k/E)^tokens).

        Assumes that every token picks its k of the E experts uniformly and independently of the others. Trained
        routers are neither: related tokens share experts, so this is rather too many than too few.
        """
        share = self.top_k_experts / self.num_experts
        return self.num_experts * (1 - (1 - share) ** tokens)

    def forward_cost(
        self,
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

        The conventions are those of `costs`. `mask` causal is an encoder pass or an AR forward, in which a sliding
        layer sees the window that ends at the query; bidirectional is a denoising forward, in which it sees the last
        window - 1 positions of what was encoded and the whole canvas. FLOPs count the k experts of each token, bytes
        the `expected_experts`. With `self_conditioning`, a denoising forward has one more product with the embedding
        (the expected embedding under the previous step's prediction, V x d a position) and the MLP after it; it reads
        the embedding a second time (no cache holds it from there to the head) and the previous logits. The first step
        of a canvas, `UNCONDITIONED`, has no prediction to go by and only the MLP.
        """
        if mask not in ("causal", "bidirectional", UNCONDITIONED):
            raise ValueError(f"mask {mask!r}: Gemma's forwards are causal or bidirectional")
        weight, kv = DTYPE_BYTES[dtype], DTYPE_BYTES[kv_dtype or dtype]
        tokens, embedding = rows * q_len, self.vocab_size * self.hidden_size
        conditioned = self.self_conditioning and mask == "bidirectional"
        conditioning = self.self_conditioning_parameters if mask != "causal" else 0
        past = kv_len - q_len
        window = min(past, self.sliding_window - 1) + q_len
        sliding, full = self.sliding_layers, self.full_layers

        active = self._shared_matrix_parameters + self.num_hidden_layers * self.top_k_experts * self.expert_parameters
        flops = 2 * tokens * active + 2 * logit_rows * embedding
        if conditioning:
            flops += 2 * tokens * (conditioning - self.hidden_size)
        if conditioned:
            flops += 2 * tokens * embedding
        if mask == "causal":
            pairs = _window_pairs(q_len, kv_len, self.sliding_window), attended_pairs(q_len, kv_len, "causal")
        else:
            pairs = q_len * window, q_len * kv_len
        per_pair = 4 * self.num_attention_heads
        flops += per_pair * rows * (sliding * self.head_dim * pairs[0] + full * self.global_head_dim * pairs[1])

        experts = self.num_hidden_layers * self.expected_experts(tokens) * self.expert_parameters
        shared = self._shared_parameters - self.self_conditioning_parameters + conditioning
        head = (embedding if logit_rows else 0) + logit_rows * self.vocab_size
        previous = embedding + tokens * self.vocab_size if conditioned else 0
        moved = weight * (shared + experts + tokens * self.hidden_size + head + previous)
        sliding_kv, full_kv = self._kv_sizes
        moved += kv * rows * (sliding * sliding_kv * (window + q_len) + full * full_kv * (kv_len + q_len))
        return Cost(float(flops), float(moved))


def _window_pairs(q_len: int, kv_len: int, window: int) -> int:
    """Query-key pairs of one row and head under a causal mask in which a query sees `window` keys, its own included.

    >>> _window_pairs(4, 4, 2)
    7
    """
    past = kv_len - q_len
    growing = min(max(window - past, 0), q_len)
    return attended_pairs(growing, past + growing, "causal") + (q_len - growing) * window
