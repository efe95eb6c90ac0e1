"""The gate's statistic: a trimmed mean of log-ratios, its error, and Student's t for both.

A disturbed process or an unlucky memory layout gives a pair a ratio that is off by 5 to 20 %. One such pair widens the
interval of a plain mean so much that a real slowdown stays unproven; ranks do not widen, but every outlier on the wrong
side takes a high rank. The trimmed mean drops the lowest and the highest fifth (of 6 values one at each end, of 18
three) and takes its error from the Winsorised variance, in which the values dropped count as their nearest neighbours
(Tukey and McLaughlin 1963); two samples that are not paired are compared as Yuen 1974 does.

For h values kept, that literature takes h - 1 degrees of freedom. Of normal values it finds 1.2 to 1.7 times too many
at the p-values between 0.002 and 0.0001 that a whole gate's 1 % asks of one cell. With h - 2 it is at most 1.2 times up
to 18 values, at 6 to 9 fewer than promised, and fewer too where tails are heavy (tests/bench/gate/test_trimmed).

What is assumed: pairs are independent, and the two sides of a pair differ by a shift and by noise that might as well
have fallen on the other side, so that log-ratios lie symmetrically about the shift. What is not seen: a head that is
slow in less than one of five of its processes. The question is about the typical process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit  # scipy.stats takes a second to import

TRIM = 0.2

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Trimmed:
    """Trimmed means [...], their standard errors [...] and the degrees of freedom that they share."""

    estimate: Floats
    error: Floats
    freedom: float

    def shifted(self, by: Floats | float) -> Trimmed:
        """The same values with a constant added to each: a shift moves the estimate and leaves the error."""
        return Trimmed(self.estimate + by, self.error, self.freedom)

    def p_above(self, bound: float) -> Floats:
        """One-sided p-values [...] of "the centre is at most `bound`"; NaN where the error is 0 at the bound itself."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(stdtr(self.freedom, (bound - self.estimate) / self.error))

    def upper(self, level: float) -> Floats:
        """One-sided upper bounds [...] of the centre."""
        return self.estimate + float(stdtrit(self.freedom, level)) * self.error

    def interval(self, level: float) -> tuple[Floats, Floats]:
        """Two-sided intervals of the centre, as (low [...], high [...])."""
        half = float(stdtrit(self.freedom, 0.5 + level / 2)) * self.error
        return self.estimate - half, self.estimate + half


def trimmed(values: Floats, trim: float = TRIM) -> Trimmed:
    """The trimmed mean of values [..., n] over their last axis, n at least 6; `trim` is the share dropped at each end.

    Standard error: sqrt((n - 1) s² / (h (h - 1))), s² the Winsorised variance, h the number of values kept. With no
    value dropped it is the ordinary s / sqrt(n) with n - 1 degrees of freedom.
    """
    n = values.shape[-1]
    cut = math.floor(trim * n)
    kept = n - 2 * cut
    ordered = np.sort(values, axis=-1)
    middle = ordered[..., cut : n - cut]
    pulled_in = np.clip(ordered, middle[..., :1], middle[..., -1:])
    variance = pulled_in.var(axis=-1, ddof=1)
    error = np.sqrt((n - 1) * variance / (kept * (kept - 1)))
    return Trimmed(middle.mean(axis=-1), error, kept - 2 if cut else n - 1)


def difference(base: Floats, head: Floats) -> Trimmed:
    """Trimmed mean of head [m] minus that of base [n], not paired: errors add in squares, freedom as by Welch 1938."""
    sides = trimmed(base), trimmed(head)
    parts = [float(side.error) ** 2 for side in sides]
    spread = sum(part**2 / side.freedom for part, side in zip(parts, sides, strict=True))
    freedom = sum(parts) ** 2 / spread if spread > 0 else min(side.freedom for side in sides)
    return Trimmed(sides[1].estimate - sides[0].estimate, np.sqrt(np.asarray(sum(parts))), freedom)
