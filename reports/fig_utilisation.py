"""How busy the device was, by every definition of "utilisation" at once: they disagree, and that is the point."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from ..profiles.metrics import METRICS
from .bars import key, no_frame
from .chosen import Chosen, chosen, named_point, reasons
from .format import format_number
from .palette import LIGHT, side_colour
from .plotting import Figure, Sheet
from .study import Point, Study, depth, left_out, steps_label

NAME, TITLE = "utilisation", "How busy the device was, by every definition"
DEFINITIONS = (
    "mfu", "mfu_datasheet", "mbu", "kernel_busy", "sm_active", "tensor_active", "dram_active", "gpu_util_nvml",
)  # fmt: skip
CLAIM_AR, CLAIM_DIFFUSION = 0.15, (0.70, 0.80)  # the lesson's; `tradeoffs` gives the verdict
MAX_PANELS = 6
_MARGINS = (108, 58, 40, 46)
_ON_PAPER: dict[str, Any] = {"boxstyle": "square,pad=0.05", "facecolor": LIGHT["paper"], "edgecolor": "none"}
_THICK = 0.26  # of a bar, in units of one definition's group


def utilisation_figure(study: Study, folder: Path) -> Figure:
    """Bars grouped by definition, a panel a shape: AR, and diffusion at its most and fewest steps."""
    found = chosen(study, lambda point: any(point.value(name) for name in DEFINITIONS))
    if not found:
        return Figure(NAME, TITLE, skipped="No cell of this run has a utilisation by any definition.")
    shown = found[:MAX_PANELS]
    points = [point for panel in shown for point in panel.points]
    sheet = Sheet(len(shown), 2, height=104 + 36 * len(DEFINITIONS))
    for index, panel in enumerate(shown):
        _draw(sheet.axes(index, _MARGINS), study, panel)
    missing = reasons(points, DEFINITIONS)
    return Figure(
        NAME,
        TITLE,
        sentence=study.told(shown[0].shape[0], _sentence(shown[0])),
        caption=(
            "MFU and MBU: work done over what the device was measured (or stated) to do; kernel busy: some kernel was "
            "running; SM, tensor and DRAM active: counters of the device; NVML's utilisation: some kernel was resident "
            "in a sample period. Marked: the claims of about 15 % for AR at batch 1 and 70 to 80 % for diffusion. "
            f"{f'n/a: {missing}. ' if missing else ''}"
            f"{left_out(len(shown), len(found))}{study.provenance(points, None)}"
        ),
        svg=sheet.save(folder / f"{NAME}.png"),
        alt="; ".join(
            f"{panel.where}, {steps_label(p)}: " + ", ".join(f"{_header(n)} {_shown(p, n)}" for n in DEFINITIONS)
            for panel in shown
            for p in panel.points
        )
        + (f". Missing: {missing}" if missing else ""),
    )


def _header(name: str) -> str:
    return "NVML util" if name == "gpu_util_nvml" else METRICS[name].header


def _shown(point: Point, name: str) -> str:
    return format_number(point.number(name), "%") if point.value(name) else "n/a"


def _colour(point: Point) -> str:
    return side_colour("ar") if point.side == "ar" else side_colour("diffusion", depth(point))


def _draw(axes: Axes, study: Study, panel: Chosen) -> None:
    axes.axvspan(*CLAIM_DIFFUSION, color=LIGHT["diffusion"], alpha=0.14, linewidth=0)
    axes.axvline(CLAIM_AR, color=LIGHT["ar"], linewidth=1.2, linestyle=(0, (4, 3)))
    for x, text, colour in (
        (CLAIM_AR, "claim: AR 15 %", LIGHT["ar"]),
        (sum(CLAIM_DIFFUSION) / 2, "diffusion 70–80 %", LIGHT["diffusion"]),
    ):
        axes.annotate(text, (x, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
                      ha="center", fontsize=8.5, color=colour, annotation_clip=False)  # fmt: skip
    first = -_THICK * (len(panel.points) - 1) / 2
    for group, name in enumerate(DEFINITIONS):
        absent = [point for point in panel.points if point.value(name) is None]
        if len(absent) == len(panel.points):
            _not_available(axes, group)
            continue
        for index, point in enumerate(panel.points):
            at = group + first + index * _THICK
            if point in absent:
                _not_available(axes, at)
                continue
            share = point.number(name)
            # Work in a cache can exceed a bandwidth measured beyond it: the number says so, the bar ends at the edge.
            axes.barh(at, min(max(share, 0.0), 1.0), height=_THICK * 0.86, color=_colour(point))
            axes.annotate(format_number(share, "%"), (min(share, 1.0), at), xytext=(4, 0), textcoords="offset points",
                          va="center", fontsize=8.5, color=LIGHT["ink"], annotation_clip=False,
                          bbox=_ON_PAPER)  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(len(DEFINITIONS) - 0.5, -0.55)
    axes.set_yticks(range(len(DEFINITIONS)), [_header(name) for name in DEFINITIONS])
    axes.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f} %"))
    no_frame(axes)
    axes.tick_params(axis="y", labelsize=9)
    axes.set_title(study.named(panel.shape[0], panel.where), pad=17)
    key(axes, [(_colour(point), steps_label(point)) for point in panel.points], left=60, below=40)


def _not_available(axes: Axes, at: float) -> None:
    axes.plot([0, 0], [at - _THICK / 2, at + _THICK / 2], color=LIGHT["muted"], linewidth=1.5)
    axes.annotate("n/a", (0, at), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5,
                  color=LIGHT["muted"])  # fmt: skip


def _sentence(panel: Chosen) -> str:
    """Each point's lowest and highest definition: how far the definitions lie apart."""
    return f"At {panel.where}, the device is busy " + "; ".join(map(_apart, panel.points)) + "."


def _apart(point: Point) -> str:
    known: Sequence[str] = [name for name in DEFINITIONS if point.value(name)]
    low, high = min(known, key=point.number), max(known, key=point.number)
    text = f"{_shown(point, low)} by {_header(low)}"
    return f"{text}{'' if low == high else f' and {_shown(point, high)} by {_header(high)}'} under {named_point(point)}"
