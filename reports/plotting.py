"""One style for every figure: panels of one size, axes and labels, and the way to disk and into the page.

A figure is a sheet of equal panels and is built once. The PNG shows the whole sheet in light colours. For the page
each panel is cut out as an SVG of its own, so that a phone can stack what a laptop sets side by side, and every colour
of the light palette is replaced by a CSS variable, so that the page's theme repaints it.
"""

from __future__ import annotations

import io
import math
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from .palette import LIGHT, css_variable

PANEL_WIDTH, PANEL_HEIGHT = 360, 264
MARGINS = (56, 40, 16, 30)  # left, bottom, right, top, in the same points
PNG_DPI = 144


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure ready for the page: `svg` holds one <svg> element a panel; `skipped` says why there is none."""

    name: str
    title: str
    sentence: str = ""
    caption: str = ""
    svg: str = ""
    alt: str = ""
    columns: int = 2
    skipped: str | None = None


_STYLE: Any = {
    "text.parse_math": False,  # a pair may be called "$\\frac$"
    "svg.fonttype": "none",
    "svg.hashsalt": "dlmbench",
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": LIGHT["ink"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.edgecolor": LIGHT["muted"],
    "axes.facecolor": "none",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # a fixed place: finding one costs a sixth of the drawing time
    "axes.titlecolor": LIGHT["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 0.8,
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "figure.facecolor": LIGHT["paper"],
    "savefig.facecolor": LIGHT["paper"],
}


@contextmanager
def style() -> Iterator[None]:
    """Every figure is built and saved inside this; matplotlib's settings are as they were afterwards."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


class Sheet:
    """`count` panels in rows of `columns`, each placed by hand: fixed margins are steadier and faster than a solver."""

    def __init__(self, count: int, columns: int, height: int = PANEL_HEIGHT) -> None:
        self.columns = min(columns, count)
        self.rows = math.ceil(count / self.columns)
        self.height = height
        self.canvas = Canvas(figsize=(self.columns * PANEL_WIDTH / 72, self.rows * height / 72))
        FigureCanvasAgg(self.canvas)
        self._panels: list[list[Axes]] = [[] for _ in range(count)]

    def axes(self, panel: int, margins: tuple[float, float, float, float] = MARGINS, share: Axes | None = None) -> Axes:
        """New axes in a panel, inset by `margins` (left, bottom, right, top) in points."""
        left, bottom, right, top = margins
        x0, y0 = self._corner(panel)
        width, height = self.columns * PANEL_WIDTH, self.rows * self.height
        box = (
            (x0 + left) / width,
            (y0 + bottom) / height,
            (PANEL_WIDTH - left - right) / width,
            (self.height - bottom - top) / height,
        )
        axes = self.canvas.add_axes(box, sharex=share)
        self._panels[panel].append(axes)
        return axes

    def save(self, path: Path) -> str:
        """Write the sheet as a PNG and return its panels as SVG elements for the page."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.canvas.savefig(path, dpi=PNG_DPI, metadata={"Software": "dlmbench"}, pil_kwargs={"compress_level": 3})
        return "".join(self._svg(panel, path.stem) for panel in range(len(self._panels)))

    def _svg(self, panel: int, name: str) -> str:
        for index, axes_list in enumerate(self._panels):
            for axes in axes_list:
                axes.set_visible(index == panel)
        x0, y0 = self._corner(panel)
        crop = Bbox.from_bounds(x0 / 72, y0 / 72, PANEL_WIDTH / 72, self.height / 72)
        buffer = io.StringIO()
        empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        self.canvas.savefig(buffer, format="svg", bbox_inches=crop, facecolor="none", metadata=empty)
        return themed(buffer.getvalue(), f"{name}-{panel}")

    def _corner(self, panel: int) -> tuple[float, float]:
        row, column = divmod(panel, self.columns)
        return column * PANEL_WIDTH, (self.rows - 1 - row) * self.height


def themed(svg: str, prefix: str) -> str:
    """An SVG document as an element for HTML: colours become CSS variables, ids get `prefix`, no metadata, no URL."""
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style") or child.get("style") == "fill: none":
                parent.remove(child)
    used = set(re.findall(r"""(?:href="|url\()#([^")]*)""", svg))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for name in list(element.attrib):
            value = element.attrib.pop(name)
            bare = name.rpartition("}")[2]
            if bare == "id":
                if value not in used:
                    continue
                value = f"{prefix}-{value}"
            elif bare == "href":
                value = f"#{prefix}-{value[1:]}"
            elif bare == "style":
                value = _themed_style(value)
            element.attrib[bare] = re.sub(r"url\(#([^)]*)\)", rf"url(#{prefix}-\1)", value)
        element.text, element.tail = (element.text or "").strip(), ""
    box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update({"viewBox": box, "aria-hidden": "true", "focusable": "false"})
    return ElementTree.tostring(root, encoding="unicode")


def _themed_style(value: str) -> str:
    declarations = (part.strip() for part in value.split(";"))
    kept = (part for part in declarations if part and not part.startswith(("font-family", "font:")))
    return "; ".join(re.sub(r"#[0-9a-f]{6}\b", lambda m: css_variable(m[0]), part) for part in kept)


def log_values(axis_of: Axes, axis: str, values: Sequence[float], label: str) -> None:
    """A log axis whose ticks are the values measured (L, T or B); labels that would touch are left out."""
    ticks = sorted(set(values))
    low, high = math.log(ticks[0]), math.log(ticks[-1])
    span = max(high - low, math.log(2))
    shown: list[float] = []
    for tick in reversed(ticks):  # the largest always shows
        if not shown or math.log(shown[-1] / tick) > 0.055 * span:
            shown.append(tick)
    pad = math.exp(0.06 * span)
    getattr(axis_of, f"set_{axis}scale")("log")
    getattr(axis_of, f"set_{axis}lim")(ticks[0] / pad, ticks[-1] * pad)
    getattr(axis_of, f"set_{axis}label")(label)
    where = getattr(axis_of, f"{axis}axis")
    where.set_major_locator(FixedLocator(shown))
    where.set_minor_locator(NullLocator())
    where.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))


def log_quantity(axes: Axes, low: float, high: float, tick: Callable[[float], str]) -> None:
    """A log y axis for a measured quantity between `low` and `high`, with ticks at 1 (2, 5) times powers of ten."""
    low, high = low / 1.25, high * 1.25
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    decades = math.log10(high / low)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2.5 else (1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: tick(y)))


def name_line_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]], gap: float = 11.5) -> None:
    """Write each line's name at its end (x, y, name, colour).

    Lines that reach the last x are named at the right edge, pushed apart where names would overlap; a line that ends
    earlier is named beside its last point.
    """
    if not ends:
        return
    last = max(x for x, _, _, _ in ends)
    outside = sorted((end for end in ends if end[0] == last), key=lambda end: end[1])
    wanted = [float(axes.transData.transform((x, y))[1]) for x, y, _, _ in outside]
    heights = list(wanted)
    least = gap * axes.figure.dpi / 72
    for index in range(1, len(heights)):
        heights[index] = max(heights[index], heights[index - 1] + least)
    # A pile pushed upwards is centred again on where its lines end, so that no name drifts far from its line.
    shift = sum(h - w for h, w in zip(heights, wanted, strict=True)) / len(heights)
    for height, (_, _, name, colour) in zip(heights, outside, strict=True):
        _, y = axes.transAxes.inverted().transform((0.0, height - shift))
        _name(axes, name, (1.0, y), "axes fraction", 4, colour)
    for x, y, name, colour in ends:
        if x != last:
            _name(axes, name, (x, y), "data", 7, colour)


def _name(axes: Axes, name: str, at: tuple[float, float], where: str, offset: float, colour: str) -> None:
    axes.annotate(
        name,
        at,
        xycoords=where,
        xytext=(offset, 0),
        textcoords="offset points",
        color=colour,
        fontsize=9.5,
        va="center",
        annotation_clip=False,
    )
