"""What the models were trained on, per token: bounds on the negative log likelihood, in nats.

A certificate and a comparison of implementations need the loss of a token, not the average of a batch, so nothing here
reduces more than its name says.
"""

from __future__ import annotations

from torch import Tensor

from .graphs import Graph
from .noise import align


def token_nelbo(log_probs: Tensor, x0: Tensor, weight: Tensor) -> Tensor:
    """Each token's part of the continuous-time bound: -weight log p(x0). [B, L], 0 where a token was not masked.

    MDLM: weight = `nelbo_weight(t)` of its schedule, dsigma / expm1(sigma) (Sahoo et al. 2024, section 3.4).
    BD3LM: the same of `block_noise`, -loss_scaling, at a time per block (Arriola et al. 2025, section 3).

    log_probs: [B, L, V] of `subs_log_probs`; x0: [B, L] clean ids; weight: [], [B] or [B, L].
    """
    return -align(weight, x0) * log_probs.gather(-1, x0[..., None])[..., 0]


def score_entropy(graph: Graph, log_score: Tensor, tokens: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
    """How far the scores are from the true ones given x0, at least 0 and 0 only for equality. [B, L].

    Sum over y of rate(y -> x) (s_y - r_y log s_y + r_y (log r_y - 1)), with s the score, r the true one of the clean
    token: denoising score entropy (Lou et al. 2024, section 3).

    log_score: [B, L, N]; tokens: [B, L] noisy ids x; x0: [B, L] clean ids; sigma: [], [B] or [B, L], above 0.
    """
    rate, ratio = graph.transposed_rate(tokens, log_score.dtype), graph.true_score(tokens, x0, sigma)
    # xlogy, since r log r is 0 where a token cannot come from x0 at all.
    bregman = log_score.exp() - ratio * log_score + ratio.xlogy(ratio) - ratio
    return (rate * bregman).sum(dim=-1)


def sedd_loss(entropy: Tensor, dsigma: Tensor) -> Tensor:
    """Each sequence's bound: the sum over tokens of dsigma times `score_entropy` [B, L] (Lou et al. 2024,
    section 3, the likelihood bound).

    dsigma: [] or [B], the noise's time derivative. Returns [B].
    """
    return (align(dsigma, entropy) * entropy).sum(dim=-1)
