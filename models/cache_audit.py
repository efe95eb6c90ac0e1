"""What an approximate cache costs: its forwards beside exact ones on the same canvas.

Fast-dLLM's prefix and dual caches, and Dream's, attend to keys and values that earlier forwards left behind, though
with bidirectional attention every position's change when any token does. How far that moves the logits is a number that
no published sampler reports. A generator that is given a `CacheAudit` calls it at every cached forward; this is done in
a generation of its own, never in a timed one, and nothing of it is announced to an observer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .network import Network

# (canvas [B, S], columns [B, n]) -> the logits [B n, V] that a full forward predicts these columns with
Exact = Callable[[Tensor, Tensor], Tensor]


def exact_logits(network: Network) -> Exact:
    """Full bidirectional forwards of `network`, each column predicted by its own row, or by the one before (Dream)."""
    shifted = getattr(network.config, "shifted_logits", False)

    def exact(canvas: Tensor, columns: Tensor) -> Tensor:
        hidden = network.trunk(canvas, mask="bidirectional", condition=network.conditioning(None))
        places = (columns - 1).clamp(min=0) if shifted else columns
        size = hidden.shape[-1]
        return network.logits(hidden.gather(1, places[:, :, None].expand(-1, -1, size)).view(-1, size))

    return exact


class CacheAudit:
    """Compares approximate logits with exact ones, over all candidates of all cached forwards of one generation.

    `suppress` is an id that the sampler never predicts: it is no argmax here either.
    """

    def __init__(self, exact: Exact, suppress: int | None = None) -> None:
        self.exact = exact
        self.suppress = suppress
        self._distances: list[Tensor] = []
        self._changes: list[Tensor] = []

    def __call__(self, canvas: Tensor, columns: Tensor, logits: Tensor, candidates: Tensor | None = None) -> None:
        """Note a cached forward, before anything of it is committed.

        `logits` [B n, V] are what it predicts `columns` [B, n] of the `canvas` [B, S] with; of these only `candidates`
        [B, n] bool count (None: all).
        """
        exact, ours = self.exact(canvas, columns).double(), logits.double()
        distance = (ours - exact).square().mean(dim=-1).sqrt() / exact.std(dim=-1, correction=0)
        changed = self._argmax(ours) != self._argmax(exact)
        if candidates is not None:
            distance, changed = distance[candidates.flatten()], changed[candidates.flatten()]
        self._distances.append(distance)
        self._changes.append(changed)

    def figures(self, tokens: Tensor, exact_tokens: Tensor) -> dict[str, float]:
        """The audit of a generation that ended in `tokens` [B, L], and without a cache would have in `exact_tokens`.

        - `cache_logit_distance`: mean over candidates of RMS(logits - exact logits) / standard deviation(exact logits).
        - `cache_argmax_changed`: share of candidates whose most probable token differs.
        - `cache_tokens_changed`: share of the final tokens that differ.

        The first two are left out where no cached forward had a candidate: there was nothing to compare.
        """
        figures = {"cache_tokens_changed": float((tokens != exact_tokens).double().mean())}
        if sum(distances.numel() for distances in self._distances):
            figures["cache_logit_distance"] = float(torch.cat(self._distances).mean())
            figures["cache_argmax_changed"] = float(torch.cat(self._changes).double().mean())
        return figures

    def _argmax(self, logits: Tensor) -> Tensor:
        if self.suppress is not None:
            logits = logits.index_fill(1, torch.tensor([self.suppress], device=logits.device), -torch.inf)
        return logits.argmax(dim=-1)
