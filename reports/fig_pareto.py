"""What speed costs: throughput against the share of valid texts, AR and diffusion at every T on one picture.

A panel holds one shape. Quality is that of texts written on the very settings that were timed. A setting that another
beats at both is hollow; the line joins those that none beats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from ..profiles.quality import Placed, pareto_front
from ..profiles.quality import Point as Scored
from .format import format_number, format_value
from .palette import LIGHT, side_colour
from .plain import plain
from .plotting import Figure, Sheet
from .study import Point, Shape, Study, depth, left_out, rate_tick, steps_label

NAME, TITLE = "pareto", "What speed costs: throughput against valid texts"
SPEED, QUALITY = "throughput_tok_s", "quality.validity"
MAX_PANELS = 6
CROWDED = 6  # points in a panel, beyond which only those on the front are named
_MARGINS = (50, 44, 24, 30)
_REMASKING = {"low_confidence": "conf.", "random": "random"}


@dataclass(frozen=True, slots=True)
class Panel:
    """One shape: its judged points, each with its place."""

    title: str
    names: tuple[str, ...]
    points: tuple[Point, ...]
    placed: tuple[Placed, ...]

    @property
    def front(self) -> list[Point]:
        """The points that none beats, slowest first."""
        kept = [point for point, placed in zip(self.points, self.placed, strict=True) if placed.on_front]
        return sorted(kept, key=lambda point: point.number(SPEED))


def pareto_figure(study: Study, folder: Path) -> Figure:
    """Throughput and validity of every judged setting, a panel a shape."""
    panels = [panel for shape in study.shapes if (panel := _panel(study, shape)) is not None]
    if not panels:
        return Figure(
            NAME,
            TITLE,
            skipped="No texts were judged: that needs weights trained on the embedded source (`dlmbench train`).",
        )
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
            "A text is valid if the grammar that the models were trained on can write it; the texts were written on "
            "the settings that were timed, outside the timed samples. Up and to the right is better. Filled: no other "
            "setting is both faster and more often valid; strokes are intervals, of validity over texts. Validity "
            "alone rewards a low temperature: the distances from the source are in the table"
            f"{_starred(shown)}. "
            f"{left_out(len(shown), len(panels))}{study.provenance(points, SPEED)}"
        ),
        svg=sheet.save(folder / f"{NAME}.png"),
        alt="; ".join(f"{panel.title}: " + ", ".join(map(_told, panel.names, panel.points)) for panel in shown),
    )


def _panel(study: Study, shape: Shape) -> Panel | None:
    points = tuple(p for p in study.judged(shape) if p.value(SPEED))
    if not points:
        return None
    marks = [" *" if p.measurement.key in study.flattered else "" for p in points]
    names = tuple(map(str.__add__, _names(points), marks))
    scored = [
        Scored(name, "ar" if p.side == "ar" else "diffusion", p.measurement.metrics[SPEED],
               p.measurement.metrics[QUALITY])
        for name, p in zip(names, points, strict=True)
    ]  # fmt: skip
    title = study.named(shape[0], f"valid texts, prompt {shape[1]}, L = {shape[2]}, batch {shape[3]}")
    return Panel(title, names, points, pareto_front(scored, higher_is_better=True))


def _name(point: Point) -> str:
    """`T = 8`, without its share of L, which a crowded panel has no room for."""
    return steps_label(point).partition(" = L")[0]


def _names(points: Sequence[Point]) -> tuple[str, ...]:
    """A name each: T, and what else tells it from the others of its side."""
    described = [
        {
            "generator": "" if p.own else plain(p.measurement.cell.generator),
            "cache": p.measurement.cell.cache or "",
            "remasking": _REMASKING[p.measurement.cell.decode.remasking],
            "temperature": f"temp {p.measurement.cell.decode.temperature:g}",
        }
        for p in points
    ]
    names = []
    for point, own in zip(points, described, strict=True):
        rivals = [other for p, other in zip(points, described, strict=True) if p.side == point.side]
        parts = [text for axis, text in own.items() if text and len({other[axis] for other in rivals}) > 1]
        names.append(" ".join([_name(point), *parts]))
    return tuple(names)


def _starred(panels: Sequence[Panel]) -> str:
    """What an asterisk means, where there is one."""
    if not any(name.endswith("*") for panel in panels for name in panel.names):
        return ""
    return ", and * marks texts whose words have collapsed as at one"


def _told(name: str, point: Point) -> str:
    rate, share = (format_value(metric, point.measurement.metrics[metric]) for metric in (SPEED, QUALITY))
    return f"{name} {rate}, valid {share}"


def _sentence(panel: Panel) -> str:
    """AR, and the slowest and the fastest diffusion setting: their speed and how often their texts are valid."""
    named = list(zip(panel.names, panel.points, strict=True))
    ar = [(name, point) for name, point in named if point.side == "ar"]
    diffusion = sorted(((n, p) for n, p in named if p.side != "ar"), key=lambda each: each[1].number(SPEED))
    chosen = ar[:1] + diffusion[:1] + diffusion[1:][-1:]
    told = (
        f"{'diffusion at ' if p.side != 'ar' else ''}{name} writes {format_number(p.number(SPEED), 'tok/s')}, "
        f"{format_number(p.number(QUALITY), '%')} of its texts valid"
        for name, p in chosen
    )
    text = "; ".join(told)
    return f"{text[:1].upper()}{text[1:]}."


def _draw(axes: Axes, panel: Panel) -> None:
    xs = [x for p in panel.points for v in [p.measurement.metrics[SPEED]] for x in (v.value, v.low, v.high) if x]
    axes.set_xscale("log")
    axes.set_xlim(min(xs) / 1.3, max(xs) * 1.6)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: rate_tick(x)))
    axes.set_xlabel("tok/s, faster to the right")
    axes.set_ylim(-0.04, 1.06)
    axes.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f} %"))
    front = panel.front
    axes.plot([p.number(SPEED) for p in front], [p.number(QUALITY) for p in front], color=LIGHT["muted"], linewidth=1)
    crowded = len(panel.points) > CROWDED
    for name, point, placed in zip(panel.names, panel.points, panel.placed, strict=True):
        colour = side_colour("ar") if point.side == "ar" else side_colour("diffusion", depth(point))
        x, y = point.number(SPEED), point.number(QUALITY)
        for metric, line in ((QUALITY, axes.vlines), (SPEED, axes.hlines)):
            value = point.measurement.metrics[metric]
            if value.low is not None and value.high is not None:
                line(x if metric == QUALITY else y, value.low, value.high, color=colour, linewidth=3, alpha=0.35)
        marker = "s" if point.side == "ar" else "o"
        filled = colour if placed.on_front else LIGHT["paper"]
        axes.plot([x], [y], marker=marker, color=colour, markerfacecolor=filled, linestyle="none", markersize=6)
        if crowded and not placed.on_front and point.side != "ar":
            continue  # its numbers are in the table
        axes.annotate(
            name, (x, y), xytext=(6, 5), textcoords="offset points", color=colour, fontsize=9,
            annotation_clip=False,
        )  # fmt: skip
    axes.set_title(panel.title, color=LIGHT["ink"])
