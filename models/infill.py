"""Filling a gap in the middle of a text: what a network that sees both sides can do and one that reads on cannot."""

from __future__ import annotations

import torch
from torch import Tensor

from .network import Network


@torch.inference_mode()
def infill(network: Network, ids: Tensor, begin: int, end: int, *, mask_id: int, seed: int) -> Tensor:
    """ids [B, S] with positions begin .. end - 1 written anew, whatever stood there: one a step, in random order.

    This is ancestral sampling of a masked diffusion model at temperature 1 with as many steps as positions (Sahoo et
    al. 2024, section 3.3, its order being uniform): no two positions are drawn at once.
    """
    rows, device = len(ids), ids.device
    random = torch.Generator(device).manual_seed(seed)
    canvas = ids.clone()
    canvas[:, begin:end] = mask_id
    network.rotary(ids.shape[1])
    order = torch.rand(rows, end - begin, generator=random, device=device).argsort(dim=1) + begin
    every = torch.arange(rows, device=device)
    for position in order.unbind(dim=1):
        hidden = network.trunk(canvas, mask="bidirectional", condition=network.conditioning(None))
        logits = network.logits(hidden[every, position]).float()
        logits[:, mask_id] = -torch.inf
        drawn = torch.multinomial(logits.softmax(dim=-1), 1, generator=random)
        canvas[every, position] = drawn.squeeze(1)
    return canvas
