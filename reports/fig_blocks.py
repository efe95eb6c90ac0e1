"""Block length 1 to L on one set of weights: how throughput changes between autoregression and full diffusion.

A panel holds one shape and one sampler, a line the cells that commit the same number of tokens a step. A step stays
within its block, so a line of k tokens a step begins at block length k. AR has no blocks and is a band.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes

from ..models.names import ADAPTIVE_SAMPLERS, BUILT_IN
from ..profiles.record import Cell, Value
from .format import format_number, format_value
from .palette import LIGHT, side_colour
from .plain import plain
from .plotting import Figure, Sheet, log_quantity, log_values, name_line_ends
from .study import Point, Study, depth, left_out, rate_tick, shorten

NAME, TITLE, METRIC = "blocks", "From AR to full diffusion: the block length", "throughput_tok_s"
MAX_PANELS = 6
LEAST = 3  # block lengths that make a line
_MARGINS = (50, 40, 96, 30)


@dataclass(frozen=True, slots=True)
class Panel:
    """One shape and sampler: lines by their name, each by block length, and AR where it was measured."""

    title: str
    lines: dict[str, tuple[Point, ...]]
    ar: Point | None

    @property
    def points(self) -> list[Point]:
        return ([self.ar] if self.ar else []) + [point for line in self.lines.values() for point in line]


def blocks_figure(study: Study, folder: Path) -> Figure:
    """Throughput over the block length, a panel a shape and sampler, for every number of tokens a step."""
    panels = [panel for pair in study.pairs for panel in _panels(study, pair)]
    if not panels:
        return Figure(NAME, TITLE, skipped=_absent(study))
    shown = panels[:MAX_PANELS]
    sheet = Sheet(len(shown), 2)
    for index, panel in enumerate(shown):
        _draw(sheet.axes(index, _MARGINS), panel)
    points = [point for panel in shown for point in panel.points]
    return Figure(
        NAME,
        TITLE,
        sentence=study.told(points[0].measurement.cell.pair, _sentence(shown[0])),
        caption=(
            "One network at every block length; how good its text is at each is not shown here. Block length 1 is not "
            "the AR model: each token is predicted at its own masked position, and costs one forward that denoises it "
            "and one that stores its keys and values. One block of L is full diffusion, with the prompt cached. "
            "Throughput counts emitted tokens only; vertical strokes and the band are intervals. "
            f"{_shared(study)}{left_out(len(shown), len(panels))}{study.provenance(points, METRIC)}"
        ),
        svg=sheet.save(folder / f"{NAME}.png"),
        alt="; ".join(
            f"{panel.title}: " + ", ".join(f"{name} {format_value(METRIC, v)}" for name, v in _told(panel))
            for panel in shown
        ),
    )


def lines(points: Sequence[Point]) -> dict[str, tuple[Point, ...]]:
    """Lines of at least three block lengths, most steps first; of two cells at one place the first stays."""
    found: dict[str, dict[int, Point]] = {}
    for point in points:
        found.setdefault(line_name(point.measurement.cell), {}).setdefault(point.block, point)
    kept = {name: [line[b] for b in sorted(line)] for name, line in found.items() if len(line) >= LEAST}
    return {name: tuple(line) for name, line in sorted(kept.items(), key=lambda item: -item[1][0].steps)}


def line_name(cell: Cell) -> str:
    """What a line's cells have in common: the tokens a step where T fixes them, else T's bound, or the schedule."""
    schedule = cell.decode.commit_schedule
    if schedule is not None and schedule.source != "even":
        return shorten(plain(schedule.source), 18)
    by_data = schedule is None and (cell.decode.sampler or BUILT_IN[cell.generator].samplers[0]) in ADAPTIVE_SAMPLERS
    if by_data:
        return "T by the data" if cell.steps is None else f"T ≤ {cell.steps}"
    tokens, rest = divmod(cell.length, cell.steps or cell.length)  # without a T a step commits one token
    if rest or not tokens:
        return f"T = {cell.steps}"
    return f"{tokens} token{'' if tokens == 1 else 's'} a step"


def aligned(point: Point) -> bool:
    """Whether blocks begin where the new tokens do. Else the prompt and they share a block, and T means less."""
    return point.measurement.cell.prompt_length % point.block == 0


def _panels(study: Study, pair: str) -> list[Panel]:
    shapes = [shape for shape in study.shapes if shape[0] == pair]
    several = len({shape[1] for shape in shapes}) > 1
    panels = []
    for shape in shapes:
        samplers: dict[str, list[Point]] = {}
        for point in filter(aligned, study.blocks(shape)):
            if point.value(METRIC):
                samplers.setdefault(_sampler(point.measurement.cell), []).append(point)
        for name, points in samplers.items():
            found = lines(points)
            title = f"{name}, tok/s, L = {shape[2]}, batch {shape[3]}" + (f", prompt {shape[1]}" if several else "")
            if found:
                panels.append(Panel(study.named(pair, title), found, study.ar(shape)))
    return panels


def _sampler(cell: Cell) -> str:
    return plain(cell.generator if cell.decode.sampler is None else cell.decode.sampler)


def _absent(study: Study) -> str:
    points = [point for shape in study.shapes for point in study.blocks(shape)]
    if not points:
        return "No block diffusion with a set block length was measured; `dlmbench run continuum` does it."
    measured = sorted({(line_name(p.measurement.cell), p.block) for p in points if aligned(p)})
    found = ", ".join(f"{block} at {name}" for name, block in measured) or "none"
    return (
        f"A line needs {LEAST} block lengths at one number of tokens a step; this run measured {found}. "
        f"{_shared(study)}"
    ).strip()


def _shared(study: Study) -> str:
    """What is left out because the prompt does not end with a block."""
    shared = {
        (p.measurement.cell.prompt_length, p.block)
        for shape in study.shapes
        for p in study.blocks(shape)
        if not aligned(p)
    }
    if not shared:
        return ""
    named = ", ".join(f"{block} after a prompt of {prompt}" for prompt, block in sorted(shared))
    return f"Left to the table, as prompt and new tokens share a block: block length {named}. "


def _told(panel: Panel) -> list[tuple[str, Value]]:
    """Every point in words, with its throughput."""
    named = [("AR", panel.ar)] if panel.ar else []
    named += [(f"{name} block {point.block}", point) for name, line in panel.lines.items() for point in line]
    return [(name, value) for name, point in named if (value := point.value(METRIC))]


def _sentence(panel: Panel) -> str:
    """Each end and the best block length, at the fewest and at the most tokens a step, and AR."""
    names = list(panel.lines)
    parts: list[str] = []
    for name in dict.fromkeys((names[0], names[-1])):
        line = panel.lines[name]
        best = max(line, key=lambda point: point.number(METRIC))
        told = {point.block: point for point in (line[0], best, line[-1])}
        rates = [f"{_rate(p)} at block length {b}{_remark(p, best)}" for b, p in told.items()]
        parts.append(f"{'at' if parts else 'At'} {name} block diffusion makes {', '.join(rates)}")
    if panel.ar and panel.ar.value(METRIC):
        parts.append(f"AR makes {_rate(panel.ar)}")
    return "; ".join(parts) + "."


def _remark(point: Point, best: Point) -> str:
    words = ["the best"] if point is best else []
    words += ["full diffusion"] if point.block == point.length else []
    return f" ({', '.join(words)})" if words else ""


def _rate(point: Point) -> str:
    return format_number(point.number(METRIC), "tok/s")


def _draw(axes: Axes, panel: Panel) -> None:
    extremes = [
        x
        for point in panel.points
        if (value := point.value(METRIC))
        for x in (value.value, value.low, value.high)
        if x is not None and x > 0
    ]
    log_quantity(axes, min(extremes), max(extremes), rate_tick)
    blocks = [float(p.block) for line in panel.lines.values() for p in line]
    log_values(axes, "x", blocks, "block length, from one token to all of L")
    ends = []
    for marker, (name, line) in zip("os^Dv<>" * 4, panel.lines.items(), strict=False):
        colour = side_colour("diffusion", depth(line[0]))
        xs, ys = [float(p.block) for p in line], [p.number(METRIC) for p in line]
        axes.plot(xs, ys, color=colour, marker=marker)
        intervals = [(p.block, v.low, v.high) for p in line if (v := p.value(METRIC)) and v.low and v.high]
        if intervals:
            at, low, high = zip(*intervals, strict=True)
            axes.vlines(at, low, high, color=colour, linewidth=4, alpha=0.35)
        ends.append((xs[-1], ys[-1], name, colour))
    if panel.ar and (value := panel.ar.value(METRIC)) and value.value is not None:
        colour = side_colour("ar")
        axes.axhline(value.value, color=colour)
        if value.low is not None and value.high is not None:
            axes.axhspan(value.low, value.high, color=colour, alpha=0.18, linewidth=0)
        ends.append((max(blocks), value.value, "AR", colour))
    axes.set_title(panel.title, color=LIGHT["ink"])
    name_line_ends(axes, ends)
