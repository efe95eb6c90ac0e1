"""The noise of a machine, part by part, and pairs made of it; or pairs drawn again from those that were measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.random import Generator

from .trimmed import Floats


@dataclass(frozen=True, slots=True)
class Noise:
    """Relative standard deviations (0.01: 1 %) of everything that moves a latency.

    `session_sd` moves both sides of a pair alike; the share `session_unshared` of it does not cancel in their ratio.
    `process_sd` is drawn by each fresh process for its lifetime, of its variance `process_common` for all its cells
    alike. A process takes `samples` samples of `sample_sd` a cell, each correlated with the one before by
    `autocorrelation`, and reports their median. A share `outlier_rate` of processes runs slower in all its cells, by
    `outlier_low` to `outlier_high`, on both sides alike or at head only.
    """

    session_sd: float = 0.01
    session_unshared: float = 0.2
    process_sd: float = 0.005
    process_common: float = 0.5
    samples: int = 20
    sample_sd: float = 0.01
    autocorrelation: float = 0.5
    outlier_rate: float = 0.03
    outlier_low: float = 0.05
    outlier_high: float = 0.20
    outlier_sides: Literal["both", "head"] = "both"

    @property
    def median_sd(self) -> float:
        """Of a process's median around its own truth: asymptotically sample_sd / m · sqrt(Σ asin(r^|i-j|)) over the m²
        pairs of samples, as indicators of a normal pair with correlation r covary by asin(r) / 2π."""
        lags = np.abs(np.subtract.outer(np.arange(self.samples), np.arange(self.samples)))
        return self.sample_sd / self.samples * math.sqrt(float(np.arcsin(self.autocorrelation**lags).sum()))

    @property
    def pair_sd(self) -> float:
        """Of one pair's log-ratio, outliers apart."""
        return math.hypot(
            self.session_unshared * self.session_sd, math.sqrt(2) * self.process_sd, math.sqrt(2) * self.median_sd
        )

    def at_pair_sd(self, wanted: float) -> Noise:
        """The same noise with processes that differ so much that `pair_sd` is `wanted`."""
        rest = replace(self, process_sd=0.0).pair_sd
        if wanted <= rest:
            raise ValueError(f"without any process effect the pair's sd is already {rest}")
        return replace(self, process_sd=math.sqrt((wanted**2 - rest**2) / 2))

    def log_ratios(self, gates: int, pairs: int, cells: int, random: Generator) -> Floats:
        """Log-ratios [G, P, C] of head over base where both sides are the same program."""
        ratios = np.zeros((gates, pairs, cells))
        ratios += self.session_unshared * self.session_sd * random.standard_normal((gates, pairs, 1))
        for sign in (1.0, -1.0):
            common, own = math.sqrt(self.process_common), math.sqrt(1 - self.process_common)
            process = common * random.standard_normal((gates, pairs, 1)) + own * random.standard_normal(ratios.shape)
            ratios += sign * (self.process_sd * process + self._medians(gates, pairs, cells, random))
            hit = random.random((gates, pairs, 1)) < self.outlier_rate
            slower = np.log1p(random.uniform(self.outlier_low, self.outlier_high, (gates, pairs, 1)))
            if sign > 0 or self.outlier_sides == "both":
                ratios += sign * np.where(hit, slower, 0.0)
        return ratios

    def _medians(self, gates: int, pairs: int, cells: int, random: Generator) -> Floats:
        """Medians [G, P, C] of correlated samples, x_i = r x_(i-1) + sqrt(1 - r²) e_i, started where it stays."""
        r = self.autocorrelation
        series = random.standard_normal((self.samples, gates, pairs, cells), dtype=np.float32)
        for before, after in pairwise(series):
            after *= math.sqrt(1 - r * r)
            after += r * before
        return np.asarray(self.sample_sd * np.median(series, axis=0), dtype=float)


def drawn_again(log_ratios: Floats, gates: int, pairs: int, random: Generator, *, swap: bool = True) -> Floats:
    """Log-ratios [G, P, C] drawn with replacement from recorded ones [pairs, cells], all cells of a pair together.

    `swap` lets every pair drawn have its sides exchanged by a coin: right for an A/A comparison, whose sides are the
    same program, and it takes away whatever chance made one side of the record the faster.
    """
    rows = log_ratios[random.integers(0, len(log_ratios), (gates, pairs))]
    return rows * random.choice((1.0, -1.0), (gates, pairs, 1)) if swap else rows
