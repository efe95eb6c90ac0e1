"""A run as figures and sentences ask for it: what was measured at a shape, by the fastest variant of each side.

A cell may be measured on several engines, dtypes or attention kernels. The headline compares each side's *fastest*, so
for one (shape, side, T) `Study` keeps the measured cell with the lowest latency; the tables show all of them. Where the
tokens were also chosen in several ways (temperature, remasking), which changes the text more than the speed, the first
way of the run stands for its shape, so that one line is one way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from ..models.names import BD3LM, BLOCK_DIFFUSION, SDAR
from ..profiles.record import Cell, Measurement, Trial, Value
from ..profiles.store import StoredRun
from .format import format_number, interval_sentence
from .plain import plain

SIDES = ("ar", "diffusion")
SAME_WEIGHTS = ("hf", "hf-static")
Shape = tuple[str, int, int, int]  # (pair, prompt length, length, batch), as Cell.shape
BLOCK_SYSTEMS = (BLOCK_DIFFUSION, SDAR, BD3LM)


@dataclass(frozen=True, slots=True)
class Point:
    """One measured cell, as a figure plots it; `own` says that its generator is the pair's, not one measured beside."""

    measurement: Measurement
    own: bool = True

    @property
    def length(self) -> int:
        return self.measurement.cell.length

    @property
    def batch(self) -> int:
        return self.measurement.cell.batch

    @property
    def steps(self) -> int:
        """T; for a rule that has none its forwards; 0 for AR."""
        cell = self.measurement.cell
        if cell.side == "ar" or cell.steps is not None:
            return cell.steps or 0
        forwards = self.measurement.metrics.get("nfe")
        return max(1, round(forwards.value)) if forwards is not None and forwards.value else cell.length

    @property
    def block(self) -> int:
        """The block length; 0 where the cell has none of its own: AR, a whole canvas, a network's own."""
        return self.measurement.cell.block_length or 0

    @property
    def side(self) -> str:
        return self.measurement.cell.side

    def value(self, metric: str) -> Value | None:
        """The metric if it was measured, None if it is absent or null."""
        value = self.measurement.metrics.get(metric)
        return None if value is None or value.value is None else value

    def number(self, metric: str) -> float:
        """The metric's value; nan where there is none (matplotlib leaves a gap)."""
        value = self.value(metric)
        return float("nan") if value is None or value.value is None else value.value


Way = tuple[float, int, float, str]


def way(cell: Cell) -> Way:
    """How a cell chooses its tokens: temperature, top-k, top-p, remasking."""
    decode = cell.decode
    return decode.temperature, decode.top_k, decode.top_p, decode.remasking


class Study:
    """A stored run, indexed by pair, shape and T."""

    def __init__(self, stored: StoredRun) -> None:
        self.stored = stored
        self._best: dict[tuple[Shape, int], Point] = {}
        own = {(p.name, side): getattr(p, side).get("generator") for p in stored.run.pairs for side in SIDES}
        self._own = own
        ways: dict[tuple[Shape, str], Way] = {}
        for measurement in stored.measurements:
            cell = measurement.cell
            pairs_own = own.get((cell.pair, cell.side), cell.generator)
            point = Point(measurement, cell.generator == pairs_own)
            # transformers on the pair's own weights may stand for its AR side; another checkpoint or model may not.
            if cell.side == "ar" and not point.own and cell.generator not in SAME_WEIGHTS:
                continue
            latency = point.value("latency_s")
            if measurement.status != "ok" or latency is None:
                continue
            place = (cell.shape, point.steps)
            first = ways.setdefault((cell.shape, cell.side), way(cell))
            best = self._best.get(place)
            rank = (way(cell) != first, point.number("latency_s"))
            if best is None or rank < (way(best.measurement.cell) != first, best.number("latency_s")):
                self._best[place] = point

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """The shapes with at least one measured cell, by pair (in the run's order), prompt, L and batch."""
        order = {pair.name: index for index, pair in enumerate(self.stored.run.pairs)}
        shapes = {shape for shape, _ in self._best}
        return tuple(sorted(shapes, key=lambda s: (order.get(s[0], len(order)), s)))

    @cached_property
    def pairs(self) -> tuple[str, ...]:
        return tuple(pair for pair, _ in groupby(self.shapes, key=lambda shape: shape[0]))

    def of_pair(self, pair: str) -> tuple[Shape, ...]:
        """The pair's shapes at its shortest prompt: figures vary one thing at a time."""
        shapes = [shape for shape in self.shapes if shape[0] == pair]
        shortest = min(shape[1] for shape in shapes)
        return tuple(shape for shape in shapes if shape[1] == shortest)

    def ar(self, shape: Shape) -> Point | None:
        return self._best.get((shape, 0))

    def diffusion(self, shape: Shape) -> tuple[Point, ...]:
        """The diffusion points at a shape, most steps first."""
        found = [point for (at, steps), point in self._best.items() if at == shape and steps]
        return tuple(sorted(found, key=lambda point: -point.steps))

    def blocks(self, shape: Shape) -> tuple[Point, ...]:
        """The measured cells of block diffusion at a shape, fastest first; several share a T."""
        measured = (m for m in self.stored.measurements if m.status == "ok" and m.cell.shape == shape)
        blocked = (Point(m) for m in measured if m.cell.generator in BLOCK_SYSTEMS and m.cell.block_length)
        found = [point for point in blocked if point.value("latency_s")]
        return tuple(sorted(found, key=lambda point: point.number("latency_s")))

    def points(self, shape: Shape) -> tuple[Point, ...]:
        """AR first, then diffusion from most steps to fewest."""
        ar = self.ar(shape)
        return ((ar,) if ar else ()) + self.diffusion(shape)

    def judged(self, shape: Shape) -> tuple[Point, ...]:
        """Every setting at a shape whose texts were judged, AR first, then most steps to fewest.

        Of the engines and kernels that one setting was measured on, the fastest stands for it.
        """
        best: dict[str, Point] = {}
        for m in self.stored.measurements:
            point = Point(m, m.cell.generator == self._own.get((m.cell.pair, m.cell.side), m.cell.generator))
            if m.status != "ok" or m.cell.shape != shape or not point.value("quality.validity"):
                continue
            if m.cell.side == "ar" and not point.own and m.cell.generator not in SAME_WEIGHTS:
                continue
            setting = m.cell.model_copy(update={"engine": "eager", "attention": "auto"}).key
            known = best.get(setting)
            if known is None or point.number("latency_s") < known.number("latency_s"):
                best[setting] = point
        return tuple(sorted(best.values(), key=lambda p: (p.side != "ar", -p.steps, p.measurement.key)))

    @cached_property
    def flattered(self) -> frozenset[str]:
        """Keys of the cells whose texts look better than they are, their words having collapsed."""
        judged = ((trial.key, trial.quality) for trial in self.stored.trials)
        return frozenset(key for key, quality in judged if quality is not None and quality.flattered is not None)

    def trials(self, point: Point) -> tuple[Trial, ...]:
        return tuple(t for t in self.stored.trials if t.key == point.measurement.key and t.status == "ok")

    def named(self, pair: str, text: str) -> str:
        """A panel's title: with the pair's name where the run has several."""
        return text if len(self.pairs) == 1 else f"{shorten(plain(pair), 14)}: {text}"

    def told(self, pair: str, sentence: str) -> str:
        """A figure's sentence: it speaks of one pair, and says of which where the run has several."""
        return sentence if len(self.pairs) == 1 else f"Pair {shorten(plain(pair), 40)}: {sentence}"

    def provenance(self, points: Iterable[Point], metric: str | None) -> str:
        """What a caption owes its reader: device, dtype, engines, prompt, processes and samples, and the interval."""
        chosen = list({point.measurement.key: point for point in points}.values())
        cells = [point.measurement.cell for point in chosen]
        trials = [trial for point in chosen for trial in self.trials(point)]
        processes = sorted({len({t.process for t in trials if t.key == p.measurement.key}) for p in chosen} - {0})
        samples = sorted({sum(len(t.counted()) for t in trials if t.key == p.measurement.key) for p in chosen} - {0})
        parts = [
            plain(self.stored.run.device_name),
            _either({cell.dtype for cell in cells}),
            f"engine {_either({cell.engine for cell in cells})}",
            f"prompt {_either({str(cell.prompt_length) for cell in cells})} tokens",
        ]
        if processes:
            parts.append(f"n = {_span(processes)} process{'' if processes == [1] else 'es'}")
        if samples:
            parts.append(f"{_span(samples)} samples a cell")
        sentence = ", ".join(parts) + "."
        if metric is None:
            return sentence
        over = "texts" if metric.startswith("quality.") else "processes"
        return f"{sentence} {interval_sentence((v for p in chosen if (v := p.value(metric))), over)}"


def steps_label(point: Point) -> str:
    """`AR`, or `T = 8` with its share of L where that is simple (`T = 16 = L/4`), or with its block: `T = 16 · b4`.

    Short enough for the margin of a bar; `variant` says it in full.
    """
    if not point.steps:
        return "AR"
    block = point.measurement.cell.block_length
    if block not in (None, point.length):
        return f"T = {point.steps} · b{block}"
    share = ""
    if point.steps == point.length:
        share = " = L"
    elif point.length % point.steps == 0:
        share = f" = L/{point.length // point.steps}"
    return f"T = {point.steps}{share}"


def variant(point: Point) -> str:
    """ " (block-diffusion, block 16)": the generator where it is not the pair's own, the block where it is not all."""
    cell = point.measurement.cell
    parts = [] if point.own else [plain(cell.generator)]
    if cell.block_length not in (None, cell.length):
        parts.append(f"block {cell.block_length}")
    return f" ({', '.join(parts)})" if parts else ""


def depth(point: Point) -> float:
    """Where a point lies on its side's ramp: few steps for the length are light, T = L is deep."""
    if not point.steps:
        return 0.5
    share = min(point.steps / point.length, 1.0)
    return float(max(0.0, 1.0 + math.log2(share) / 5.0))  # five halvings span the ramp


def spread(values: Sequence[int], most: int) -> list[int]:
    """At most `most` of the sorted values: the first, the last and evenly spaced ones between."""
    ordered = sorted(set(values))
    if len(ordered) <= most:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / (most - 1))] for i in range(most)] if most > 1 else ordered[:1]


def seconds_tick(x: float) -> str:
    """A tick on a time axis: no padding zeros."""
    number, _, unit = format_number(x, "s").partition(" ")
    return f"{float(number.replace(',', '')):g} {unit}" if x else "0"


def rate_tick(x: float) -> str:
    """A tick on a tok/s axis, the unit being in the axis label: 1000 -> "1 k"."""
    number, _, unit = format_number(x, "tok/s").partition(" ")
    return f"{float(number.replace(',', '')):g} {unit.removesuffix('tok/s').strip()}".strip()


def left_out(shown: int, found: int, noun: str = "panel") -> str:
    """What a caption says when a figure would be too large: nothing goes missing in silence."""
    more = found - shown
    return "" if more <= 0 else f"{more} more {noun}{' is' if more == 1 else 's are'} left to the table. "


def shorten(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _either(texts: set[str]) -> str:
    return " or ".join(sorted(plain(text) for text in texts))


def _span(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}"
