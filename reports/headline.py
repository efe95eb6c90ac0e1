"""The headline of report.html: at each shape, which side is fastest, by how much, and how sure that is.

A side counts as faster only where the whole interval lies on its side of 1. Bars share one logarithmic scale a pair.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..profiles.record import Value
from .format import format_interval, format_point, interval_words
from .study import Point, Shape, Study, steps_label, variant


@dataclass(frozen=True, slots=True)
class Bar:
    """One speed-up on a card: its numbers and, in per cent of the track, where its bar and interval lie."""

    label: str
    point: str
    interval: str
    faster: str
    left: float
    width: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Card:
    """One shape's headline: which side is fastest, and every T against AR; `zero` is where 1× lies on the track."""

    title: str
    fastest: str
    verdict: str
    bars: tuple[Bar, ...]
    meaning: str
    crossover: str
    zero: float = 50.0


@dataclass(frozen=True, slots=True)
class PairHeadline:
    """A pair's headline: the count of shapes that each side wins, and a card a shape."""

    pair: str
    sentence: str
    cards: tuple[Card, ...]


@dataclass(frozen=True, slots=True)
class Track:
    """The scale of a pair's bars: a logarithmic axis from `low` to `high`, speed-ups below and above 1."""

    low: float
    high: float

    def at(self, speedup: float) -> float:
        """Where a speed-up lies, in per cent of the track from its left."""
        span = math.log(self.high / self.low)
        return round(100 * min(max(math.log(speedup / self.low) / span, 0.0), 1.0), 2)

    @property
    def zero(self) -> float:
        return self.at(1.0)


def headline(study: Study, pair: str) -> PairHeadline:
    """Who is fastest at each shape of the pair, by how much, and how sure that is."""
    shapes = [shape for shape in study.shapes if shape[0] == pair]
    track = _track(study, shapes)
    cards = tuple(_card(study, shape, track) for shape in shapes)
    counts = {side: sum(card.fastest == side for card in cards) for side in ("diffusion", "ar", "unclear", "")}
    parts = [
        f"{words} in {counts[side]}"
        for side, words in (("diffusion", "diffusion is fastest"), ("ar", "AR is fastest"))
        if counts[side]
    ]
    if counts["unclear"]:
        parts.append(f"no clear difference in {counts['unclear']}")
    if counts[""]:
        parts.append(f"nothing to compare in {counts['']}")
    total = f"Of {len(cards)} shape{'' if len(cards) == 1 else 's'} (prompt, length, batch)"
    return PairHeadline(pair, f"{total}: {'; '.join(parts)}." if parts else "No cell of this pair has a result.", cards)


def _card(study: Study, shape: Shape, track: Track) -> Card:
    found = [(p, v) for p in study.diffusion(shape) if (v := p.value("speedup")) and v.value and v.value > 0]
    title = f"L = {shape[2]} · batch {shape[3]}" + (
        f" · prompt {shape[1]}" if len({s[1] for s in study.shapes if s[0] == shape[0]}) > 1 else ""
    )
    ar = study.ar(shape)
    crossing = ar.measurement.metrics.get("crossover_steps") if ar else None
    if not found:
        return Card(
            title, "", "Nothing to compare: one side has no result at this shape.", (), "", _crossover(crossing)
        )
    fastest, verdict = _verdict(found)
    values = [value for _, value in found]
    bars = tuple(_bar(p, v, track) for p, v in found)
    return Card(title, fastest, verdict, bars, _meaning(values), _crossover(crossing), track.zero)


def _verdict(found: list[tuple[Point, Value]]) -> tuple[str, str]:
    point, best = max(found, key=lambda entry: entry[1].value or 0.0)
    speedup = best.value or 0.0
    side = faster_side(best)
    if side == "diffusion":
        return (
            side,
            f"Diffusion with T = {point.steps}{variant(point)} is {format_point('speedup', best)} as fast as AR.",
        )
    if side == "ar":
        times = format_point("speedup", Value(value=1 / speedup))
        return side, f"AR is {times} as fast as the fastest diffusion, T = {point.steps}{variant(point)}."
    against = f"T = {point.steps}{variant(point)}, is at {format_point('speedup', best)} of AR"
    return side, f"No clear difference: the fastest diffusion, {against}."


def faster_side(speedup: Value) -> str:
    """`diffusion` or `ar` where the whole interval lies on one side of 1, else `unclear`."""
    low, high = speedup.low, speedup.high
    if speedup.value is None or low is None or high is None:
        return "unclear"
    return "diffusion" if low > 1 else "ar" if high < 1 else "unclear"


def _meaning(values: Iterable[Value]) -> str:
    chosen = list(values)
    words = sorted({interval_words(value) for value in chosen})
    return f"Brackets: {' or '.join(words)}."


def _crossover(value: Value | None) -> str:
    if value is None:
        return ""
    if value.value is None:
        return f"No crossover T*: {value.why or 'no reason recorded'}."
    point, interval = format_point("crossover_steps", value), format_interval("crossover_steps", value)
    return f"Both sides take the same time at T* = {point} {interval}".rstrip() + "."


def _track(study: Study, shapes: Iterable[Shape]) -> Track:
    """One scale for all cards of a pair: from its slowest to its fastest interval end, at least from 0.8 to 1.25."""
    values = (p.value("speedup") for shape in shapes for p in study.diffusion(shape))
    ends = [x for v in values if v for x in (v.value, v.low, v.high) if x is not None and x > 0 and math.isfinite(x)]
    return Track(min([0.8, *ends]) / 1.05, max([1.25, *ends]) * 1.05)


def _bar(point: Point, value: Value, track: Track) -> Bar:
    speedup = value.value or 1.0
    low, high = (x if x is not None and x > 0 else speedup for x in (value.low, value.high))
    centre = track.at(speedup)
    return Bar(
        label=steps_label(point),
        point=format_point("speedup", value),
        interval=format_interval("speedup", value),
        faster=faster_side(value),
        left=min(track.zero, centre),
        width=round(abs(centre - track.zero), 2),
        low=track.at(low),
        high=track.at(high),
    )
