"""The acceptance rule of speculative decoding: which drafted tokens stay, and what is drawn after them.

Leviathan et al. 2023, "Fast inference from transformers via speculative decoding", section 2.3 and appendix A.1; Chen
et al. 2023, "Accelerating large language model decoding with speculative sampling", Algorithm 2. A draft x_i drawn from
q_i(. | x_<i) is kept with probability min(1, p_i(x_i) / q_i(x_i)), p_i the target's distribution after the same x_<i;
after the first refusal comes one draw from the residual, (p_i - q_i)+ normalised; after k acceptances one from p_{k+1}.
Whatever q is, a token v then comes with probability

    min(q(v), p(v)) + (1 - sum_w min(q(w), p(w))) (p(v) - q(v))+ / sum_w (p(w) - q(w))+  =  p(v).

p and q are float32; their rounding (1e-7) is the rule's whole error. The draws are on float64 uniforms.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .generator import Settings
from .sampling import truncate


def distribution(logits: Tensor, settings: Settings) -> Tensor:
    """Probabilities [n, V] float32 after temperature (> 0), top-k and top-p, of logits [n, V] of any float dtype.

    What `sampling.choose` draws from: truncated here for the target, the rule yields the target's truncated law.
    """
    logits = logits.float()
    scaled = (logits - logits.amax(dim=-1, keepdim=True)).div_(settings.temperature)
    if settings.top_k or settings.top_p < 1:
        scaled = truncate(scaled, settings.top_k, settings.top_p)
    return scaled.softmax(dim=-1)


def accepted_drafts(target: Tensor, proposal: Tensor, draft: Tensor, uniforms: Tensor) -> Tensor:
    """How many drafted tokens of each row stay, [B] of 0 … k: those before the first refusal.

    `target` [B, k, V] and `proposal` [B, k, V] are p and q at the drafted positions, `draft` [B, k] ids drawn from the
    latter, `uniforms` [B, k] float64 in [0, 1).
    """
    ids = draft[:, :, None]
    p, q = target.gather(2, ids)[:, :, 0].double(), proposal.gather(2, ids)[:, :, 0].double()
    # A product instead of a quotient: q(x) > 0 for a drawn x, but may be as small as floats are.
    return _leading(uniforms * q < p)


def agreeing_drafts(best: Tensor, draft: Tensor) -> Tensor:
    """The rule at temperature 0, [B]: drafts `draft` [B, k] stay while they are the target's argmax `best` [B, k]."""
    return _leading(best == draft)


def residual(target: Tensor, proposal: Tensor, accepted: Tensor) -> Tensor:
    """Weights [B, V] float32, not normalised, of the token that follows `accepted` [B] drafts.

    `target` [B, k + 1, V], `proposal` [B, k, V]: (p - q)+ at the refused position, p itself after k acceptances.
    """
    count = proposal.shape[1]
    rows = torch.arange(accepted.shape[0], device=accepted.device)
    p = target[rows, accepted]
    q = proposal[rows, accepted.clamp(max=count - 1)]
    weights = (p - q * (accepted < count)[:, None]).clamp_(min=0)
    # Where p and q differ by rounding alone, nothing need be left of p - q, though a uniform just below 1 refused.
    return torch.where(weights.sum(dim=1, keepdim=True) > 0, weights, p)


def _leading(kept: Tensor) -> Tensor:
    """Number of leading True of each row of `kept` [B, k], [B] int64."""
    return kept.long().cumprod(dim=1).sum(dim=1)
