"""Which candidates a step commits: rules from scores to choices.

Every rule takes scores [B, n], higher first, -inf where a column is no candidate, and returns bool [B, n]: what is
committed. Rows are independent; a row without candidates commits nothing. What the score is (probability of the
predicted token, margin, negative entropy, a random number) is the sampler's business. Ties go to the leftmost column,
so that equal scores mean left to right. No rule waits for the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

# For all rows, or a number [B] for each.
Count = int | Tensor


def top_k(scores: Tensor, count: Count) -> Tensor:
    """The `count` best candidates, or all of them where there are fewer.

    LLaDA (Nie et al. 2025, Algorithm 5), MaskGIT (Chang et al. 2022), SDAR's static rule.
    """
    return _best(scores, count) & candidates(scores)


def above_threshold(
    scores: Tensor, threshold: float, *, least: Count = 1, most: Count | None = None, strict: bool = False
) -> Tensor:
    """Candidates that reach `threshold`, and the `least` best whatever they score; never more than the `most` best.

    Fast-dLLM (Wu et al. 2025, parallel decoding by a threshold): least 1. SDAR's dynamic rule: all above it if at least
    k are, else the k best, which is least k, `strict`. Dream with a threshold has a budget, `most`.
    """
    reached = scores > threshold if strict else scores >= threshold
    chosen = reached | _best(scores, least)
    if most is not None:
        chosen &= _best(scores, most)
    return chosen & candidates(scores)


def within_factor(confidence: Tensor, factor: float) -> Tensor:
    """The r best candidates for the largest r whose r-th probability is at least 1 - factor / (r + 1); at least one.

    Fast-dLLM (Wu et al. 2025, parallel decoding by a factor): where (r + 1)(1 - c_r) is small, the separate modes of r
    tokens are also their joint mode. Scores must be probabilities.
    """
    ordered, order = confidence.sort(dim=1, descending=True, stable=True)
    rank = torch.arange(1, ordered.shape[1] + 1, device=ordered.device)
    passed = ordered >= 1 - factor / (rank + 1)
    # Confidences fall and thresholds rise with the rank: once one fails, so do all after it.
    passed[:, :1] = True
    return torch.zeros_like(passed).scatter_(1, order, passed) & candidates(confidence)


def within_entropy(negative_entropy: Tensor, bound: float) -> Tensor:
    """The k best candidates for the largest k whose entropies H add up, the k-th's left out, to at most `bound` nats.

    Entropy-bounded unmasking (Ben-Hamu et al. 2025): sum H - max H bounds the mutual information that committing them
    together ignores. The first has nothing before it and is always taken.
    """
    ordered, order = negative_entropy.sort(dim=1, descending=True, stable=True)
    entropy = -ordered
    # Columns that are no candidates come last: inf - inf, which is within no bound.
    leading = entropy.cumsum(dim=1) - entropy <= bound
    return torch.zeros_like(leading).scatter_(1, order, leading) & candidates(negative_entropy)


def candidates(scores: Tensor) -> Tensor:
    """Which columns [B, n] are candidates at all."""
    return scores > -torch.inf


def _best(scores: Tensor, count: Count) -> Tensor:
    """The `count` leading columns in the order of the scores, candidates or not."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    if isinstance(count, Tensor):
        leading = torch.arange(scores.shape[1], device=scores.device) < count[:, None]
        return torch.zeros_like(leading).scatter_(1, order, leading)
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    return chosen.scatter_(1, order[:, :count], True)
