"""Latencies of long generations that were not measured: a straight line through three or more small T.

A denoising step at a fixed shape costs the same whatever T is, so latency = a + b T. What the line predicts is shown
apart from what was measured, with how far the measured points lie from it, and joins no comparison.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from ..profiles.record import Cell, Measurement
from ..profiles.store import StoredRun
from .format import format_number
from .plain import plain

HEADERS = ("cell", "fitted on T", "T = L", "latency", "throughput", "a step", "misfit")
NOTE = (
    "Extrapolated, not measured: latency = a + b T through the T shown, at T = L. Misfit: the largest distance "
    "of a measured latency from the line, relative."
)
_FEWEST = 3


@dataclass(frozen=True, slots=True)
class Extrapolation:
    """A line through cells that differ in T alone, and what it says for T = L. Times in seconds."""

    cell: Cell
    steps: tuple[int, ...]
    intercept_s: float
    step_s: float
    misfit: float

    @property
    def latency_s(self) -> float:
        return self.intercept_s + self.step_s * self.cell.length

    @property
    def row(self) -> tuple[str, ...]:
        """One row under HEADERS."""
        cell, tokens = self.cell, self.cell.batch * self.cell.length
        return (
            plain(cell.model_copy(update={"steps": None}).key),
            ", ".join(map(str, self.steps)),
            str(cell.length),
            format_number(self.latency_s, "s"),
            format_number(tokens / self.latency_s, "tok/s"),
            format_number(self.step_s, "s"),
            f"{self.misfit:.1%}",
        )


def extrapolations(stored: StoredRun) -> tuple[Extrapolation, ...]:
    """One a line of at least three T, none of them L; only of runs whose suite asks for it (`extrapolate`)."""
    if not stored.run.settings.get("extrapolate"):
        return ()
    lines: dict[str, list[Measurement]] = defaultdict(list)
    for m in stored.measurements:
        if m.status == "ok" and m.cell.side == "diffusion" and m.cell.steps is not None:
            lines[m.cell.model_copy(update={"steps": None}).key].append(m)
    found = [_fitted(sorted(line, key=lambda m: m.cell.steps or 0)) for line in lines.values()]
    return tuple(one for one in found if one is not None)


def _fitted(line: list[Measurement]) -> Extrapolation | None:
    points = [(m.cell.steps, m.metrics["latency_s"].value) for m in line]
    known = [(steps, latency) for steps, latency in points if steps and latency]
    if len({steps for steps, _ in known}) < _FEWEST or line[0].cell.length in (steps for steps, _ in known):
        return None
    x, y = np.array(known, dtype=float).T
    slope, intercept = (float(value) for value in np.polyfit(x, y, 1))
    if slope <= 0:
        return None
    misfit = float(np.max(np.abs(y - (intercept + slope * x)) / y))
    return Extrapolation(line[0].cell, tuple(steps for steps, _ in known), intercept, slope, misfit)
