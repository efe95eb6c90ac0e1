"""The first figure: what happens inside one generation. AR climbs a staircase; diffusion fills the canvas in steps.

Each row of a panel is a position of row 0, each bar starts when a token was written there and takes the colour of the
step that wrote it. A pale bar is a token that the algorithm could still change. Thin bars beneath are the forwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..profiles.record import Timeline
from .format import format_number
from .palette import LIGHT, side_colour
from .plotting import PANEL_HEIGHT, Figure, Sheet
from .study import Point, Shape, Study, left_out, seconds_tick, steps_label

NAME, TITLE = "timeline", "Inside one generation"
MAX_PAIRS = 4
_MAIN = (44, 74, 14, 30)
_STRIP = (44, 38, 14, PANEL_HEIGHT - 62)
_PHASE_COLOUR = {"prefill": "prefill", "encode": "prefill", "cache_refresh": "sampling", "draft": "sampling"}


@dataclass(frozen=True, slots=True)
class Written:
    """A token at `position` from `begin_s` (its commit) to `end_s` (its replacement, or the end)."""

    position: int
    begin_s: float
    end_s: float
    step: int
    final: bool


def written(timeline: Timeline) -> tuple[Written, ...]:
    """Every token of row 0 with the time it stood: one entry a commit and position, in order of position and time."""
    by_position: dict[int, list[tuple[float, int, bool]]] = {}
    for commit in timeline.commits:
        for position in commit.positions:
            by_position.setdefault(position, []).append((commit.at_s, commit.step, commit.final))
    spans = []
    for position, writes in sorted(by_position.items()):
        writes.sort()
        ends = [at for at, _, _ in writes[1:]] + [max(timeline.latency_s, writes[-1][0])]
        for (at, step, final), end in zip(writes, ends, strict=True):
            spans.append(Written(position, at, end, step, final))
    return tuple(spans)


def timeline_figure(study: Study, folder: Path) -> Figure:
    """AR beside diffusion at its most steps and near T = L/4, on one time axis, at each pair's smallest L and batch."""
    rows = list(_chosen(study))
    if not rows:
        return Figure(
            NAME,
            TITLE,
            skipped="No trial of this run recorded a timeline, so there are no commits and forwards to draw.",
        )
    panels = [(shape, point, timeline, end) for shape, picked, end in rows for point, timeline in picked]
    columns = max(len(picked) for _, picked, _ in rows)
    sheet = Sheet(len(panels), columns)
    for index, (shape, point, timeline, end) in enumerate(panels):
        main = sheet.axes(index, _MAIN)
        title = f"{steps_label(point)} · {format_number(timeline.latency_s, 's')}"
        main.set_title(study.named(shape[0], title), color=side_colour(point.side))
        draw_tokens(main, timeline, point.side, tail=0.025 * end)
        draw_forwards(sheet.axes(index, _STRIP, share=main), timeline, point.side, end)
    shape = rows[0][0]
    points = [point for _, point, _, _ in panels]
    return Figure(
        NAME,
        TITLE,
        sentence=study.told(shape[0], _sentence(rows[0][1], shape)),
        caption=(
            "Each bar starts when a token is written at that position and has the colour of the step that wrote it "
            "(light: early, deep: late); a pale bar can still change. Beneath: one block a forward, grey for the "
            "prefill. The panels of a pair share one time axis. The sample drawn is the one nearest the median "
            f"latency, row 0 of batch {_batches(rows)}. "
            f"{left_out(len(rows), len(study.pairs), 'pair')}{study.provenance(points, None)}"
        ),
        svg=sheet.save(folder / f"{NAME}.png"),
        alt="; ".join(
            f"{steps_label(point)}: {len(t.commits)} writes by {len(t.forwards)} forwards in "
            f"{format_number(t.latency_s, 's')}"
            for _, point, t, _ in panels
        ),
        columns=columns,
    )


def draw_tokens(axes: Axes, timeline: Timeline, side: str, tail: float = 0.0) -> None:
    """The staircase: one horizontal bar a written token, drawn `tail` past the end so that the last ones show."""
    spans = written(timeline)
    ends = [s.end_s + (tail if s.end_s >= timeline.latency_s else 0.0) for s in spans]
    last = max((span.step for span in spans), default=0) or 1
    boxes = [_box(s.begin_s, end, s.position - 0.5, s.position + 0.5) for s, end in zip(spans, ends, strict=True)]
    thin = timeline.length > 64
    for final in (True, False):
        chosen = [i for i, span in enumerate(spans) if span.final is final]
        axes.add_collection(
            PolyCollection(
                [boxes[i] for i in chosen],
                facecolors=[side_colour(side, spans[i].step / last) for i in chosen],
                edgecolors="none" if thin else LIGHT["paper"],
                linewidths=0.0 if thin else 0.7,
                alpha=None if final else 0.35,
            )
        )
    axes.set_ylim(timeline.length - 0.5, -0.5)  # position 0 on top, as text is read
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_ylabel("position")
    axes.grid(False)
    axes.tick_params(labelbottom=False, bottom=False)
    axes.spines["bottom"].set_visible(False)


def draw_forwards(axes: Axes, timeline: Timeline, side: str, end: float) -> None:
    """The strip beneath: one block a forward."""
    gap = 0.0012 * end  # so that neighbours stay countable
    axes.add_collection(
        PolyCollection(
            [_box(f.begin_s, max(f.end_s - gap, f.begin_s), 0.1, 0.9) for f in timeline.forwards],
            facecolors=[LIGHT[_PHASE_COLOUR.get(f.phase, side)] for f in timeline.forwards],
            edgecolors="none",
        )
    )
    axes.set_ylim(0, 1)
    axes.set_xlim(0, end * 1.03)
    axes.set_yticks([])
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: seconds_tick(x)))
    axes.set_xlabel(f"time since the request · {len(timeline.forwards)} forwards")


def _box(left: float, right: float, bottom: float, top: float) -> list[tuple[float, float]]:
    return [(left, bottom), (right, bottom), (right, top), (left, top)]


def _chosen(study: Study) -> Iterator[tuple[Shape, list[tuple[Point, Timeline]], float]]:
    """For each pair: its smallest shape that has timelines, the points drawn and the end of their common time axis."""
    for pair in study.pairs[:MAX_PAIRS]:
        for shape in sorted(study.of_pair(pair), key=lambda s: (s[2], s[3])):
            found = [(p, t) for p in study.points(shape) if (t := _timeline(study, p)) and t.commits]
            if not found:
                continue
            diffusion = [entry for entry in found if entry[0].steps]
            quarter = sorted(diffusion[1:], key=lambda entry: abs(math.log(4 * entry[0].steps / shape[2])))
            picked = [entry for entry in found if not entry[0].steps] + diffusion[:1] + quarter[:1]
            yield shape, picked, max(t.latency_s for _, t in picked)
            break


def _timeline(study: Study, point: Point) -> Timeline | None:
    return next((trial.timeline for trial in study.trials(point) if trial.timeline), None)


def _sentence(picked: list[tuple[Point, Timeline]], shape: Shape) -> str:
    ar = next((t for p, t in picked if not p.steps), None)
    diffusion = next(((p, t) for p, t in reversed(picked) if p.steps), None)
    if ar and diffusion:
        point, timeline = diffusion
        return (
            f"To write {shape[2]} tokens, AR runs the network {_times(len(ar.forwards))} and adds one token at a time "
            f"({format_number(ar.latency_s, 's')}); diffusion with T = {point.steps} runs it "
            f"{_times(len(timeline.forwards))} and can write several tokens at once "
            f"({format_number(timeline.latency_s, 's')})."
        )
    return f"How one generation of {shape[2]} tokens fills its positions over time."


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _batches(rows: list[tuple[Shape, list[tuple[Point, Timeline]], float]]) -> str:
    return " or ".join(sorted({str(shape[3]) for shape, _, _ in rows}))
