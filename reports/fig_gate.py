"""How well the gate sees: the share of gates that FAIL, PASS or stay undecided, over the slowdown that was planted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MultipleLocator

from .palette import LIGHT
from .plotting import Sheet, name_line_ends

_SHARES = (50, 106, 84, 30)
_USED = (50, 40, 84, 176)
_FAIL, _PASS, _OPEN = LIGHT["sampler"], LIGHT["attention"], LIGHT["idle"]


@dataclass(frozen=True, slots=True)
class PowerCurve:
    """Shares of gates by slowdown (0.05: 5 %), rising, and the mean number of pairs that a gate used."""

    title: str
    slowdown: tuple[float, ...]
    fail: tuple[float, ...]
    passed: tuple[float, ...]
    pairs: tuple[float, ...]


def gate_figure(curves: Sequence[PowerCurve], margin: float, path: Path) -> str:
    """Write the figure, a panel a curve and two in a row; returns its panels as SVG. Call it inside `style()`."""
    sheet = Sheet(len(curves), 2)
    for number, curve in enumerate(curves):
        shares = sheet.axes(number, _SHARES)
        _draw_shares(shares, curve, margin)
        _draw_pairs(sheet.axes(number, _USED, share=shares), curve)
    return sheet.save(path)


def _draw_shares(axes: Axes, curve: PowerCurve, margin: float) -> None:
    """PASS and FAIL as lines, and what stays undecided as the area between PASS and 1 - FAIL."""
    axes.fill_between(curve.slowdown, curve.passed, [1 - fail for fail in curve.fail], color=_OPEN, linewidth=0)
    axes.plot(curve.slowdown, curve.fail, color=_FAIL)
    axes.plot(curve.slowdown, curve.passed, color=_PASS)
    axes.axvline(margin, color=LIGHT["ink"], linewidth=0.8, linestyle=(0, (1, 2)))
    axes.annotate("margin", (margin, 1.02), xytext=(0, 2), textcoords="offset points", fontsize=8.5, ha="center")
    end = curve.slowdown[-1]
    name_line_ends(axes, [(end, curve.fail[-1], "FAIL", _FAIL), (end, curve.passed[-1], "PASS", _PASS)])
    axes.text(0.97, 0.5, "grey: INCONCLUSIVE", transform=axes.transAxes, ha="right", fontsize=8.5, color=LIGHT["muted"])
    axes.set_title(curve.title, pad=14)
    axes.set_xlim(0, end)
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("gates")
    axes.tick_params(labelbottom=False)
    axes.xaxis.set_major_locator(MultipleLocator(0.05))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f} %"))


def _draw_pairs(axes: Axes, curve: PowerCurve) -> None:
    axes.plot(curve.slowdown, curve.pairs, color=LIGHT["muted"])
    axes.set_ylim(0, 1.1 * max(curve.pairs))
    axes.set_ylabel("pairs")
    axes.set_xlabel("slowdown planted")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f} %"))
