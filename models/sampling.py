"""Choosing tokens from logits: greedy, or exact draws after temperature, top-k and top-p, with confidences.

A draw is an inverse CDF in two levels: float32 weights exp(x - max) are summed in chunks, a float64 uniform picks the
chunk by the float64 running sum of chunk weights, then the token inside that one chunk. The distribution is the
softmax's up to float32 rounding of the weights themselves (relative 1e-6), at any temperature: unlike the Gumbel trick
with float32 uniforms, whose tails are cut (Zheng et al. 2024, "Masked diffusion models are secretly time-agnostic…",
section 4), and without float64 noise on every logit.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .draws import CHUNK, inverse_cdf
from .generator import Settings
from .nucleus import Crossing, outside_nucleus

# From this vocabulary on, a maximum in two levels beats one pass that carries indices, on a CPU.
_TWO_LEVEL = 32_768
# Logits worked on at once: temporaries of this size stay in a CPU's caches; a GPU wants fewer, larger kernels.
BLOCK_BYTES = {"cpu": 2 << 20, "cuda": 256 << 20}


def choose(
    logits: Tensor,
    settings: Settings,
    random: torch.Generator,
    *,
    suppress: int | None = None,
    confidence: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Choose a token for each row of logits [n, V] (any float dtype; overwritten at `suppress`).

    Returns ids [n] int64 and, if asked, the probability [n] float32 of each chosen id under the *untempered* softmax
    (LLaDA's confidence). `suppress` is an id that can never be chosen: the mask token.
    """
    if suppress is not None:
        logits[:, suppress] = -torch.inf
    if settings.temperature == 0 and not confidence:
        two_level = logits.shape[1] >= _TWO_LEVEL and not logits.is_cuda
        return largest(logits)[1][:, 0] if two_level else logits.argmax(dim=-1), None
    rows = max(1, BLOCK_BYTES.get(logits.device.type, 2 << 20) // (4 * logits.shape[1]))
    uniforms = None
    if settings.temperature > 0:
        uniforms = torch.rand(logits.shape[0], dtype=torch.float64, device=logits.device, generator=random)
    # Made beforehand: results that came to lie among the temporaries would keep their memory from the next chunk's.
    ids = torch.empty(logits.shape[0], dtype=torch.int64, device=logits.device)
    sure = logits.new_empty(logits.shape[0], dtype=torch.float32) if confidence else None
    for begin in range(0, logits.shape[0], rows):
        part = slice(begin, begin + rows)
        drawn = None if uniforms is None else uniforms[part]
        ids[part], chosen = _choose_rows(logits[part].float(), settings, drawn, confidence)
        if sure is not None and chosen is not None:
            sure[part] = chosen
    return ids, sure


def _choose_rows(
    logits: Tensor, settings: Settings, uniforms: Tensor | None, confidence: bool
) -> tuple[Tensor, Tensor | None]:
    """`choose` on float32 rows that fit the cache. `uniforms` [n] float64 in [0, 1), None for greedy."""
    if uniforms is None:
        top, ids = largest(logits)
        return ids[:, 0], (logits - top).exp_().sum(dim=-1).reciprocal_()
    top = logits.amax(dim=-1, keepdim=True)
    scaled = (logits - top).div_(settings.temperature)
    if settings.top_k or settings.top_p < 1:
        scaled = truncate(scaled, settings.top_k, settings.top_p)
    weights = scaled.exp_()
    ids = inverse_cdf(weights, uniforms)
    if not confidence:
        return ids, None
    if settings.temperature == 1 and not settings.top_k and settings.top_p == 1:
        total = weights.sum(dim=-1)
        chosen = weights.gather(1, ids[:, None])[:, 0]
    else:
        total = (logits - top).exp_().sum(dim=-1)
        chosen = (logits.gather(1, ids[:, None]) - top).exp_()[:, 0]
    return ids, chosen / total


def largest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Largest of logits [n, V] and its index, each [n, 1]: in two levels, since a plain vectorised maximum is several
    times as fast as one that carries indices."""
    padded = F.pad(logits, (0, -logits.shape[1] % CHUNK), value=-torch.inf) if logits.shape[1] % CHUNK else logits
    chunks = padded.view(logits.shape[0], -1, CHUNK)
    top, chunk = chunks.amax(dim=-1).max(dim=-1, keepdim=True)
    inside = chunks.gather(1, chunk[:, :, None].expand(-1, 1, CHUNK))[:, 0].argmax(dim=-1, keepdim=True)
    return top, chunk * CHUNK + inside


def truncate(logits: Tensor, top_k: int, top_p: float, crossing: Crossing = "keep") -> Tensor:
    """Set everything outside the top k (0: all), then outside the nucleus of mass `top_p`, to -inf.

    Ties at rank k are kept. `crossing` is for the token that crosses `top_p` (see `nucleus`).
    """
    if 0 < top_k < logits.shape[1]:
        least = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p < 1:
        logits = logits.masked_fill(outside_nucleus(logits, top_p, crossing), -torch.inf)
    return logits
