"""What a token costs in energy, AR against diffusion, and how much of it the idle device would draw anyway."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from .bars import no_frame
from .chosen import Chosen, absent, chosen, named_point, reasons
from .format import format_number, format_value
from .palette import LIGHT, side_colour
from .plotting import Figure, Sheet
from .study import Point, Study, depth, left_out, steps_label

NAME, TITLE = "energy", "What a token costs in energy"
ENERGY = "energy_per_token_j"
MAX_PANELS = 6
_MARGINS = (78, 44, 66, 30)


def energy_figure(study: Study, folder: Path) -> Figure:
    """A dot a cell on a log axis, a panel a shape, all panels on one scale."""
    found = chosen(study, lambda point: point.value(ENERGY) is not None)
    if not found:
        why = reasons([p for s in study.shapes[:1] for p in study.points(s)], [ENERGY]).partition(": ")[2]
        why = absent(study, "telemetry", f"{why[:1].upper()}{why[1:]}." if why else "")
        return Figure(NAME, TITLE, skipped=f"No cell of this run has its energy measured. {why}".strip())
    shown = found[:MAX_PANELS]
    points = [point for panel in shown for point in panel.points]
    xs = [x for p in points for x in (*_ends(p), idle_energy(p)) if x is not None and x > 0]
    limits = min(xs) / 1.4, max(xs) * 1.4
    rows = max(len(panel.points) for panel in shown)
    sheet = Sheet(len(shown), 2, height=86 + 32 * rows)
    for index, panel in enumerate(shown):
        _draw(sheet.axes(index, _MARGINS), study, panel, rows, limits)
    return Figure(
        NAME,
        TITLE,
        sentence=study.told(shown[0].shape[0], _sentence(shown[0])),
        caption=(
            "Energy of one generation over its output tokens, idle draw included, from replays back to back. "
            "Dot: measured (stroke: its interval). Bar at its left: what the device would draw in the same "
            "time with nothing running; none where idle power was not read. "
            f"{left_out(len(shown), len(found))}{study.provenance(points, ENERGY)}"
        ),
        svg=sheet.save(folder / f"{NAME}.png"),
        alt="; ".join(
            f"{panel.where}, {steps_label(p)}: {format_value(ENERGY, p.measurement.metrics[ENERGY])}{_idle_words(p)}"
            for panel in shown
            for p in panel.points
        ),
    )


def idle_energy(point: Point) -> float | None:
    """Joules a token that the idle device would draw in the time of this cell; None where a power is unknown."""
    idle, power = point.value("power_idle_w"), point.value("power_w")
    if idle is None or power is None or not idle.value or not power.value:
        return None
    return point.number(ENERGY) * min(1.0, idle.value / power.value)


def _ends(point: Point) -> tuple[float | None, ...]:
    value = point.measurement.metrics[ENERGY]
    return value.value, value.low, value.high


def _idle_words(point: Point) -> str:
    idle = idle_energy(point)
    return "" if idle is None else f", {100 * idle / point.number(ENERGY):.0f} % of it idle draw"


def _draw(axes: Axes, study: Study, panel: Chosen, rows: int, limits: tuple[float, float]) -> None:
    for row, point in enumerate(panel.points):
        colour = side_colour("ar") if point.side == "ar" else side_colour("diffusion", depth(point))
        x, (_, low, high) = point.number(ENERGY), _ends(point)
        idle = idle_energy(point)
        axes.plot(limits, (row, row), color=LIGHT["grid"], linewidth=0.8)
        if idle is not None:
            axes.plot([idle, x], [row, row], color=LIGHT["muted"], linewidth=1.2)
            axes.plot([idle], [row], marker="|", color=LIGHT["muted"], markersize=11, markeredgewidth=1.5)
            share = f"{100 * idle / x:.0f} % idle"
            axes.annotate(share, (1, row), xycoords=("axes fraction", "data"), xytext=(6, -6), color=LIGHT["muted"],
                          textcoords="offset points", va="center", fontsize=8.5, annotation_clip=False)  # fmt: skip
        if low is not None and high is not None and low > 0:
            axes.plot((low, high), (row, row), color=colour, linewidth=4, alpha=0.4)
        axes.plot([x], [row], marker="s" if point.side == "ar" else "o", color=colour, markersize=7, linestyle="none")
        lifted = 0 if idle is None else 6
        axes.annotate(format_number(x, "J"), (1, row), xycoords=("axes fraction", "data"), xytext=(6, lifted),
                      textcoords="offset points", va="center", fontsize=9.5, annotation_clip=False)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if limits[1] / limits[0] > 60 else (1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _tick(x)))
    axes.set_xlabel("energy per output token")
    axes.set_ylim(rows - 0.45, -0.55)
    axes.set_yticks(range(len(panel.points)), [steps_label(point) for point in panel.points])
    no_frame(axes)
    axes.set_title(study.named(panel.shape[0], panel.where))


def _tick(x: float) -> str:
    number, _, unit = format_number(x, "J").partition(" ")
    return f"{float(number.replace(',', '')):g} {unit}"


def _sentence(panel: Chosen) -> str:
    told = [f"under {named_point(p)} {format_number(p.number(ENERGY), 'J')}{_idle_words(p)}" for p in panel.points]
    return f"At {panel.where}, a token costs " + "; ".join(told) + "."
