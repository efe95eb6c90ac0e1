"""The Pareto front of throughput and quality: which settings no other setting beats at both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..record import Side, Value


@dataclass(frozen=True, slots=True)
class Point:
    """One measured setting: throughput in tok/s and its quality, both measured on these very settings."""

    name: str
    side: Side
    throughput: Value
    quality: Value


@dataclass(frozen=True, slots=True)
class Placed:
    """A point and who beats it. `why`: why it has no place (a value is missing); it is then not on the front."""

    point: Point
    dominated_by: tuple[str, ...]
    why: str | None = None

    @property
    def on_front(self) -> bool:
        return not self.dominated_by and self.why is None


def pareto_front(points: Sequence[Point], *, higher_is_better: bool) -> tuple[Placed, ...]:
    """Every point in the order given, AR ones among them, with the names of those that dominate it.

    One dominates another if it is at least as good at both and better at one, by the values; where intervals overlap
    the order may be chance, which is for the reader to see. Equal points do not dominate each other.
    """
    placed = []
    scored = [(point, _score(point, higher_is_better)) for point in points]
    for point, mine in scored:
        if mine is None:
            missing = next(v for v in (point.throughput, point.quality) if v.value is None)
            placed.append(Placed(point, (), missing.why or "not measured"))
            continue
        beaten = tuple(
            other.name
            for other, theirs in scored
            if theirs is not None and theirs != mine and theirs[0] >= mine[0] and theirs[1] >= mine[1]
        )
        placed.append(Placed(point, beaten))
    return tuple(placed)


def _score(point: Point, higher_is_better: bool) -> tuple[float, float] | None:
    if point.throughput.value is None or point.quality.value is None:
        return None
    return point.throughput.value, point.quality.value if higher_is_better else -point.quality.value
