"""Classifier-free guidance as LLaDA uses it: each row a second time with its prompt masked (Nie et al. 2025).

The guided logits are u + (scale + 1)(c - u), c with the prompt and u without; scale 0 leaves c alone and costs nothing.
A guided forward has twice the rows.
"""

from __future__ import annotations

import torch
from torch import Tensor


def with_unconditional(ids: Tensor, prompt_length: int, mask_id: int) -> Tensor:
    """Ids [2B, S]: the canvas [B, S], then once more with its prompt replaced by masks."""
    unconditional = ids.clone()
    unconditional[:, :prompt_length] = mask_id
    return torch.cat((ids, unconditional))


def guided(logits: Tensor, scale: float) -> Tensor:
    """Guided logits [n, V] float32 of logits [2n, V], the unconditional ones second.

    float32: in bfloat16 the difference of two close logits, made larger, would be mostly rounding.
    """
    conditional, unconditional = logits.float().chunk(2)
    return torch.lerp(unconditional, conditional, scale + 1)
