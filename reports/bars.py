"""Stacked horizontal bars whose parts are named once below them, for the figures of kernels and of memory."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from .palette import LIGHT

PALE = ("other", "idle")  # parts so light that their number is written in ink
_KEY_LINE = 14  # points from one line of the key to the next
_KEY_OVERHANG = 30  # the key may reach this far into the margin at the right


def stack(axes: Axes, row: float, parts: Sequence[tuple[float, str, str]], height: float, least: float) -> None:
    """One bar: parts of (width, role in the palette, number written inside if the part is as wide as `least`)."""
    left = 0.0
    for width, role, text in parts:
        axes.barh(row, width, left=left, height=height, color=LIGHT[role], edgecolor=LIGHT["paper"], linewidth=0.6)
        if text and width >= least:
            ink = LIGHT["ink"] if role in PALE else LIGHT["paper"]
            axes.text(left + width / 2, row, text, ha="center", va="center", fontsize=8.5, color=ink)
        left += width


def key(axes: Axes, entries: Sequence[tuple[str, str]], left: float, below: float) -> None:
    """The names of (role or colour, name) below the axes, from `left` points before them, broken into lines."""
    width = axes.get_window_extent().width * 72 / axes.figure.dpi + _KEY_OVERHANG
    x, line = -left, 0
    for role, name in entries:
        needed = 11 + 5.4 * len(name)
        if x > -left and x + needed > width:
            x, line = -left, line + 1
        for text, offset, ink in (("■", 0, LIGHT.get(role, role)), (name, 11, LIGHT["muted"])):
            axes.annotate(text, (0, 0), xycoords="axes fraction", xytext=(x + offset, -below - _KEY_LINE * line),
                          textcoords="offset points", fontsize=9, color=ink, annotation_clip=False)  # fmt: skip
        x += needed + 12


def no_frame(axes: Axes) -> None:
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=LIGHT["ink"], labelsize=9.5)
