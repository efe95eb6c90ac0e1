"""The networks that are trained: one size for all four, and one backbone for all but SEDD.

AR, MDLM and block diffusion are the same `Backbone` with QK norms: as a checkpoint a Qwen3, which is also what SDAR's
layout is made of. SEDD's samplers, here and in the field, run a DiT that is told the noise level, so SEDD trains that:
as wide and as deep, with an MLP of as many parameters (GELU of 4 d against SwiGLU of 8/3 d); its head and embedding are
two matrices, and the noise level enters through `COND_DIM` numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from ..config import BackboneConfig
from ..dit_config import DiTConfig
from ..network import Network
from ..weights import empty_network

Model = Literal["ar", "mdlm", "sedd", "block-diffusion"]
MODELS: tuple[Model, ...] = ("ar", "mdlm", "sedd", "block-diffusion")

HEAD_DIM = 32
COND_DIM = 32
# Windows are 128 tokens long: with the usual base of 10,000 most of a head's 16 frequencies would hardly turn in them.
ROPE_BASE = 100.0


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Rows of the embedding, and the ids that end a text and hide a token; `mask_id` is the last one in use."""

    size: int
    eos_id: int
    mask_id: int


@dataclass(frozen=True, slots=True)
class Size:
    """Width, a multiple of 32 (heads are 32 wide), and depth."""

    hidden: int = 96
    layers: int = 4


def network_config(model: Model, size: Size, vocabulary: Vocabulary, block_size: int) -> BackboneConfig | DiTConfig:
    """The shape of `model`'s network."""
    heads = size.hidden // HEAD_DIM
    if model == "sedd":
        return DiTConfig(
            vocab_size=vocabulary.mask_id + 1,  # here the mask must be the last row
            hidden_size=size.hidden,
            num_hidden_layers=size.layers,
            num_attention_heads=heads,
            cond_dim=COND_DIM,
            time_conditioning=True,
            parameterization="score",
            scale_by_sigma=True,
        )
    return BackboneConfig(
        vocab_size=vocabulary.size,
        hidden_size=size.hidden,
        intermediate_size=-(-size.hidden * 8 // 3 // 32) * 32,
        num_hidden_layers=size.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=HEAD_DIM,
        rms_norm_eps=1e-6,
        rope_theta=ROPE_BASE,
        tie_word_embeddings=True,
        qk_norm=True,
        eos_token_id=vocabulary.eos_id,
        mask_token_id=vocabulary.mask_id,
        block_size=block_size if model == "block-diffusion" else None,
    )


def initial_network(config: BackboneConfig | DiTConfig, seed: int) -> Network:
    """A network to train, float32 on the CPU: matrices of variance 1 / inputs, what ends a residual branch smaller.

    Embeddings have a standard deviation of 0.02 about a mean of that size which all tokens share. Logits do not feel it
    where the head is tied, but keys do: from the start a head can attend by place alone. Without it a masked model,
    whose masks say nothing themselves, first had to make such keys, and stayed at the words' entropy for 1000 steps.
    A DiT's modulations and head start at zero, so that its blocks start
    as the identity (Peebles & Xie 2023, "Scalable Diffusion Models with Transformers", section 3.2, adaLN-Zero).
    """
    network = empty_network(config, torch.float32, "cpu")
    random = torch.Generator().manual_seed(seed)
    branches = math.sqrt(2 * config.num_hidden_layers)
    for name, parameter in network.named_parameters():
        if parameter.dim() == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        elif "modulation" in name or (isinstance(config, DiTConfig) and name.startswith("head")):
            parameter.zero_()
        else:
            std = 0.02 if name == "embedding" else parameter.shape[1] ** -0.5
            if name.endswith(("output.weight", "down.weight")):
                std /= branches
            parameter.normal_(0.0, std, generator=random)
            if name == "embedding":
                parameter.add_(torch.empty(parameter.shape[1]).normal_(0.0, std, generator=random))
    return network.requires_grad_(True)
