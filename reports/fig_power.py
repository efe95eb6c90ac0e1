"""Power and clocks while replays of a cell filled a window, and what held the clocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ..profiles.hardware import Telemetry
from .chosen import absent, chosen, hardware_of, named_point
from .format import format_number
from .palette import LIGHT, side_colour
from .plain import plain
from .plotting import Figure, Sheet, name_line_ends
from .study import Point, Study, depth, left_out, shorten

NAME, TITLE = "power", "Power and clocks while it ran"
MAX_PANELS = 6
HEIGHT = 276
_UPPER, _LOWER = (52, 150, 80, 48), (52, 40, 80, 146)
_CLOCKS = {"sm_clock_mhz": ("SM", "forward"), "memory_clock_mhz": ("memory", "prefill")}


def power_figure(study: Study, folder: Path) -> Figure:
    """Two stacked plots a cell: power with the idle draw as a dashed line, clocks below on the same time."""
    panels = chosen(study, lambda point: bool(_drawn(_telemetry(study, point))))
    found = [point for panel in panels for point in panel.points]
    if not found:
        why = absent(study, "telemetry", "This run has none: nothing to read it from (a CPU), or it predates that.")
        return Figure(NAME, TITLE, skipped=f"No window of power or clocks was recorded. {why}")
    points = found[:MAX_PANELS]
    columns = 2 if len(points) <= 4 else 3
    sheet = Sheet(len(points), columns, height=HEIGHT)
    seen_all = [seen for point in points if (seen := _telemetry(study, point)) is not None]
    most = max((watts for seen in seen_all for watts in _line(seen, "power_w")[1]), default=1.0)
    for index, point in enumerate(points):
        seen = _telemetry(study, point)
        if seen is not None:
            upper = sheet.axes(index, _UPPER)
            _draw_power(upper, study, point, seen, most)
            _draw_clocks(sheet.axes(index, _LOWER, share=upper), seen)
    return Figure(
        NAME,
        TITLE,
        sentence=study.told(points[0].measurement.cell.pair, _sentence(study, points)),
        caption=(
            "Readings of the device's counters while replays of the cell filled the window, outside the timed samples. "
            f"Dashed: the draw with the model loaded and nothing running. {_sources(study, points)}"
            f"{left_out(len(points), len(found))}{study.provenance(points, None)}"
        ),
        svg=sheet.save(folder / f"{NAME}.png"),
        alt="; ".join(_told(study, point) for point in points),
        columns=columns,
    )


def _telemetry(study: Study, point: Point) -> Telemetry | None:
    hardware = hardware_of(study, point)
    return None if hardware is None else hardware.telemetry


def _drawn(seen: Telemetry | None) -> list[str]:
    """The series that there is something to draw of: two readings or more."""
    if seen is None or not seen.series.get("at_s"):
        return []
    return [name for name in ("power_w", *_CLOCKS) if len(_line(seen, name)[1]) > 1]


def _line(seen: Telemetry, name: str) -> tuple[list[float], list[float]]:
    """Time and value of the readings that succeeded."""
    pairs = zip(seen.series.get("at_s", ()), seen.series.get(name, ()), strict=False)
    kept = [(at, x) for at, x in pairs if at is not None and x is not None and math.isfinite(x)]
    return [at for at, _ in kept], [x for _, x in kept]


def _reading(seen: Telemetry, point: Point, metric: str) -> float | None:
    value = point.value(metric)
    return value.value if value is not None else seen.values.get(metric)


def _held(seen: Telemetry) -> str:
    return ", ".join(plain(reason).replace("_", " ") for reason in seen.clock_reasons)


def _draw_power(axes: Axes, study: Study, point: Point, seen: Telemetry, most: float) -> None:
    colour = side_colour("ar") if point.side == "ar" else side_colour("diffusion", depth(point))
    at, power = _line(seen, "power_w")
    idle, mean = _reading(seen, point, "power_idle_w"), _reading(seen, point, "power_w")
    if power:
        axes.plot(at, power, color=colour, linewidth=1.5)
        ends = [(at[-1], power[-1] if mean is None else mean, format_number(mean or power[-1], "W"), colour)]
        if idle is not None:
            axes.axhline(idle, color=LIGHT["muted"], linewidth=1.2, linestyle=(0, (4, 3)))
            ends.append((at[-1], idle, f"idle {format_number(idle, 'W')}", LIGHT["muted"]))
        axes.set_ylim(0, 1.15 * max(most, idle or 0.0))
        name_line_ends(axes, ends)
    else:
        axes.text(0.5, 0.5, "power n/a", transform=axes.transAxes, ha="center", color=LIGHT["muted"])
    axes.set_ylabel("W")
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.tick_params(axis="x", labelbottom=False, length=0)
    name = named_point(point).replace("diffusion at", "diffusion,")
    axes.set_title(study.named(point.measurement.cell.pair, f"{name}, L = {point.length}, batch {point.batch}"), pad=17)
    held = _held(seen)
    axes.annotate(f"clocks held by: {shorten(held, 46)}" if held else "clocks held by nothing that the device tells",
                  (0, 1), xycoords="axes fraction", xytext=(0, 6), textcoords="offset points", fontsize=8.5,
                  color=LIGHT["muted"], annotation_clip=False)  # fmt: skip


def _draw_clocks(axes: Axes, seen: Telemetry) -> None:
    ends, top = [], 0.0
    for series, (name, role) in _CLOCKS.items():
        at, clock = _line(seen, series)
        if clock:
            axes.plot(at, clock, color=LIGHT[role], linewidth=1.5)
            ends.append((at[-1], clock[-1], f"{name} {clock[-1]:,.0f}", LIGHT["ink"]))
            top = max(top, *clock)
    if ends:
        axes.set_ylim(0, 1.15 * top)
        name_line_ends(axes, [(ends[0][0], y, name, colour) for _, y, name, colour in ends])
    else:
        axes.text(0.5, 0.5, "clocks n/a", transform=axes.transAxes, ha="center", color=LIGHT["muted"])
    axes.set_xlim(0, seen.window_s)
    axes.set_ylabel("MHz")
    axes.set_xlabel("seconds since the window began")
    axes.yaxis.set_major_locator(MaxNLocator(3))


def _told(study: Study, point: Point) -> str:
    seen = _telemetry(study, point)
    if seen is None:
        return ""
    parts = []
    power, idle = _reading(seen, point, "power_w"), _reading(seen, point, "power_idle_w")
    if power is not None:
        parts.append(format_number(power, "W"))
    if idle is not None:
        parts.append(f"idle {format_number(idle, 'W')}")
    for series, (name, _) in _CLOCKS.items():
        _, clock = _line(seen, series)
        if clock:
            span = f"{min(clock):,.0f}" if min(clock) == max(clock) else f"{min(clock):,.0f} to {max(clock):,.0f}"
            parts.append(f"{name} clock {span} MHz")
    parts.append(f"held by {_held(seen) or 'nothing'}")
    return f"{named_point(point)}, L = {point.length}, batch {point.batch}: {', '.join(parts)}"


def _sources(study: Study, points: Sequence[Point]) -> str:
    seen = [t for point in points if (t := _telemetry(study, point)) is not None]
    sources = dict.fromkeys(plain(t.source) for t in seen if t.source)
    warnings = dict.fromkeys(plain(w).rstrip(".") for t in seen for w in t.warnings)
    return "".join(f"{text}. " for text in ([f"Source: {', '.join(sources)}"] if sources else []) + [*warnings])


def _sentence(study: Study, points: Sequence[Point]) -> str:
    known = [(p, t) for p in points if (t := _telemetry(study, p)) is not None]
    watts = [(p, w) for p, t in known if (w := _reading(t, p, "power_w")) is not None]
    held = sum(bool(t.clock_reasons) for _, t in known)
    tail = f"the clocks were held by something in {held} of {len(known)} cells shown"
    if not watts:
        return f"Power was not read; {tail}."
    (low, least), (high, most) = min(watts, key=lambda e: e[1]), max(watts, key=lambda e: e[1])
    if low is high:
        return f"{_at(low)} draws {format_number(least, 'W')}; {tail}."
    return (
        f"{_at(low)} draws the least, {format_number(least, 'W')}, and {_at(high, inside=True)} the most, "
        f"{format_number(most, 'W')}; {tail}."
    )


def _at(point: Point, inside: bool = False) -> str:
    text = f"{named_point(point)}, batch {point.batch},"
    return text if inside else text[0].upper() + text[1:]
