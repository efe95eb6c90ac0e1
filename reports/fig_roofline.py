"""The roofline: what the device allows at each arithmetic intensity, and where every measured cell lies below it.

Williams, Waterman and Patterson 2009: achieved FLOP/s cannot exceed min(peak FLOP/s, intensity x peak B/s).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ..profiles.record import Measurement
from .chosen import Chosen, chosen, named_point
from .format import format_number
from .palette import LIGHT, side_colour
from .placing import Box, around, name_points, sheet_points
from .plain import plain
from .plotting import Figure, Sheet
from .rows import OVERHEAD_BOUND
from .study import Point, Study, depth, left_out, shorten, steps_label

NAME, TITLE = "roofline", "What the device allows: the roofline"
MAX_PANELS = 4
NEEDED = ("arithmetic_intensity", "model_flops", "latency_s")
HEIGHT = 330
_MARGINS = (62, 44, 18, 46)
Dashes = str | tuple[float, tuple[float, ...]]
_APART = 1.05  # two roofs nearer than this are one line
_NAMED_APART = 1.6  # and a roof nearer than this to one that is named goes without a name
_TOGETHER = 9.0  # points of the sheet between two marks that share a name
_ON_PAPER: dict[str, Any] = {"boxstyle": "square,pad=0", "facecolor": LIGHT["paper"], "edgecolor": "none"}


@dataclass(frozen=True, slots=True)
class Roof:
    """Peaks: matrix product (FLOP/s) and read (B/s), None where unknown."""

    flop_s: float
    byte_s: float
    block_b: int | None = None

    @property
    def ridge(self) -> float:
        """FLOP/B from which on the matrix product is the limit."""
        return self.flop_s / self.byte_s

    def allowed(self, intensity: float) -> float:
        return min(self.flop_s, intensity * self.byte_s)


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair and dtype: its measured points, its roof, and the points that represent it."""

    pair: str
    dtype: str
    points: tuple[Point, ...]
    roof: Roof | None
    named: Chosen | None


def roofline_figure(study: Study, folder: Path) -> Figure:
    """Every measured cell below the roof, a panel a pair and dtype."""
    panels = _panels(study)
    if not panels:
        return Figure(NAME, TITLE, skipped="No cell of this run has its FLOPs and bytes counted.")
    shown = panels[:MAX_PANELS]
    sheet = Sheet(len(shown), 2, height=HEIGHT)
    for index, panel in enumerate(shown):
        _draw(sheet.axes(index, _MARGINS), study, panel)
    points = [point for panel in shown for point in panel.points]
    return Figure(
        NAME,
        TITLE,
        sentence=study.told(shown[0].pair, _sentence(study, shown[0])),
        caption=(
            "Each point is a measured cell, fastest or not: its analytic FLOPs over its latency. "
            f"{_roofs(study, shown)}"
            "Lines join cells that differ in batch alone, of each side's fastest engine. "
            f"{_fill_words(points)}Crossed out: overhead-bound, below half of what its own forwards would take at the "
            f"peaks. {left_out(len(shown), len(panels))}{study.provenance(points, None)}"
        ),
        svg=sheet.save(folder / f"{NAME}.png"),
        alt="; ".join(_told(study, panel) for panel in shown),
    )


def achieved(point: Point) -> float:
    """Analytic FLOPs over the latency, FLOP/s."""
    return point.number("model_flops") / point.number("latency_s")


def roof_of(study: Study, pair: str, dtype: str) -> Roof | None:
    """The best calibration beside the pair's pairings at this dtype; the run's own where its trials have none.

    The pair's, since the block that is read is as large as its weights: a small model is held to the cache it fits.
    """
    trials = (t for t in study.stored.trials if t.cell.pair == pair and t.cell.dtype == dtype)
    beside = [peak for t in trials for peak in (t.calibration_before, t.calibration_after) if peak is not None]
    peaks = beside or [peak for peak in study.stored.run.peaks if peak.dtype == dtype]
    if not peaks:
        return None
    read = max(peaks, key=lambda peak: peak.read_b_s)
    return Roof(max(peak.matmul_flop_s for peak in peaks), read.read_b_s, read.read_block_b)


def _panels(study: Study) -> list[Panel]:
    found: dict[tuple[str, str], list[Point]] = {}
    for m in study.stored.measurements:
        point = Point(m)
        if m.status == "ok" and all(point.number(name) > 0 for name in NEEDED):
            found.setdefault((m.cell.pair, m.cell.dtype), []).append(point)
    panels = []
    for (pair, dtype), points in found.items():
        keys = {point.measurement.key for point in points}
        standing = _representative(study, pair, keys)
        panels.append(Panel(pair, dtype, tuple(points), roof_of(study, pair, dtype), standing))
    return panels


def _representative(study: Study, pair: str, keys: set[str]) -> Chosen | None:
    found = chosen(study, lambda point: point.measurement.key in keys)
    return next((each for each in found if each.shape[0] == pair), None)


def _draw(axes: Axes, study: Study, panel: Panel) -> None:
    xs = [p.number("arithmetic_intensity") for p in panel.points]
    ys = [achieved(p) for p in panel.points]
    roof = panel.roof
    left, right = min(xs) / 2.5, max(*xs, roof.ridge if roof else 0.0) * 4
    low, high = min(ys) / 3, max(*ys, roof.flop_s if roof else 0.0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(left, right)
    axes.set_ylim(low, high * 12)
    covered = [] if roof is None else _draw_roofs(axes, study, panel, roof, (left, right))
    _draw_lines(axes, study, panel)
    fastest = _fastest(study, panel)
    for point in panel.points:
        _mark(axes, point, large=point.measurement.key in fastest)
    covered.append(_key(axes, panel.points))
    _name_points(axes, study, panel, covered)
    for axis, unit in ((axes.xaxis, "1"), (axes.yaxis, "FLOP/s")):
        axis.set_major_locator(LogLocator(numticks=7))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda v, _, unit=unit: _tick(v, unit)))
    axes.set_xlabel("arithmetic intensity, FLOP/B")
    axes.set_title(study.named(panel.pair, plain(panel.dtype)), pad=20)
    axes.annotate("achieved FLOP/s", (0, 1), xycoords="axes fraction", xytext=(-46, 8), textcoords="offset points",
                  fontsize=9, color=LIGHT["muted"], annotation_clip=False)  # fmt: skip


def _draw_roofs(axes: Axes, study: Study, panel: Panel, roof: Roof, span: tuple[float, float]) -> list[Box]:
    """The roof beside the pairings in ink, what the device sustained (dotted) and the datasheet's (dashed).

    Returns what they cover, so that no name is written there.
    """
    covered = _roof_line(axes, roof, span, LIGHT["ink"], "-", 1.8)
    names = [(roof.flop_s, "measured", LIGHT["ink"])]
    for kind, other in _other_roofs(study, panel):
        if max(_ratio(other.flop_s, roof.flop_s), _ratio(other.byte_s, roof.byte_s)) < _APART:
            continue
        dashes: Dashes = (0, (4, 3)) if kind == "datasheet" else (0, (1, 1.5))
        covered += _roof_line(axes, other, span, LIGHT["muted"], dashes, 1.2)
        if all(_ratio(other.flop_s, level) > _NAMED_APART for level, _, _ in names):
            names.append((other.flop_s, kind, LIGHT["muted"]))
    for level, kind, colour in names:
        axes.annotate(f"{format_number(level, 'FLOP/s')} {kind}", (span[1], level), xytext=(0, 4), ha="right",
                      textcoords="offset points", fontsize=8.5, color=colour, zorder=1.5, bbox=_ON_PAPER)  # fmt: skip
        x, y = sheet_points(axes, span[1], level)
        covered.append((x - 125, y, x, y + 16))
    bottom = axes.get_ylim()[0]
    axes.plot([roof.ridge] * 2, [bottom, roof.flop_s], color=LIGHT["muted"], linewidth=0.9, linestyle=(0, (1, 2)))
    axes.plot([roof.ridge], [roof.flop_s], marker="D", color=LIGHT["ink"], markersize=5)
    axes.annotate(f"ridge {format_number(roof.ridge, '1')} FLOP/B", (roof.ridge, bottom), xytext=(4, 5),
                  textcoords="offset points", fontsize=8.5, color=LIGHT["muted"])  # fmt: skip
    x, y = sheet_points(axes, roof.ridge, bottom)
    return [*covered, (x, y, x + 90, y + 16)]


def _ratio(one: float, other: float) -> float:
    return max(one / other, other / one)


def _roof_line(
    axes: Axes, roof: Roof, span: tuple[float, float], colour: str, dashes: Dashes, width: float
) -> list[Box]:
    left, right = span
    xs = [left, roof.ridge, right] if left < roof.ridge < right else [left, right]
    axes.plot(xs, [roof.allowed(x) for x in xs], color=colour, linewidth=width, linestyle=dashes, zorder=1.4)
    along = [left * (right / left) ** (i / 60) for i in range(61)]
    return [around(x, y, 2) for x, y in (sheet_points(axes, at, roof.allowed(at)) for at in along)]


def _other_roofs(study: Study, panel: Panel) -> Iterable[tuple[str, Roof]]:
    """What the device sustained at the sizes that suit it, and what its maker states, where both peaks are known."""
    peaks = study.stored.run.device_peaks
    if peaks is None:
        return
    product = peaks.matmul.get(panel.dtype)
    if product is not None and peaks.read is not None:
        yield "sustained", Roof(product.sustained, peaks.read.sustained, peaks.read.size)
    sheet = peaks.datasheet
    if sheet is not None and sheet.memory_b_s and sheet.matmul_flop_s.get(panel.dtype):
        yield "datasheet", Roof(sheet.matmul_flop_s[panel.dtype], sheet.memory_b_s)


def _fastest(study: Study, panel: Panel) -> set[str]:
    """Keys of the panel's cells that stand for their place: the fastest variant of each side, shape and T."""
    standing = {p.measurement.key for shape in study.shapes if shape[0] == panel.pair for p in study.points(shape)}
    return standing & {p.measurement.key for p in panel.points}


def _draw_lines(axes: Axes, study: Study, panel: Panel) -> None:
    fastest = _fastest(study, panel)
    lines: dict[tuple[str, int, int, int], list[Point]] = {}
    for point in panel.points:
        if point.measurement.key in fastest:
            place = (point.side, point.measurement.cell.prompt_length, point.length, point.steps)
            lines.setdefault(place, []).append(point)
    for points in lines.values():
        along = sorted(points, key=lambda p: p.batch)
        axes.plot([p.number("arithmetic_intensity") for p in along], [achieved(p) for p in along],
                  color=_colour(along[0]), linewidth=1, alpha=0.6)  # fmt: skip


def _colour(point: Point) -> str:
    return side_colour("ar") if point.side == "ar" else side_colour("diffusion", depth(point))


def _engine_fill(engine: str) -> str:
    """Hollow for eager, half for what is compiled alone, full for what replays a graph."""
    return "full" if "graph" in engine else "left" if "compile" in engine else "none"


def _overhead_bound(m: Measurement) -> bool:
    value = m.metrics.get("roofline_fraction")
    return value is not None and value.value is not None and value.value < OVERHEAD_BOUND


def _mark(axes: Axes, point: Point, large: bool) -> None:
    x, y, colour = point.number("arithmetic_intensity"), achieved(point), _colour(point)
    fill = _engine_fill(point.measurement.cell.engine)
    size = 7.0 if large else 5.5
    axes.plot([x], [y], marker="s" if point.side == "ar" else "o", markersize=size, linestyle="none",
              color=LIGHT["paper"] if fill == "none" else colour, markeredgecolor=colour, markeredgewidth=1.3,
              fillstyle="left" if fill == "left" else "full", markerfacecoloralt=LIGHT["paper"])  # fmt: skip
    if _overhead_bound(point.measurement):
        axes.plot([x], [y], marker="x", markersize=size + 2, color=LIGHT["ink"], markeredgewidth=0.8, linestyle="none")


def _name_points(axes: Axes, study: Study, panel: Panel, covered: Sequence[Box]) -> None:
    """Name the representatives at their smallest and largest batch, each where its name covers nothing.

    Points of one batch that lie on one another (the same work at every T) share a name.
    """
    if panel.named is None:
        return
    length = panel.named.shape[2]
    fastest = _fastest(study, panel)
    own = [p for p in panel.points if p.length == length and p.measurement.key in fastest]
    batches = sorted({p.batch for p in own})
    wanted = {(p.side, p.steps) for p in panel.named.points}
    at = {p.measurement.key: sheet_points(axes, p.number("arithmetic_intensity"), achieved(p)) for p in panel.points}
    together: list[list[Point]] = []
    for point in own:
        if point.batch not in (batches[0], batches[-1]) or (point.side, point.steps) not in wanted:
            continue
        here = at[point.measurement.key]
        near = (g for g in together if g[0].batch == point.batch and g[0].side == point.side
                and math.dist(at[g[0].measurement.key], here) < _TOGETHER)  # fmt: skip
        group = next(near, None)
        if group is None:
            together.append([point])
        else:
            group.append(point)
    names = [
        (f"{_names(g)}, batch {g[0].batch}", g[0].number("arithmetic_intensity"), achieved(g[0]), _colour(g[0]))
        for g in together
    ]
    name_points(axes, names, [*covered, *(around(x, y, 5) for x, y in at.values())])


def _names(points: Sequence[Point]) -> str:
    """`AR`, `T = 8`, or `T = 64, 8`."""
    return "AR" if points[0].side == "ar" else f"T = {', '.join(str(p.steps) for p in points)}"


def _key(axes: Axes, points: Sequence[Point]) -> Box:
    """What the marks mean, in the corner above the slope, which no cell can reach; the box that it covers."""
    engines = dict.fromkeys(_engine_fill(p.measurement.cell.engine) for p in points)
    words = {"none": "eager", "left": "compiled", "full": "graph"}
    entries = [("s", LIGHT["ar"], "full", "AR"), ("o", LIGHT["diffusion"], "full", "diffusion")]
    if len(engines) > 1:
        entries += [("o", LIGHT["muted"], fill, words[fill]) for fill in words if fill in engines]
    if any(_overhead_bound(p.measurement) for p in points):
        entries.append(("x", LIGHT["ink"], "full", "overhead-bound"))
    height = axes.get_window_extent().height * 72 / axes.figure.dpi
    for index, (marker, colour, fill, name) in enumerate(entries):
        y = 1 - (8 + 13 * index) / height
        axes.plot([0.025], [y], transform=axes.transAxes, marker=marker, linestyle="none", markersize=6,
                  color=LIGHT["paper"] if fill == "none" else colour, markeredgecolor=colour, markeredgewidth=1.3,
                  fillstyle="left" if fill == "left" else "full", markerfacecoloralt=LIGHT["paper"])  # fmt: skip
        axes.annotate(name, (0.025, y), xycoords="axes fraction", xytext=(7, 0), textcoords="offset points",
                      va="center", fontsize=8.5, color=LIGHT["muted"])  # fmt: skip
    x, y = sheet_points(axes, axes.get_xlim()[0], axes.get_ylim()[1])
    return (x, y - 13 * len(entries) - 4, x + 100, y)


def _tick(x: float, unit: str) -> str:
    if unit == "1":
        return f"{x:g}"
    number, _, rest = format_number(x, unit).partition(" ")
    return f"{float(number.replace(',', '')):g} {rest.removesuffix('FLOP/s')}".strip()


def _fill_words(points: Sequence[Point]) -> str:
    names = {"none": "hollow", "left": "half filled", "full": "filled"}
    engines: dict[str, dict[str, None]] = {}
    for point in points:
        engine = point.measurement.cell.engine
        engines.setdefault(names[_engine_fill(engine)], {})[plain(engine)] = None
    told = "; ".join(f"{name}: {', '.join(found)}" for name, found in sorted(engines.items()))
    return f"Engines by fill: {told}. "


def _roofs(study: Study, panels: Sequence[Panel]) -> str:
    """What each line of the roof is, with the block that was read."""
    told = []
    for panel in panels:
        if panel.roof is None:
            continue
        block = "" if panel.roof.block_b is None else f" of a block of {format_number(panel.roof.block_b, 'B')}"
        told.append(
            f"{study.named(panel.pair, plain(panel.dtype))}: {format_number(panel.roof.flop_s, 'FLOP/s')} and "
            f"{format_number(panel.roof.byte_s, 'B/s')}{block}"
        )
    if not told:
        return "No calibration was recorded, so there is no roof. "
    text = (
        f"Roof: matrix product and read measured beside the pairings ({'; '.join(told)}), a block as large as the "
        "weights, so that a model that fits a cache is held to it. "
    )
    kinds = dict.fromkeys(kind for panel in panels for kind, _ in _other_roofs(study, panel))
    names = {"sustained": "dotted: what the device sustained at the sizes that suit it",
             "datasheet": "dashed: its maker's datasheet"}  # fmt: skip
    extra = "; ".join(names[kind] for kind in kinds)
    return f"{text}{extra[:1].upper()}{extra[1:]}. " if extra else text


def _share(point: Point, roof: Roof) -> str:
    return format_number(achieved(point) / roof.allowed(point.number("arithmetic_intensity")), "%")


def _sentence(study: Study, panel: Panel) -> str:
    """Where the representatives lie: their intensity, and how much of what the roof allows there they reach."""
    points = panel.named.points if panel.named is not None else panel.points[:2]
    told = []
    for point in points:
        words = f"{named_point(point)} does {format_number(point.number('arithmetic_intensity'), '1')} FLOP a byte"
        if panel.roof is not None:
            words += f" and reaches {_share(point, panel.roof)} of what the roof allows there"
        told.append(words)
    where = f"at L = {points[0].length}, batch {points[0].batch}, " if points else ""
    if panel.roof is None:
        return f"{where[:1].upper()}{where[1:]}{'; '.join(told)}."
    ridge = format_number(panel.roof.ridge, "1")
    return f"Below {ridge} FLOP a byte memory is the limit, above it arithmetic: {where}{'; '.join(told)}."


def _told(study: Study, panel: Panel) -> str:
    name = f"{shorten(plain(panel.pair), 40)}, {plain(panel.dtype)}"
    if panel.roof is None:
        head = f"{name}, no roof"
    else:
        head = (
            f"{name}, roof {format_number(panel.roof.flop_s, 'FLOP/s')}, {format_number(panel.roof.byte_s, 'B/s')}, "
            f"ridge {format_number(panel.roof.ridge, '1')} FLOP/B"
        )
    fastest = _fastest(study, panel)
    length = panel.named.shape[2] if panel.named is not None else panel.points[0].length
    points = [p for p in panel.points if p.measurement.key in fastest and p.length == length]
    told = ", ".join(
        f"{steps_label(p)} L = {p.length} batch {p.batch} at {format_number(p.number('arithmetic_intensity'), '1')} "
        f"FLOP/B {format_number(achieved(p), 'FLOP/s')}{' (overhead-bound)' if _overhead_bound(p.measurement) else ''}"
        for p in points
    )
    more = left_out(len(points), len(panel.points), "point").strip()
    return f"{head}: {told}{'. ' if more else ''}{more}"
