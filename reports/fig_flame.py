"""A flame graph of one profiled generation: phases at the bottom, then kinds of work, then kernels or operators."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from ..profiles.hardware import CATEGORIES, KernelProfile, Stack
from .chosen import hardware_of
from .format import format_number
from .palette import LIGHT
from .plain import plain
from .plotting import PANEL_WIDTH, Figure, Sheet
from .study import Study, steps_label

NAME, TITLE = "flame", "Where one generation spends its time"
MAX_PANELS = 4
_MARGINS = (14, 34, 30, 30)
_ROLE: dict[str, str] = {name: name for name in CATEGORIES} | {"sampling": "sampler"}
_DEPTH = 4
_CHARACTER = 5.2  # points that a character of a label takes
_NARROWEST = 0.004


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of the graph: share of the wall time from `left`, at `depth`, the colour's role and the label."""

    left: float
    width: float
    depth: int
    role: str
    label: str


def flame_figure(study: Study, folder: Path) -> Figure:
    """A panel a cell, AR first: drawn for runs of few cells, as `dlmbench profile` makes them."""
    points = [(s[0], p) for s in study.shapes for p in (study.ar(s), *study.diffusion(s)) if p is not None]
    found = [(pair, p, k) for pair, p in points if (h := hardware_of(study, p)) and (k := h.kernels) and k.stacks]
    if not found:
        return Figure(NAME, TITLE, skipped="No cell was replayed under the torch profiler.")
    shown = found[:MAX_PANELS]
    sheet = Sheet(len(shown), 1 if len(shown) == 1 else 2, height=190)
    for index, (pair, point, kernels) in enumerate(shown):
        title = study.named(pair, f"L = {point.length}, batch {point.batch}, {steps_label(point)}")
        _draw(sheet.axes(index, _MARGINS), title, boxes(kernels), kernels)
    _, point, kernels = shown[0]
    widest = max((box for box in boxes(kernels) if box.depth == 1), key=lambda box: box.width, default=None)
    return Figure(
        NAME,
        TITLE,
        sentence=""
        if widest is None
        else f"{steps_label(point)} spends {widest.width * 100:.0f} % of a profiled generation in {widest.label}.",
        caption=(
            "One generation under the torch profiler, as wide as its wall time; each box is as wide as the time spent "
            "in it. From below: phase of the generation, kind of work, kernel or operator. White: idle, or too narrow "
            f"to draw. {'' if len(shown) == len(found) else f'{len(found) - len(shown)} cells left out. '}"
        ),
        svg=sheet.save(folder / f"{NAME}.png"),
        alt="; ".join(
            f"{steps_label(p)}: " + ", ".join(f"{b.label} {b.width * 100:.1f} %" for b in boxes(k) if b.depth <= 1)
            for _, p, k in shown
        ),
        columns=2,
    )


def boxes(kernels: KernelProfile) -> list[Box]:
    """The boxes of a profile, parents before children, children from the left in order of their width.

    Where kernels ran at once their times add up to more than the time that passed: all are scaled to the busy time.
    """
    total = sum(stack.seconds for stack in kernels.stacks)
    if not total:
        return []
    scale = min(1.0, kernels.busy_s / total) / kernels.wall_s
    found: list[Box] = []
    _lay(kernels.stacks, 0, 0.0, scale, "other", found)
    return found


def _lay(stacks: Iterable[Stack], depth: int, left: float, scale: float, role: str, found: list[Box]) -> None:
    groups: dict[str, list[Stack]] = defaultdict(list)
    for stack in stacks:
        if len(stack.path) > depth:
            groups[stack.path[depth]].append(stack)
    for name, group in sorted(groups.items(), key=lambda item: -sum(s.seconds for s in item[1])):
        width = scale * sum(stack.seconds for stack in group)
        own = _ROLE.get(name, role) if depth == 1 else role
        if width >= _NARROWEST:
            found.append(Box(left, width, depth, own, plain(name)))
            if depth + 1 < _DEPTH:
                _lay(group, depth + 1, left, scale, own, found)
        left += width


def _draw(axes: Axes, title: str, found: list[Box], kernels: KernelProfile) -> None:
    inner = PANEL_WIDTH - _MARGINS[0] - _MARGINS[2]
    for box in found:
        colour = LIGHT["grid"] if box.depth == 0 else LIGHT[box.role]
        axes.add_patch(
            Rectangle((box.left, box.depth), box.width, 0.94, facecolor=colour, edgecolor=LIGHT["paper"], linewidth=0.6)
        )
        room = int(box.width * inner / _CHARACTER)
        if room >= 4:
            label = box.label if len(box.label) <= room else f"{box.label[: room - 1]}…"
            ink = LIGHT["ink" if box.depth == 0 or box.role == "other" else "paper"]
            axes.text(box.left + box.width / 2, box.depth + 0.47, label, ha="center", va="center", fontsize=8,
                      color=ink, clip_on=True)  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(0, max((box.depth for box in found), default=0) + 1.05)
    axes.set_yticks([])
    axes.set_xticks([0, 0.5, 1], [format_number(kernels.wall_s * at, "s") if at else "0" for at in (0, 0.5, 1)])
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.set_title(title)
