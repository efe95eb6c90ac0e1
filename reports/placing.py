"""Names beside points of a figure, each where it covers nothing: no other name, no mark, no line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from .palette import LIGHT

Box = tuple[float, float, float, float]  # left, bottom, right, top on the sheet, in points
Name = tuple[str, float, float, str]  # text, x, y in data, colour

_LETTER, _LINE = 5.3, 11.0  # width of a letter and height of a line at 9 points
_AWAY = (0, 14, 28, 42, 60)
_LED = 28  # points of the sheet from a mark beyond which a line leads to its name
_LEADER: dict[str, Any] = {"arrowstyle": "-", "color": LIGHT["muted"], "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}


def sheet_points(axes: Axes, x: float, y: float) -> tuple[float, float]:
    """Where data lies on the sheet, in points."""
    place = axes.transData.transform((x, y)) * 72 / axes.figure.dpi
    return float(place[0]), float(place[1])


def around(x: float, y: float, reach: float) -> Box:
    return x - reach, y - reach, x + reach, y + reach


def name_points(axes: Axes, names: Sequence[Name], covered: Sequence[Box]) -> None:
    """Write each name near its point; one that finds no free place within the axes stays unwritten."""
    taken, written = list(covered), list[Box]()
    scale = 72 / axes.figure.dpi
    extent = axes.get_window_extent()
    left, bottom, right, top = (side * scale for side in (extent.x0, extent.y0, extent.x1, extent.y1))
    # From the right: what lies at the edge has the fewest places to choose from.
    for text, x, y, colour in sorted(names, key=lambda name: -name[1]):
        at = sheet_points(axes, x, y)
        width = _LETTER * len(text)
        for dx, dy in _beside(width):
            spot = (at[0] + dx, at[1] + dy, at[0] + dx + width, at[1] + dy + _LINE)
            if spot[0] < left or spot[1] < bottom + 2 or spot[2] > right or spot[3] > top:
                continue
            led = abs(dy + _LINE / 2) >= _LED
            leader = _line(at, ((spot[0] + spot[2]) / 2, (spot[1] + spot[3]) / 2)) if led else []
            if any(_overlap(spot, other) for other in taken) or any(_overlap(a, b) for a in leader for b in written):
                continue
            axes.annotate(text, (x, y), xytext=(dx, dy + 2.5), textcoords="offset points", fontsize=9, color=colour,
                          arrowprops=_LEADER if led else None)  # fmt: skip
            taken += [spot, *leader]
            written.append(spot)
            break


def _beside(width: float) -> list[tuple[float, float]]:
    """Offsets to try, nearest first."""
    offsets = [
        (dx, sign * away - _LINE / 2)
        for away in _AWAY
        for sign in (-1, 1)
        for dx in (8.0, -8 - width, *(() if away == 0 else (-width / 2, -width / 5, -4 * width / 5)))
    ]
    return sorted(offsets, key=lambda o: max(0.0, abs(o[0] + width / 2) - width / 2) + abs(o[1] + _LINE / 2))


def _line(begin: tuple[float, float], end: tuple[float, float]) -> list[Box]:
    parts = [part / 16 for part in range(17)]
    return [around(begin[0] + p * (end[0] - begin[0]), begin[1] + p * (end[1] - begin[1]), 1.5) for p in parts]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
