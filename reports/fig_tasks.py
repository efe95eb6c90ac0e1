"""What drawing tokens independently costs a model that is never wrong: right answers against tokens drawn at a step.

A panel holds the tasks of one length. Lines are closed forms, points what the project's own sampler reached: a point
off its line by more than chance is an error of the sampler, as there is no model here that could err.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from ..profiles.studies import TaskCurve, TaskPoint
from .format import format_number, format_value, interval_sentence
from .palette import LIGHT, side_colour
from .plain import plain
from .plotting import Figure, Sheet, log_values, name_line_ends
from .study import Study, left_out, shorten

NAME, TITLE = "tasks", "Why parallel draws go wrong: tasks with known answers"
SHARE = "quality.validity"  # the metric that lends the points its unit, per cent
MAX_PANELS, MAX_LINES = 4, 6
_MARGINS = (50, 40, 106, 30)


@dataclass(frozen=True, slots=True)
class Panel:
    """The measured curves of one length."""

    length: int
    curves: tuple[TaskCurve, ...]


def tasks_figure(study: Study, folder: Path) -> Figure:
    """Share of right answers over tokens a step, measured and by closed form, a panel a length."""
    curves = next((entry.tasks for entry in study.stored.studies.values() if entry.tasks), ())
    measured = [curve for curve in curves if measured_points(curve)]
    if not measured:
        return Figure(NAME, TITLE, skipped="No task with a closed form was measured; `dlmbench run lesson` does it.")
    lengths = list(dict.fromkeys(curve.length for curve in measured))
    panels = [Panel(length, tuple(c for c in measured if c.length == length)[:MAX_LINES]) for length in lengths]
    shown = panels[:MAX_PANELS]
    sheet = Sheet(len(shown), 2)
    for index, panel in enumerate(shown):
        _draw(sheet.axes(index, _MARGINS), panel)
    drawn = [curve for panel in shown for curve in panel.curves]
    return Figure(
        NAME,
        TITLE,
        sentence=_sentence(drawn),
        caption=_caption(drawn, len(measured)),
        svg=sheet.save(folder / f"{NAME}.png"),
        alt="; ".join(_told(curve) for curve in drawn),
    )


def measured_points(curve: TaskCurve) -> list[TaskPoint]:
    """The points that have a measured value, most steps first."""
    return sorted((p for p in curve.points if p.measured.value is not None), key=lambda p: -p.steps)


def within(curves: list[TaskCurve]) -> tuple[int, int]:
    """How many closed forms lie inside the measured intervals, of how many that could miss: none at 0 % or 100 %."""
    tested = [
        p.measured.low <= p.closed_form <= p.measured.high
        for curve in curves
        for p in measured_points(curve)
        if p.closed_form is not None and p.measured.low is not None and p.measured.high is not None
        and 1e-9 < p.closed_form < 1 - 1e-9
    ]  # fmt: skip
    return sum(tested), len(tested)


def _caption(drawn: list[TaskCurve], measured: int) -> str:
    values = [p.measured for curve in drawn for p in measured_points(curve)]
    tasks = "; ".join(f"{_name(curve)}: {plain(curve.description)}" for curve in drawn)
    sources: dict[str, list[str]] = {}
    for curve in drawn:
        sources.setdefault(plain(curve.source), []).append(_name(curve))
    forms = "; ".join(f"{' and '.join(names)}: {source}" for source, names in sources.items())
    samplers = " or ".join(sorted({plain(curve.sampler) for curve in drawn}))
    answers = " or ".join(f"{n:,}" for n in sorted({value.n for value in values}))
    inside, of = within(drawn)
    agree = f"The closed form lies inside the interval at {inside} of the {of} points where it is not 0 or 100 %. "
    return (
        "In place of a network stands the exact probability of every token at each position, given what is written: "
        "the sampler is tested here, not a model. Lines are closed forms, points measured, with intervals as strokes. "
        f"{agree if of else ''}"
        f"Tasks, after ParallelBench (Kang et al. 2025, arXiv 2510.04767): {tasks}. "
        f"Closed forms, derived in dlmbench.models.tasks: {forms}. "
        f"{left_out(len(drawn), measured, 'task')}"
        f"Sampler {samplers}; n = {answers} answers a point. {interval_sentence(values, 'answers')}"
    )


def _sentence(drawn: list[TaskCurve]) -> str:
    """The task that suffers most, from the fewest tokens a step to the most, and the one that suffers least."""
    worst, best = min(drawn, key=_fall), max(drawn, key=_fall)
    points = measured_points(worst)
    first, *rest = dict.fromkeys(points[:2] + points[-1:])
    told = [f"{_percent(first)} of the time at {_tokens(worst, first)}"]
    told += [f"{_percent(point)} at {_per_step(worst, point):.3g}" for point in rest]
    text = f"Even with perfect predictions {_name(worst)} comes out right {', '.join(told)}"
    if best is not worst:
        last = measured_points(best)[-1]
        text += f"; {_name(best)} {_percent(last)} at {_per_step(best, last):.3g}"
    return f"{text}. Tokens that depend on each other cannot be drawn in one step unharmed."


def _fall(curve: TaskCurve) -> float:
    """The last measured share over the first."""
    points = measured_points(curve)
    first, last = points[0].measured.value or 0.0, points[-1].measured.value or 0.0
    return last / first if first else 1.0


def _told(curve: TaskCurve) -> str:
    points = (
        f"{_tokens(curve, p)} {format_value(SHARE, p.measured)}"
        + (f", closed form {format_number(p.closed_form, '%')}" if p.closed_form is not None else "")
        for p in measured_points(curve)
    )
    return f"{_name(curve)}, n = {curve.length}: {'; '.join(points)}"


def _tokens(curve: TaskCurve, point: TaskPoint) -> str:
    tokens = _per_step(curve, point)
    return f"{tokens:.3g} token{'' if tokens == 1 else 's'} a step"


def _per_step(curve: TaskCurve, point: TaskPoint) -> float:
    return curve.length / point.steps


def _percent(point: TaskPoint) -> str:
    return f"{100 * (point.measured.value or 0.0):.3g} %"


def _name(curve: TaskCurve) -> str:
    return shorten(plain(curve.task), 18)


def _draw(axes: Axes, panel: Panel) -> None:
    ticks = [_per_step(curve, p) for curve in panel.curves for p in measured_points(curve)]
    log_values(axes, "x", ticks, f"tokens drawn at a step, up to all {panel.length}")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.3g}"))
    axes.set_ylim(-0.04, 1.06)
    axes.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f} %"))
    ends = []
    for index, curve in enumerate(panel.curves):
        points = measured_points(curve)
        colour = side_colour("diffusion", index / max(len(panel.curves) - 1, 1))
        form = [(_per_step(curve, p), p.closed_form) for p in points if p.closed_form is not None]
        if form:
            axes.plot(*zip(*form, strict=True), color=colour, linewidth=1.2)
        xs, ys = [_per_step(curve, p) for p in points], [p.measured.value or 0.0 for p in points]
        strokes = [(x, p.measured.low, p.measured.high) for x, p in zip(xs, points, strict=True)
                   if p.measured.low is not None and p.measured.high is not None]  # fmt: skip
        if strokes:
            axes.vlines(*zip(*strokes, strict=True), color=colour, linewidth=5, alpha=0.35)
        axes.plot(xs, ys, linestyle="none", marker="o", color=colour, markersize=3)
        ends.append((xs[-1], ys[-1], _name(curve), colour))
    name_line_ends(axes, ends)
    axes.set_title(f"right answers, n = {panel.length} tokens to write", color=LIGHT["ink"])
