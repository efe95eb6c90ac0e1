"""Latency and throughput as one axis varies: over L, over T and over batch, with intervals, on logarithmic axes.

A panel holds one metric of one pair; AR is the warm line, or a horizontal band where the axis is T, of which it has
none. Diffusion lines are cool and named at their end by T, or by its share of L where that is what stays the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes

from .format import format_value
from .palette import LIGHT, side_colour
from .plotting import Figure, Sheet, log_quantity, log_values, name_line_ends
from .study import Point, Shape, Study, depth, left_out, rate_tick, seconds_tick, spread, steps_label

MAX_PANELS = 12
METRICS_SHOWN = ("latency_s", "throughput_tok_s")
_TITLES = {"latency_s": "Latency", "throughput_tok_s": "Throughput, tok/s"}
_TICKS: dict[str, Callable[[float], str]] = {"latency_s": seconds_tick, "throughput_tok_s": rate_tick}
_MARKERS = "os^Dv<>"
_MARGINS = (50, 40, 62, 30)


@dataclass(frozen=True, slots=True)
class Series:
    """A named line: points with their x."""

    name: str
    colour: str
    points: tuple[tuple[float, Point], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes to draw: a metric, its lines, and AR as a band where the lines are over T."""

    title: str
    metric: str
    series: tuple[Series, ...]
    band: Point | None = None


def length_figure(study: Study, folder: Path) -> Figure:
    """Over L at the smallest and the largest batch: AR, T as a share of L, and any T that every L was given."""
    panels = []
    for pair in study.pairs:
        shapes = study.of_pair(pair)
        for batch in spread([s[3] for s in shapes], 2):
            series = series_over_length(study, [s for s in shapes if s[3] == batch])
            if any(len(line.points) > 1 for line in series):
                panels += [
                    Panel(study.named(pair, f"{_TITLES[metric]}, batch {batch}"), metric, series)
                    for metric in METRICS_SHOWN
                ]
    if not panels:
        lengths = sorted({s[2] for s in study.shapes})
        return _skipped("over_length", "Over the length L", "L", "length", lengths)
    growth = _growth(panels[0], "L =", "the latency")
    return _figure(study, folder, ("over_length", "Over the length L", "L (new tokens a row)"), panels, 2, growth)


def steps_figure(study: Study, folder: Path) -> Figure:
    """Over T at the smallest batch, for up to three lengths; diffusion's line meets AR's band at the crossover."""
    panels = []
    for pair in study.pairs:
        shapes = [s for s in study.of_pair(pair) if len(study.diffusion(s)) > 1]
        shapes = [s for s in shapes if s[3] == min(shape[3] for shape in shapes)]
        lengths = spread([s[2] for s in shapes], 3)
        for metric in METRICS_SHOWN:
            for shape in (s for s in shapes if s[2] in lengths):
                line = tuple((float(p.steps), p) for p in reversed(study.diffusion(shape)))
                title = study.named(pair, f"{_TITLES[metric]}, L = {shape[2]}, batch {shape[3]}")
                panels.append(
                    Panel(title, metric, (Series("diffusion", side_colour("diffusion"), line),), study.ar(shape))
                )
    if not panels:
        steps = sorted({p.steps for s in study.shapes for p in study.diffusion(s)})
        return _skipped("over_steps", "Over the steps T", "T", "number of denoising steps", steps)
    columns = min(3, len(panels) // 2)
    return _figure(
        study, folder, ("over_steps", "Over the steps T", "T (denoising steps)"), panels, columns, _against_ar(panels)
    )


def batch_figure(study: Study, folder: Path) -> Figure:
    """Over the batch, at the smallest and the largest L that has several batches."""
    panels = []
    for pair in study.pairs:
        shapes = study.of_pair(pair)
        lengths = [n for n in {s[2] for s in shapes} if sum(s[2] == n for s in shapes) > 1]
        for length in spread(lengths, 2):
            series = _series_over_batch(study, [s for s in shapes if s[2] == length])
            panels += [
                Panel(study.named(pair, f"{_TITLES[metric]}, L = {length}"), metric, series) for metric in METRICS_SHOWN
            ]
    if not panels:
        batches = sorted({s[3] for s in study.shapes})
        return _skipped("over_batch", "Over the batch", "B", "batch size", batches)
    growth = _growth(panels[1], "batch", "the throughput")
    names = ("over_batch", "Over the batch", "batch (rows generated together)")
    return _figure(study, folder, names, panels, 2, growth)


def series_over_length(study: Study, shapes: Sequence[Shape]) -> tuple[Series, ...]:
    """AR; each ratio T/L found at two lengths or more; each T found at every length."""
    ar = tuple((float(s[2]), p) for s in shapes if (p := study.ar(s)))
    lines = [Series("AR", side_colour("ar"), ar)] if ar else []
    diffusion = [p for s in shapes for p in study.diffusion(s)]
    ratios: dict[float, list[Point]] = {}
    absolute: dict[int, list[Point]] = {}
    for point in diffusion:
        ratios.setdefault(point.length / point.steps, []).append(point)
        absolute.setdefault(point.steps, []).append(point)
    for ratio, points in sorted(ratios.items()):
        if len(points) > 1 or len(shapes) == 1:
            name = "T = L" if ratio == 1 else f"T = L/{ratio:g}" if ratio > 1 else f"T = {1 / ratio:g}L"
            lines.append(_line(name, points))
    for steps, points in sorted(absolute.items(), reverse=True):
        if len(points) == len({s[2] for s in shapes}) > 1:
            lines.append(_line(f"T = {steps}", points))
    return tuple(lines)


def _line(name: str, points: Sequence[Point]) -> Series:
    deep = sum(depth(p) for p in points) / len(points)
    ordered = sorted(points, key=lambda p: p.length)
    return Series(name, side_colour("diffusion", deep), tuple((float(p.length), p) for p in ordered))


def _series_over_batch(study: Study, shapes: Sequence[Shape]) -> tuple[Series, ...]:
    by_steps: dict[int, list[Point]] = {}
    for shape in shapes:
        for point in study.points(shape):
            by_steps.setdefault(point.steps, []).append(point)
    return tuple(
        Series(
            f"T = {steps}" if steps else "AR",
            side_colour("diffusion", depth(points[0])) if steps else side_colour("ar"),
            tuple((float(p.batch), p) for p in sorted(points, key=lambda p: p.batch)),
        )
        for steps, points in sorted(by_steps.items())
    )


def _skipped(name: str, title: str, symbol: str, words: str, found: Sequence[int]) -> Figure:
    if not found:
        return Figure(name, title, skipped=f"No cell with a {words} was measured.")
    values = ", ".join(str(value) for value in found)
    return Figure(
        name,
        title,
        skipped=f"A line over {symbol} needs two values at one shape; this run measured {symbol} = {values}.",
    )


def _growth(panel: Panel, axis: str, quantity: str) -> str:
    """What the panel's lines say in numbers: `From L = 16 to 256, the latency changes: AR by 14.4×, …`."""
    whole = [line for line in panel.series if len(line.points) > 1]
    if not whole:
        return f"No line has two points: {quantity} at each {axis.removesuffix(' =')}, for each cell measured."
    start, end = min(line.points[0][0] for line in whole), max(line.points[-1][0] for line in whole)
    changes = [
        f"{'diffusion with ' if line.name != 'AR' else ''}{line.name} by {last / first:.3g}×"
        for line in whole
        if (line.points[0][0], line.points[-1][0]) == (start, end)
        and (first := line.points[0][1].number(panel.metric)) > 0
        and (last := line.points[-1][1].number(panel.metric)) > 0
    ]
    times = ", ".join(changes) or "no line spans the whole range"
    return f"From {axis} {start:g} to {end:g}, {end / start:g}× the tokens, {quantity} changes: {times}."


def _against_ar(panels: Sequence[Panel]) -> str:
    """AR against diffusion's ends at the first pair's longest L, in numbers."""
    firsts = [(panel, panel.series[0].points[0][1]) for panel in panels if panel.metric == "latency_s"]
    pair = firsts[0][1].measurement.cell.pair
    panel = max((f for f in firsts if f[1].measurement.cell.pair == pair), key=lambda f: f[1].length)[0]
    fewest, most = panel.series[0].points[0][1], panel.series[0].points[-1][1]
    if panel.band is None:
        return f"At L = {most.length}, diffusion's time for each number of steps T."
    ar = panel.band.number("latency_s")
    ends = []
    for point in (fewest, most):
        speedup = point.number("speedup")  # from paired rounds: steadier than the ratio of two medians
        if not speedup > 0:
            speedup = ar / point.number("latency_s")
        words = f"is {speedup:.2f} times as fast" if speedup > 1 else f"takes {1 / speedup:.2f} times as long"
        ends.append(f"with T = {point.steps} diffusion {words}")
    return (
        f"Against AR at L = {most.length}, {' and '.join(ends)}. AR has no T: it is the level line, and where "
        "diffusion crosses it, both sides take the same time."
    )


def _figure(
    study: Study, folder: Path, names: tuple[str, str, str], panels: list[Panel], columns: int, sentence: str
) -> Figure:
    """`names`: the figure's name, its title and the label of the x axis. A metric without values has no panel."""
    name, title, axis = names
    panels = [panel for panel in panels if any(p.number(panel.metric) > 0 for p in _points(panel))]
    shown = panels[:MAX_PANELS]
    sheet = Sheet(len(shown), columns)
    for index, panel in enumerate(shown):
        _draw(sheet.axes(index, _MARGINS), panel, axis)
    points = [p for panel in shown for p in _points(panel)]
    alt = "; ".join(
        f"{panel.title}: "
        + ", ".join(
            f"L = {p.length} batch {p.batch} {steps_label(p)} {format_value(panel.metric, v)}"
            for p in _points(panel)
            if (v := p.value(panel.metric))
        )
        for panel in shown
    )
    caption = (
        f"Vertical strokes are intervals. Latency: lower is faster; throughput counts emitted tokens only. "
        f"{left_out(len(shown), len(panels))}"
        f"{study.provenance(points, 'latency_s')}"
    )
    pair = points[0].measurement.cell.pair
    return Figure(name, title, study.told(pair, sentence), caption, sheet.save(folder / f"{name}.png"), alt, columns)


def _points(panel: Panel) -> list[Point]:
    return ([panel.band] if panel.band else []) + [p for line in panel.series for _, p in line.points]


def _draw(axes: Axes, panel: Panel, axis: str) -> None:
    metric = panel.metric
    extremes = []
    for point in _points(panel):
        if value := point.value(metric):
            extremes += [x for x in (value.value, value.low, value.high) if x is not None and x > 0]
    log_quantity(axes, min(extremes), max(extremes), _TICKS[metric])
    log_values(axes, "x", [x for line in panel.series for x, _ in line.points], axis)
    ends = []
    for marker, line in zip(_MARKERS * 4, panel.series, strict=False):
        xs, ys = [x for x, _ in line.points], [p.number(metric) for _, p in line.points]
        axes.plot(xs, ys, color=line.colour, marker=marker)
        intervals = [(x, v.low, v.high) for x, p in line.points if (v := p.value(metric)) and v.low and v.high]
        if intervals:
            at, low, high = zip(*intervals, strict=True)
            axes.vlines(at, low, high, color=line.colour, linewidth=4, alpha=0.35)
        ends.append((xs[-1], ys[-1], line.name, line.colour))
    if panel.band and (value := panel.band.value(metric)) and value.value is not None:
        colour = side_colour("ar")
        axes.axhline(value.value, color=colour)
        if value.low is not None and value.high is not None:
            axes.axhspan(value.low, value.high, color=colour, alpha=0.18, linewidth=0)
        ends.append((ends[0][0], value.value, "AR", colour))
    axes.set_title(panel.title, color=LIGHT["ink"])
    name_line_ends(axes, ends)
