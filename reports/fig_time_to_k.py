"""How soon a reader has k tokens: one curve for AR and one for each T, comparable without an inter-token latency."""

from __future__ import annotations

import statistics
from pathlib import Path

from ..profiles.record import Value
from .format import format_point, format_value
from .palette import side_colour
from .plotting import Figure, Sheet, log_quantity, log_values, name_line_ends
from .study import Point, Shape, Study, depth, left_out, seconds_tick, spread

NAME, TITLE = "time_to_k", "Time to the first k tokens"
MAX_PANELS = 12
_MARGINS = (50, 40, 62, 30)
Curve = tuple[tuple[int, Value], ...]


def time_to_k_figure(study: Study, folder: Path) -> Figure:
    """Panels for up to three lengths of each pair at its smallest batch."""
    curves = {s: [(p, c) for p in study.points(s) if len(c := curve(study, p)) > 1] for s in _shapes(study)}
    drawable = [shape for shape, found in curves.items() if found]
    shapes = drawable[:MAX_PANELS]
    if not shapes:
        return Figure(NAME, TITLE, skipped="No sample of this run recorded the time to its first k tokens.")
    sheet = Sheet(len(shapes), min(3, len(shapes)))
    for index, shape in enumerate(shapes):
        _draw(sheet, index, study, shape, curves[shape])
    points = [p for shape in shapes for p, _ in curves[shape]]
    return Figure(
        NAME,
        TITLE,
        sentence=study.told(shapes[-1][0], _sentence(curves[shapes[-1]])),
        caption=(
            "Time until the first k positions are committed (median over rows); lower is sooner. The band is the "
            f"interval. {left_out(len(shapes), len(drawable))}"
            f"{study.provenance(points, f'time_to_k_s[{curves[shapes[0]][0][1][-1][0]}]')}"
        ),
        svg=sheet.save(folder / f"{NAME}.png"),
        alt="; ".join(
            f"L = {p.length}, {_name(p)}: k = {k} after {format_value('time_to_k_s', v)}"
            for shape in shapes
            for p, points_of in curves[shape]
            for k, v in (points_of[0], points_of[-1])
        ),
        columns=min(3, len(shapes)),
    )


def curve(study: Study, point: Point) -> Curve:
    """(k, time) in order of k: from the measurement, else the median of the point's counted samples, no interval."""
    stored = {
        int(name[len("time_to_k_s[") : -1]): value
        for name, value in point.measurement.metrics.items()
        if name.startswith("time_to_k_s[") and value.value is not None and name[len("time_to_k_s[") : -1].isdigit()
    }
    if not stored:
        times: dict[int, list[float]] = {}
        for sample in (s for trial in study.trials(point) for s in trial.counted()):
            for k, seconds in sample.time_to_k_s.items():
                times.setdefault(int(k), []).append(seconds)
        stored = {k: Value(value=statistics.median(found), n=len(found)) for k, found in times.items()}
    return tuple(sorted(stored.items()))


def _shapes(study: Study) -> list[Shape]:
    chosen: list[Shape] = []
    for pair in study.pairs:
        shapes = study.of_pair(pair)
        smallest = min(s[3] for s in shapes)
        lengths = spread([s[2] for s in shapes if s[3] == smallest], 3)
        chosen += [s for s in shapes if s[3] == smallest and s[2] in lengths]
    return chosen


def _draw(sheet: Sheet, index: int, study: Study, shape: Shape, curves: list[tuple[Point, Curve]]) -> None:
    axes = sheet.axes(index, _MARGINS)
    times = [t for _, c in curves for _, v in c for t in (v.value, v.low, v.high) if t]
    log_quantity(axes, min(times), max(times), seconds_tick)
    log_values(axes, "x", [k for _, c in curves for k, _ in c], "k (tokens from the start)")
    ends = []
    for point, found in curves:
        colour = side_colour("diffusion", depth(point)) if point.steps else side_colour("ar")
        ks = [k for k, _ in found]
        ys = [v.value if v.value is not None else float("nan") for _, v in found]
        axes.plot(ks, ys, color=colour, marker="o", markersize=3)
        if all(v.low is not None and v.high is not None for _, v in found):
            axes.fill_between(
                ks,
                [v.low or 0.0 for _, v in found],
                [v.high or 0.0 for _, v in found],
                color=colour,
                alpha=0.2,
                linewidth=0,
            )
        ends.append((float(ks[-1]), ys[-1], _name(point), colour))
    axes.set_title(study.named(shape[0], f"L = {shape[2]}, batch {shape[3]}"))
    name_line_ends(axes, ends)


def _sentence(curves: list[tuple[Point, Curve]]) -> str:
    """The first and the last k of AR and of diffusion with the fewest steps, in numbers."""
    ends = [entry for entry in curves if not entry[0].steps] + [entry for entry in curves if entry[0].steps][-1:]
    told = " ".join(
        f"{'Diffusion with ' if point.steps else ''}{_name(point)} has committed the first "
        f"{'token' if first[0] == 1 else f'{first[0]} tokens'} after {format_point('time_to_k_s', first[1])} and all "
        f"{last[0]} after {format_point('time_to_k_s', last[1])}."
        for point, (first, *_, last) in ends
    )
    return f"How long a reader waits, at L = {curves[0][0].length}. {told}"


def _name(point: Point) -> str:
    return f"T = {point.steps}" if point.steps else "AR"
