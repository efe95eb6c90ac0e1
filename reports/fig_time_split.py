"""Where the time goes: prefill, forward, sampling and idle as shares of each cell's latency. They add up to it."""

from __future__ import annotations

import statistics
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from .format import format_number
from .palette import LIGHT
from .plotting import Figure, Sheet
from .study import Point, Shape, Study, left_out, spread, steps_label

NAME, TITLE = "time_split", "Where the time goes"
PARTS = ("prefill", "forward", "sampling", "idle")
MAX_PANELS = 12
_MARGINS = (88, 44, 60, 30)
_LABELLED = 0.09  # a narrower share has no room for its number


def time_split_figure(study: Study, folder: Path) -> Figure:
    """Stacked bars for up to three lengths of each pair, at the smallest and the largest batch."""
    split = {shape: [(p, s) for p in study.points(shape) if (s := shares(study, p))] for shape in _shapes(study)}
    drawable = [shape for shape, found in split.items() if found]
    shapes = drawable[:MAX_PANELS]
    if not shapes:
        return Figure(NAME, TITLE, skipped="No cell of this run recorded the parts of its latency.")
    columns = min(3, len(shapes))
    rows = max(len(split[shape]) for shape in shapes)
    sheet = Sheet(len(shapes), columns, height=78 + 28 * rows)
    for index, shape in enumerate(shapes):
        _draw(
            sheet.axes(index, _MARGINS), study.named(shape[0], f"L = {shape[2]}, batch {shape[3]}"), split[shape], rows
        )
    points = [p for shape in shapes for p, _ in split[shape]]
    return Figure(
        NAME,
        TITLE,
        sentence=_sentence([entry for shape in shapes for entry in split[shape]]),
        caption=(
            "Shares of one generation's latency on the device clock, mean over the samples: the prompt's prefill, "
            "all other forwards, choosing tokens (sampling), and waiting for the host (idle). The number at the right "
            f"is the latency. {left_out(len(shapes), len(drawable))}{study.provenance(points, None)}"
        ),
        svg=sheet.save(folder / f"{NAME}.png"),
        alt="; ".join(
            f"L = {p.length}, batch {p.batch}, {steps_label(p)}: "
            + ", ".join(f"{part} {percent(share)}" for part, share in zip(PARTS, found, strict=True))
            for shape in shapes
            for p, found in split[shape]
        ),
        columns=columns,
    )


def shares(study: Study, point: Point) -> tuple[float, ...]:
    """The mean share of each part over the counted samples; each sample's add up to 1, so the means do. Or ()."""
    samples = [s for trial in study.trials(point) for s in trial.counted() if s.latency_s > 0]
    if samples:
        return tuple(statistics.fmean(getattr(s, f"{part}_s") / s.latency_s for s in samples) for part in PARTS)
    values = [point.value(f"{part}_s") for part in PARTS]
    numbers = [v.value for v in values if v is not None and v.value is not None]
    total = sum(numbers)
    return tuple(x / total for x in numbers) if len(numbers) == len(PARTS) and total > 0 else ()


def percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def _shapes(study: Study) -> list[Shape]:
    chosen: list[Shape] = []
    for pair in study.pairs:
        shapes = study.of_pair(pair)
        lengths, batches = spread([s[2] for s in shapes], 3), spread([s[3] for s in shapes], 2)
        chosen += sorted((s for s in shapes if s[2] in lengths and s[3] in batches), key=lambda s: (s[3], s[2]))
    return chosen


def _draw(axes: Axes, title: str, entries: list[tuple[Point, tuple[float, ...]]], most: int) -> None:
    rows = range(len(entries))
    left = [0.0] * len(entries)
    for which, part in enumerate(PARTS):
        widths = [found[which] for _, found in entries]
        axes.barh(rows, widths, left=left, height=0.66, color=LIGHT[part], edgecolor=LIGHT["paper"], linewidth=0.6)
        for row, (start, width) in enumerate(zip(left, widths, strict=True)):
            if width >= _LABELLED:
                ink = LIGHT["paper"] if part == "forward" else LIGHT["ink"]
                axes.text(start + width / 2, row, percent(width), ha="center", va="center", fontsize=8.5, color=ink)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for row, (point, _) in enumerate(entries):
        axes.text(1.02, row, format_number(point.number("latency_s"), "s"), va="center", fontsize=9)
    axes.set_xlim(0, 1)
    axes.set_ylim(most - 0.45, -0.55)  # bars of one thickness in every panel
    axes.set_yticks(rows, [steps_label(point) for point, _ in entries])
    axes.tick_params(axis="y", length=0, labelcolor=LIGHT["ink"], labelsize=9.5)
    axes.xaxis.set_major_locator(FixedLocator([0, 0.5, 1]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: percent(x)))
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.set_title(title)
    for which, part in enumerate(PARTS):
        at = (-0.2 + 0.3 * which, 0)
        for text, offset, colour in (("■", 0, LIGHT[part]), (part, 11, LIGHT["muted"])):
            axes.annotate(text, at, xycoords="axes fraction", xytext=(offset, -36), textcoords="offset points",
                          fontsize=9, color=colour, annotation_clip=False)  # fmt: skip


def _sentence(entries: list[tuple[Point, tuple[float, ...]]]) -> str:
    busy = [found[0] + found[1] for _, found in entries]
    return (
        f"Only the forwards are the model at work: here they take {percent(min(busy))} to {percent(max(busy))} of the "
        "time. The rest is choosing tokens and waiting for the host."
    )
