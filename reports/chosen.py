"""The few cells that stand for a run in a figure of its hardware: every cell would crowd it.

Of each pair one length, at its smallest and largest batch; there AR and diffusion at its most and fewest steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..profiles.hardware import Hardware
from .format import metric_header
from .plain import plain
from .study import Point, Shape, Study, spread, steps_label


@dataclass(frozen=True, slots=True)
class Chosen:
    """A shape and its representative points, AR first, then most steps to fewest."""

    shape: Shape
    points: tuple[Point, ...]

    @property
    def where(self) -> str:
        return f"L = {self.shape[2]}, batch {self.shape[3]}"


def chosen(study: Study, has: Callable[[Point], bool]) -> list[Chosen]:
    """The representatives among the points for which `has` is true; a shape with both sides goes before one without."""
    found: list[Chosen] = []
    for pair in study.pairs:
        usable = {shape: points for shape in study.of_pair(pair) if (points := _ends(study, shape, has))}
        both = {s: points for s, points in usable.items() if len({p.side for p in points}) == 2} or usable
        if not both:
            continue
        lengths = {shape[2] for shape in both}
        length = max(lengths, key=lambda x: (min(2, sum(s[2] == x for s in both)), x))
        batches = spread([s[3] for s in both if s[2] == length], 2)
        found += [Chosen(s, points) for s, points in both.items() if s[2] == length and s[3] in batches]
    return found


def _ends(study: Study, shape: Shape, has: Callable[[Point], bool]) -> tuple[Point, ...]:
    """AR, and diffusion at its most and its fewest steps."""
    points = [point for point in study.points(shape) if has(point)]
    diffusion = [point for point in points if point.side != "ar"]
    return tuple(p for p in points if p.side == "ar") + tuple(diffusion[:1]) + tuple(diffusion[1:][-1:])


def hardware_of(study: Study, point: Point) -> Hardware | None:
    """What the hardware did in this cell; None where no process recorded it."""
    return next((t.hardware for t in study.trials(point) if t.hardware is not None), None)


def named_point(point: Point) -> str:
    """`AR` or `diffusion at T = 8`, for a sentence."""
    return "AR" if point.side == "ar" else f"diffusion at {steps_label(point).partition(' = L')[0]}"


def reasons(points: Iterable[Point], metrics: Sequence[str]) -> str:
    """Why metrics are missing, each reason once, with the metrics that lack it: "SM active: no GPM; power: …"."""
    lacking: dict[str, dict[str, None]] = {}
    for point in points:
        for metric in metrics:
            if point.value(metric) is None:
                value = point.measurement.metrics.get(metric)
                why = plain(value.why or "") if value is not None else ""
                lacking.setdefault(why.rstrip(".") or "not recorded", {})[metric_header(metric)] = None
    return "; ".join(f"{', '.join(names)}: {why}" for why, names in lacking.items())


def absent(study: Study, part: str, otherwise: str) -> str:
    """Why no cell has a part of its hardware record (`telemetry`, `kernels`, ...): the reasons recorded, each once."""
    told = (t.hardware.missing.get(part, "") for t in study.stored.trials if t.hardware is not None)
    found = list(dict.fromkeys(plain(why).rstrip(".") for why in told if why))
    return f"{'; '.join(found[:3])}." if found else otherwise
