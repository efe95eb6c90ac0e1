"""The plainest comparison: seconds for one generation at the smallest length, AR and each number of steps."""

from __future__ import annotations

from pathlib import Path

from matplotlib.ticker import FuncFormatter, MaxNLocator

from .format import format_number, format_value
from .palette import LIGHT, side_colour
from .plotting import Figure, Sheet
from .study import Shape, Study, depth, left_out, seconds_tick, steps_label

NAME, TITLE = "wall_clock", "Wall clock"
MAX_PANELS = 8
_MARGINS = (88, 40, 130, 30)


def wall_clock_figure(study: Study, folder: Path) -> Figure:
    """Bars of latency with intervals, a panel for each pair and batch at the pair's smallest L."""
    found = _shapes(study)
    shapes = found[:MAX_PANELS]
    if not shapes:
        return Figure(NAME, TITLE, skipped="No cell of this run has a measured latency.")
    height = 74 + 30 * max(len(study.points(shape)) for shape in shapes)
    sheet = Sheet(len(shapes), 2, height)
    for index, shape in enumerate(shapes):
        _draw(sheet, index, study, shape)
    points = [point for shape in shapes for point in study.points(shape)]
    return Figure(
        NAME,
        f"{TITLE} at L = {shapes[0][2]}",
        sentence=study.told(shapes[0][0], _sentence(study, shapes[0])),
        caption=(
            "End-to-end latency of one generation of the whole batch, from the request on the device to the last "
            f"token on the host; shorter is faster. {left_out(len(shapes), len(found))}"
            f"{study.provenance(points, 'latency_s')}"
        ),
        svg=sheet.save(folder / f"{NAME}.png"),
        alt="; ".join(
            f"batch {p.batch}, {steps_label(p)}: {format_value('latency_s', v)}"
            for p in points
            if (v := p.value("latency_s"))
        ),
    )


def _shapes(study: Study) -> list[Shape]:
    shapes: list[Shape] = []
    for pair in study.pairs:
        of_pair = study.of_pair(pair)
        length = min(shape[2] for shape in of_pair)
        shapes += [shape for shape in of_pair if shape[2] == length]
    return shapes


def _draw(sheet: Sheet, index: int, study: Study, shape: Shape) -> None:
    axes = sheet.axes(index, _MARGINS)
    points = study.points(shape)
    for row, point in enumerate(points):
        value = point.value("latency_s")
        if value is None or value.value is None:
            continue
        colour = side_colour(point.side) if not point.steps else side_colour("diffusion", depth(point))
        axes.barh(row, value.value, height=0.66, color=colour)
        end = value.value
        if value.low is not None and value.high is not None:
            axes.plot([value.low, value.high], [row, row], color=LIGHT["ink"], linewidth=1.6, solid_capstyle="butt")
            end = max(end, value.high)
        axes.annotate(
            format_value("latency_s", value),
            (end, row),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            annotation_clip=False,
        )
    axes.set_yticks(range(len(points)), [steps_label(point) for point in points])
    axes.set_ylim(len(points) - 0.45, -0.55)
    axes.set_xlim(left=0)
    axes.tick_params(axis="y", length=0, labelcolor=LIGHT["ink"], labelsize=9.5)
    axes.spines["left"].set_visible(False)
    axes.grid(False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: seconds_tick(x)))
    axes.set_xlabel("latency")
    axes.set_title(study.named(shape[0], f"L = {shape[2]}, batch {shape[3]}"))


def _sentence(study: Study, shape: Shape) -> str:
    ar, diffusion = study.ar(shape), study.diffusion(shape)
    where = f"For {shape[2]} tokens at batch {shape[3]}"
    if not ar or not diffusion:
        return f"{where}, the time from the request to the last token."
    most, fewest = diffusion[0], diffusion[-1]
    text = (
        f"{where}, AR needs {format_number(ar.number('latency_s'), 's')}; diffusion needs "
        f"{format_number(most.number('latency_s'), 's')} with T = {most.steps}"
    )
    if fewest is most:
        return text + "."
    return f"{text} and {format_number(fewest.number('latency_s'), 's')} with T = {fewest.steps}."
