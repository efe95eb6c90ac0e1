"""A load's figures: what a server gives against what each user gets, how soon k tokens stand, and typical replies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..profiles.serving.record import Level, LoadRun, RequestRecord
from ..profiles.serving.store import StoredLoad
from .format import format_number
from .load_rows import curve_of, drawable, endpoint_name, level_name, picked, shown
from .palette import side_colour
from .plotting import Figure, Sheet, log_quantity, log_values, name_line_ends, style
from .study import seconds_tick

_MARGINS = (56, 40, 70, 30)
_NAMES = ("load_tradeoff", "load_time_to_k", "load_timeline")


def write_load_figures(stored: StoredLoad, folder: Path) -> list[Figure]:
    """Draw all figures as PNGs in `folder`; a figure that has nothing to show says why."""
    with style():
        return [
            tradeoff_figure(stored.run, folder),
            time_to_k_figure(stored.run, folder),
            timeline_figure(stored, folder),
        ]


def colour_of(run: LoadRun, endpoint: int, depth: float = 0.75) -> str:
    """AR warm, diffusion cool; a server of no known side like diffusion if it is the second, else like AR."""
    side = run.endpoints[endpoint].side or ("diffusion" if endpoint else "ar")
    return side_colour(side, depth)


def tradeoff_figure(run: LoadRun, folder: Path) -> Figure:
    """Throughput of the server against tokens a second of one user, a point a level."""
    title = "What the server gives and what a user gets"
    x, y = "serving.tok_s_user[p50]", "serving.throughput_tok_s"
    levels = [level for level in run.levels if _number(level, x) and _number(level, y)]
    if not levels:
        return Figure(_NAMES[0], title, skipped="No level has both rates: tokens were not counted, or nothing came.")
    sheet = Sheet(1, 1)
    axes = sheet.axes(0, _MARGINS)
    xs, ys = [_number(level, x) for level in levels], [_number(level, y) for level in levels]
    for endpoint in range(len(run.endpoints)):
        own = [level for level in levels if level.endpoint == endpoint]
        points = [(_number(level, x), _number(level, y)) for level in own]
        colour = colour_of(run, endpoint)
        axes.plot([p for p, _ in points], [q for _, q in points], color=colour, marker="o")
        for level, (a, b) in zip(own, points, strict=True):
            _error(axes, level, x, y, colour)
            axes.annotate(
                f"{level.load.value:g}", (a, b), textcoords="offset points", xytext=(4, 4), fontsize=8, color=colour
            )
        if own:
            name = endpoint_name(run, endpoint)
            axes.annotate(name, points[-1], textcoords="offset points", xytext=(6, -10), fontsize=9, color=colour)
    log_quantity(axes, min(ys), max(ys), lambda v: format_number(v, "tok/s").removesuffix(" tok/s"))
    _log_x(axes, xs)
    axes.set_xlabel("tok/s of one user (median)")
    axes.set_title("throughput, tok/s")
    svg = sheet.save(folder / f"{_NAMES[0]}.png")
    kind = "open requests" if levels[0].load.kind == "closed" else "requests a second"
    return Figure(
        _NAMES[0],
        title,
        sentence="Up and to the right is better: more for all, or more for each.",
        caption=f"A point a level, its number the {kind}; bars are the intervals of the table.",
        svg=svg,
        alt="; ".join(f"{level_name(run, level)}: {shown(y, level.metrics[y])}" for level in levels),
        columns=1,
    )


def time_to_k_figure(run: LoadRun, folder: Path) -> Figure:
    """How soon the first k tokens stand for good."""
    title = "Time to the first k tokens"
    curves = [(level, found) for level in picked(run) if (found := curve_of(level))]
    if not curves:
        return Figure(_NAMES[1], title, skipped="Tokens were not counted: name a --tokenizer.")
    sheet = Sheet(1, 1)
    axes = sheet.axes(0, (50, 40, 110, 30))
    times = [v for _, curve in curves for _, value in curve for v in (value.value, value.low, value.high) if v]
    log_quantity(axes, min(times), max(times), seconds_tick)
    log_values(axes, "x", [k for _, curve in curves for k, _ in curve], "k (tokens from the start)")
    ends = []
    loads = [level.load for level, _ in curves]
    for level, curve in curves:
        depth = (loads.index(level.load) + 1) / (len(set(loads)) + 1)
        colour = colour_of(run, level.endpoint, depth)
        ks, ys = [k for k, _ in curve], [value.value or float("nan") for _, value in curve]
        axes.plot(ks, ys, color=colour, marker="o", markersize=3)
        if all(value.low is not None and value.high is not None for _, value in curve):
            lows, highs = [v.low or 0 for _, v in curve], [v.high or 0 for _, v in curve]
            axes.fill_between(ks, lows, highs, color=colour, alpha=0.2, linewidth=0)
        ends.append((float(ks[-1]), ys[-1], level_name(run, level), colour))
    axes.set_title("median over requests")
    name_line_ends(axes, ends)
    return Figure(
        _NAMES[1],
        title,
        sentence="How long a reader waits for k tokens that no later chunk changes: a curve for tokens, blocks and "
        "revisions alike.",
        caption="Medians over requests; the band is the interval of the table, where there is one.",
        svg=sheet.save(folder / f"{_NAMES[1]}.png"),
        alt="; ".join(
            f"{level_name(run, level)}: k = {k} after {shown('serving.time_to_k_s', value)}"
            for level, curve in curves
            for k, value in (curve[0], curve[-1])
        ),
        columns=1,
    )


def timeline_figure(stored: StoredLoad, folder: Path) -> Figure:
    """The reply whose latency is the level's median: final tokens over time."""
    run, title = stored.run, "A typical reply"
    replies = [(level, reply) for level in picked(run, 4) if (reply := _typical(stored, level)) is not None]
    if not replies:
        return Figure(_NAMES[2], title, skipped="No reply was counted in tokens.")
    sheet = Sheet(len(replies), min(2, len(replies)))
    for place, (level, reply) in enumerate(replies):
        axes = sheet.axes(place)
        times = [0.0, *(at for at, _ in reply.chunks)]
        counts = [0, *(final for _, final in reply.chunks)]
        colour = colour_of(run, level.endpoint)
        axes.step(times, counts, where="post", color=colour)
        axes.plot(times[1:], counts[1:], color=colour, marker="o", linestyle="none", markersize=2.5)
        axes.set_xlim(0, times[-1] * 1.03)
        axes.set_ylim(0, max(counts) * 1.06)
        axes.set_xlabel("seconds since the request was sent")
        axes.set_title(f"{level_name(run, level)}: final tokens")
    return Figure(
        _NAMES[2],
        title,
        sentence="A staircase of single tokens, a few high steps of blocks, or one step of a whole canvas.",
        caption="The reply of each load whose latency is nearest the median; a dot a chunk.",
        svg=sheet.save(folder / f"{_NAMES[2]}.png"),
        alt="; ".join(
            f"{level_name(run, level)}: {len(reply.chunks)} chunks, {reply.chunks[-1][1]} tokens in "
            f"{format_number(reply.chunks[-1][0], 's')}"
            for level, reply in replies
        ),
        columns=min(2, len(replies)),
    )


def _typical(stored: StoredLoad, level: Level) -> RequestRecord | None:
    windows = {w.number for w in stored.run.windows if (w.load, w.endpoint) == (level.load, level.endpoint)}
    counted = [r for r in stored.requests if r.window in windows and r.part == "counted"]
    found = sorted((r for r in counted if r.status == "ok" and r.output_tokens), key=lambda r: r.chunks[-1][0])
    return found[len(found) // 2] if found else None


def _number(level: Level, name: str) -> float:
    """A metric's value, 0 where there is none that can be drawn."""
    value = level.metrics.get(name)
    return value.value if value is not None and drawable(value) and value.value else 0.0


def _error(axes: object, level: Level, x: str, y: str, colour: str) -> None:
    """Both intervals as bars, where there are any."""
    a, b = level.metrics[x], level.metrics[y]
    assert a.value is not None
    assert b.value is not None
    across = [[a.value - a.low], [a.high - a.value]] if a.low is not None and a.high is not None else None
    along = None
    if b.low is not None and b.high is not None:
        along = [[max(b.value - b.low, 0.0)], [max(b.high - b.value, 0.0)]]
    axes.errorbar(  # type: ignore[attr-defined]
        [a.value], [b.value], xerr=across, yerr=along, color=colour, linewidth=1, capsize=2
    )


def _log_x(axes: object, values: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = min(values) / 1.4, max(values) * 1.4
    axes.set_xscale("log")  # type: ignore[attr-defined]
    axes.set_xlim(low, high)  # type: ignore[attr-defined]
    where = axes.xaxis  # type: ignore[attr-defined]
    where.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 300 else (1.0,)))
    where.set_minor_locator(NullLocator())
    where.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.3g}"))
