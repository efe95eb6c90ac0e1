"""Many questions, one promise: Holm over the questions of a look, and alpha spent over the looks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .trimmed import Floats

POWER = 2.0


def holm(p: Floats) -> Floats:
    """p-values [..., m] adjusted for m questions (Holm 1979), whatever their dependence.

    The i-th smallest is multiplied by m - i + 1, and never falls below one before it.
    """
    count = p.shape[-1]
    order = np.argsort(p, axis=-1, kind="stable")
    scaled = np.take_along_axis(p, order, axis=-1) * np.arange(count, 0, -1)
    raised = np.minimum(np.maximum.accumulate(scaled, axis=-1), 1.0)
    adjusted = np.empty_like(raised)
    np.put_along_axis(adjusted, order, raised, axis=-1)
    return adjusted


def spent(alpha: float, looks: Sequence[int], look: int) -> float:
    """What may be spent of `alpha` at look `look` (counted from 0) of those planned after `looks` pairs.

    By look k, alpha (n_k / n_last)² is spent (the power family of Kim and DeMets 1987), and this look may use what that
    adds. The shares of all looks sum to alpha, so by Bonferroni's inequality the chance of a false alarm at any of
    them is at most alpha, with no assumption about how the looks depend on each other: what a joint distribution would
    give back is small, and for trimmed means of six values it is not known.
    """

    def by(number: int) -> float:
        return float((number / looks[-1]) ** POWER)

    return alpha * (by(looks[look]) - (by(looks[look - 1]) if look else 0.0))
