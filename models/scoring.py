"""Exact log-probabilities of texts under an autoregressive network."""

from __future__ import annotations

import torch
from torch import Tensor

from .network import Network

_ROWS = 32  # of a forward


@torch.inference_mode()
def token_log_probs(network: Network, ids: Tensor, first: int) -> Tensor:
    """Nats [B, S] float32 of each token of ids [B, S] given all before it; token `first` (EOS) goes before each row."""
    network.rotary(ids.shape[1])
    parts = []
    for rows in ids.split(_ROWS):
        inputs = torch.cat((rows.new_full((len(rows), 1), first), rows[:, :-1]), dim=1)
        hidden = network.trunk(inputs, mask="causal", condition=network.conditioning(None))
        logits = network.logits(hidden.flatten(0, 1)).float().log_softmax(dim=-1)
        parts.append(logits.gather(1, rows.reshape(-1, 1)).view(rows.shape))
    return torch.cat(parts)
