"""What a denoiser's raw output means: log-probabilities of clean tokens, or log-scores.

    SUBS    log p(x0 | x), the mask excluded and given tokens copied   (Sahoo et al. 2024, MDLM, section 3.2.3)
    D3PM    log p(x0 | x), a plain softmax                             (Austin et al. 2021; MDLM's baseline)
    SEDD    log of the ratios p_t(y) / p_t(x) of every y to x          (Lou et al. 2024, SEDD, section 3.1)

BD3LM uses SUBS too (Arriola et al. 2025, section 3). All of it is computed in the dtype of the logits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .noise import align

# Stands for log 0. Finite, so that a product with a zero weight is 0 and not NaN; low enough for exp to be 0.
IMPOSSIBLE = -1e6


def subs_log_probs(logits: Tensor, tokens: Tensor, mask_id: int) -> Tensor:
    """Log-probabilities of the clean token at each position (Sahoo et al. 2024, section 3.2.3).

    *Zero masking*: the mask is never a clean token, so its logit is lowered by a million before normalising.
    *Carry-over unmasking*: a token that is not the mask is its own clean token; there all is -1e6 but a 0 for it.
    Entries near -1e6 stand for probability 0; their exact values (the reference's are about -1e6 - logsumexp) carry
    no meaning beyond float32's spacing of 0.06 there.

    logits: [B, L, V]; tokens: [B, L] noisy ids. Returns [B, L, V].
    """
    lowered = logits.clone()
    lowered[..., mask_id] += IMPOSSIBLE
    masked = (tokens == mask_id)[..., None]
    return torch.where(masked, lowered.log_softmax(dim=-1), _point_mass(logits, tokens))


def d3pm_log_probs(logits: Tensor) -> Tensor:
    """Log-probabilities of the clean token with nothing excluded: the mask may be predicted. [B, L, V] to the same."""
    return logits.log_softmax(dim=-1)


def subs_score(log_probs: Tensor, tokens: Tensor, sigma: Tensor, mask_id: int) -> Tensor:
    """The score p_t(y) / p_t(x) that SUBS probabilities imply, for samplers that go by scores.

    Of a token x0 seen through absorbing noise, e^-sigma remains itself and 1 - e^-sigma is the mask; their ratio is
    1 / expm1(sigma). So at a masked position the score of y is p(x0 = y) / expm1(sigma), and at an unmasked one that
    of the mask is expm1(sigma). No move (y = x) has score 1; what cannot be reached has 0. (The forward process is
    that of Sahoo et al. 2024, section 3.2.1; scores are those of Lou et al. 2024, section 3.)

    log_probs: [B, L, V] of `subs_log_probs`; tokens: [B, L]; sigma: [B] or [B, L], above 0. Returns [B, L, V].
    """
    log_ratio = -align(torch.expm1(sigma).log(), log_probs)
    # Exactly 0 for the mask itself: its log-probability is only a stand-in for log 0.
    at_masked = log_probs + log_ratio
    at_masked[..., mask_id] = 0
    at_unmasked = _point_mass(log_probs, tokens)
    at_unmasked[..., mask_id] = -log_ratio[..., 0]
    masked = (tokens == mask_id)[..., None]
    return torch.where(masked, at_masked, at_unmasked).exp()


def sedd_log_score(output: Tensor, tokens: Tensor, sigma: Tensor, *, scale_by_sigma: bool) -> Tensor:
    """The log-score of SEDD's network, 0 for each position's own token (Lou et al. 2024, section 3).

    With `scale_by_sigma` the network need not learn how large scores of the absorbing graph are: a masked position's
    average 1 / (expm1(sigma) (V - 1)), which is taken off the output. There sigma must be above 0: a network without
    time conditioning (sigma = 0) has no scale.

    output: [B, L, V]; tokens: [B, L]; sigma: [B] or [B, L]. Returns [B, L, V].
    """
    if scale_by_sigma:
        scale = _expm1(sigma).log() + math.log(output.shape[-1] - 1)
        output = output - align(scale, output)
    return output.scatter(-1, tokens[..., None], 0.0)


def _expm1(sigma: Tensor) -> Tensor:
    """e^sigma - 1, directly where sigma >= 0.5 as SEDD has it: nothing cancels there."""
    return torch.where(sigma < 0.5, torch.expm1(sigma), sigma.exp() - 1)


def _point_mass(like: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities [B, L, V] that are 0 for `tokens` [B, L] and -1e6 elsewhere."""
    return torch.full_like(like, IMPOSSIBLE).scatter_(-1, tokens[..., None], 0.0)
