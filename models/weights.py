"""Networks with memory of their own: uninitialised, or with random weights from a recorded seed and distribution."""

from __future__ import annotations

import math

import torch

from .backbone import Backbone
from .config import BackboneConfig
from .dit import DiT
from .dit_config import DiTConfig
from .network import Network


def empty_network(config: BackboneConfig | DiTConfig, dtype: torch.dtype, device: torch.device | str) -> Network:
    """The network of this shape, its weights allocated in `dtype` on `device` but not set."""
    with torch.device("meta"):
        network: Network = Backbone(config) if isinstance(config, BackboneConfig) else DiT(config)
    network = network.to(dtype).to_empty(device=device)
    if config.tie_word_embeddings:
        network.head.weight = network.embedding
    return network


def random_network(
    config: BackboneConfig | DiTConfig, seed: int, dtype: torch.dtype, device: torch.device | str
) -> Network:
    """A network with weights drawn on `device` from `seed`, directly in `dtype`, evaluation mode.

    The initialisation is GPT-2's (Radford et al. 2019, section 2.3); adaLN gates start at one, since at zero, where
    training starts them, no layer would do anything. The values depend on the device's generator, so the record names
    the device.
    """
    network = empty_network(config, dtype, device)
    random = torch.Generator(device).manual_seed(seed)
    residual = 0.02 / math.sqrt(2 * config.num_hidden_layers)
    for name, parameter in network.named_parameters():
        if parameter.dim() == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            std = residual if name.endswith(("output.weight", "down.weight")) else 0.02
            parameter.normal_(0.0, std, generator=random)
        if name.startswith("blocks.") and name.endswith("modulation.bias"):
            # Shift, scale and gate of attention, then of the MLP.
            parameter.view(2, 3, -1)[:, 2].fill_(1.0)
    return network.eval()
