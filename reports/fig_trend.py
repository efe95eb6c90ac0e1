"""The trend, a panel a cell: what each run measured, the levels found, and where the conditions changed.

Runs stand side by side in their order, not to scale in time: runs come in bursts, and a step is a matter of order.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..profiles.metrics import METRICS
from .format import cell_label, format_number, metric_header, percent, shown_unit
from .palette import LIGHT, side_colour
from .plain import plain
from .plotting import Figure, Sheet, style
from .study import left_out
from .trend import ABSENT, Group, Series, Trend

MAX_PANELS = 24
_MARGINS = (66, 40, 20, 44)
_DATES = 4
_TITLE = 52  # characters of a panel's width


def trend_figure(trend: Trend, group: Group, folder: Path, name: str) -> Figure:
    """A panel for each cell of the group, those with steps first; writes `folder`/`name`.png."""
    found = sorted((s for s in group.series if s.points), key=lambda series: -len(series.shifts))
    title = f"{metric_header(trend.metric)} over the runs"
    if not found:
        return Figure(name, title, skipped=f"No cell has a valid {metric_header(trend.metric)}.")
    with style():
        sheet = Sheet(len(found[:MAX_PANELS]), 2)
        for index, series in enumerate(found[:MAX_PANELS]):
            _draw(sheet.axes(index, _MARGINS), trend, group, series)
        svg = sheet.save(folder / f"{name}.png")
    formula = METRICS[trend.metric.partition("[")[0]].formula
    return Figure(
        name,
        title,
        caption=(
            "Dots: each run as measured, with its interval; thick lines: the levels found. Rings and thin lines: "
            "normalised by the calibration beside each run. Dotted upright lines: a run that was not measured under "
            "the conditions of the one before; a cross: it has no valid result of the cell. "
            f"{metric_header(trend.metric)}: {formula}. {left_out(min(len(found), MAX_PANELS), len(found))}"
        ),
        svg=svg,
        alt="; ".join(f"{cell_label(s.cell)}: {len(s.shifts)} steps" for s in found[:MAX_PANELS]),
    )


def _draw(axes: Axes, trend: Trend, group: Group, series: Series) -> None:
    colour = side_colour(series.cell.side)
    size = 4.5 if len(group.runs) <= 40 else 2.5
    for moved in group.moved:
        axes.axvline(moved.run - 0.5, color=LIGHT["muted"], linewidth=0.8, linestyle=(0, (1, 2)))
    _draw_normalised(axes, series, size)
    for point in series.points:
        low, high = point.value.low, point.value.high
        if low is not None and high is not None:
            axes.plot([point.run, point.run], [low, high], color=colour, linewidth=0.9, alpha=0.6)
    runs = [point.run for point in series.points]
    values = [point.value.value for point in series.points if point.value.value is not None]
    axes.plot(runs, values, "o", color=colour, markersize=size, zorder=3)
    for level in series.fit.levels:
        ends = [runs[level.begin] - 0.4, runs[level.end - 1] + 0.4]
        axes.plot(ends, [level.value] * 2, color=LIGHT["ink"], linewidth=1.8, zorder=2.5, solid_capstyle="butt")
    failed = [gap.run for gap in series.gaps if gap.why != ABSENT]
    bottom = axes.get_xaxis_transform()
    axes.plot(failed, [0.02] * len(failed), "x", color=LIGHT["muted"], transform=bottom, clip_on=False)
    _name_steps(axes, series, len(group.runs))
    name = textwrap.wrap(f"{plain(series.cell.pair)}: {cell_label(series.cell)}", _TITLE, max_lines=2, placeholder=" …")
    axes.set_title("\n".join(name), fontsize=9)
    axes.margins(y=0.18)
    axes.set_xlim(-0.7, len(group.runs) - 0.3)
    axes.set_xticks(*_dates(group))
    unit = shown_unit(trend.metric)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: format_number(y, unit)))
    axes.grid(False, axis="x")


def _draw_normalised(axes: Axes, series: Series, size: float) -> None:
    fit = series.normalised_fit
    if fit is None:
        return
    runs = [point.run for point in series.points]
    values = [point.normalised for point in series.points if point.normalised is not None]
    ring: dict[str, Any] = {"color": LIGHT["muted"], "fillstyle": "none", "markeredgewidth": 0.7, "zorder": 1}
    axes.plot(runs, values, "o", markersize=size, **ring)
    for level in fit.levels:
        ends = [runs[level.begin] - 0.4, runs[level.end - 1] + 0.4]
        axes.plot(ends, [level.value] * 2, color=LIGHT["muted"], linewidth=1.0, zorder=2)


def _name_steps(axes: Axes, series: Series, runs: int) -> None:
    """The size of each step beside its place: above as measured, below it one that only the normalised series has."""
    for shift in series.shifts:
        hidden = shift.seen == "normalised"
        left = shift.run > 0.75 * runs
        axes.annotate(
            f"{percent(shift.change)} %{' normalised' if hidden else ''}",
            (shift.run - 0.5, 0.86 if hidden else 0.94),
            xycoords=axes.get_xaxis_transform(),
            xytext=(-4 if left else 4, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            fontsize=8.5,
            color=LIGHT["muted" if hidden else "ink"],
        )


def _dates(group: Group) -> tuple[list[int], list[str]]:
    """A few runs, the first and the last among them, by their dates; by their times where all are of one day."""
    last = len(group.runs) - 1
    count = min(_DATES, last + 1)
    places = sorted({round(i * last / max(1, count - 1)) for i in range(count)})
    days = {run.created.date() for run in group.runs}
    pattern = "%H:%M" if len(days) == 1 else "%Y-%m-%d"
    return places, [group.runs[place].created.strftime(pattern) for place in places]
