"""Random weights: the real architecture at real size, drawn from a recorded seed and distribution."""

from __future__ import annotations

import math

import torch

from .backbone import Backbone
from .config import BackboneConfig


def random_backbone(config: BackboneConfig, seed: int, dtype: torch.dtype, device: torch.device | str) -> Backbone:
    """A backbone with weights drawn on `device` from `seed`, directly in `dtype`, evaluation mode.

    The initialisation is GPT-2's (Radford et al. 2019, section 2.3). The values depend on the device's generator, so
    the record names the device.
    """
    with torch.device("meta"):
        network = Backbone(config)
    network = network.to(dtype).to_empty(device=device)
    if config.tie_word_embeddings:
        network.head.weight = network.embedding
    random = torch.Generator(device).manual_seed(seed)
    residual = 0.02 / math.sqrt(2 * config.num_hidden_layers)
    for name, parameter in network.named_parameters():
        if parameter.dim() == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            std = residual if name.endswith(("output.weight", "down.weight")) else 0.02
            parameter.normal_(0.0, std, generator=random)
    return network.eval()
