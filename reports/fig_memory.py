"""Where the memory goes: the peak of a cell by what it is for, as predicted from shapes and as measured."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..profiles.hardware import Hardware, MemorySplit
from .bars import key, no_frame, stack
from .chosen import Chosen, absent, chosen, hardware_of, named_point
from .format import format_number
from .palette import LIGHT
from .plotting import Figure, Sheet
from .study import Point, Study, left_out, steps_label

NAME, TITLE = "memory", "Where the memory goes, predicted and measured"
MAX_PANELS = 6
PARTS = {"weights": "matmul", "KV": "attention", "logits": "sampler", "activations": "normalisation"}
_FIELDS = dict(zip(PARTS, ("weights_b", "kv_b", "logits_b", "activations_b"), strict=True))
_LEFT, _BOTTOM, _TOP = 70, 60, 30
_RIGHT, _RIGHT_WITH_REST = 62, 136  # room for the numbers beside the bars
_ROWS = 3.2  # a cell's name, its two bars, and the space to the next


def memory_figure(study: Study, folder: Path) -> Figure:
    """Two stacked bars a cell, a panel a shape."""
    found = chosen(study, lambda point: bool(_splits(hardware_of(study, point))))
    if not found:
        why = absent(study, "memory", "This run did not split its peaks, or predates that.")
        return Figure(NAME, TITLE, skipped=f"No cell has its memory by what it is for. {why}")
    shown = found[:MAX_PANELS]
    most = max(len(panel.points) for panel in shown)
    sheet = Sheet(len(shown), 2, height=round(92 + 19 * _ROWS * most))
    points = [(panel, point) for panel in shown for point in panel.points]
    with_rest = any(split.rest_b for _, point in points for split in _splits(hardware_of(study, point)).values())
    for index, panel in enumerate(shown):
        margins = (_LEFT, _BOTTOM, _RIGHT_WITH_REST if with_rest else _RIGHT, _TOP)
        _draw(sheet.axes(index, margins), study, panel, most)
    return Figure(
        NAME,
        TITLE,
        sentence=_sentence(study, [point for _, point in points]),
        caption=(
            "The peak of a cell by what it is for: weights, caches of keys and values, the largest logits, and "
            "activations (measured: what is left of the peak of one replay). The rest, a number without a bar, is "
            "there before a generation and no model's: interpreter, libraries, compiled code. Predicted: from shapes. "
            f"{left_out(len(shown), len(found))}{study.provenance([point for _, point in points], None)}"
        ),
        svg=sheet.save(folder / f"{NAME}.png"),
        alt="; ".join(
            f"{panel.where}, {steps_label(point)}, {name}: {_written(split)} ("
            + ", ".join(f"{part} {format_number(getattr(split, field), 'B')}" for part, field in _FIELDS.items())
            + ")"
            for panel, point in points
            for name, split in _splits(hardware_of(study, point)).items()
        ),
    )


def _splits(hardware: Hardware | None) -> dict[str, MemorySplit]:
    """What is known of a cell's memory: predicted, measured."""
    if hardware is None:
        return {}
    both = {"predicted": hardware.memory_predicted, "measured": hardware.memory}
    return {name: split for name, split in both.items() if split is not None and split.own_b > 0}


def _draw(axes: Axes, study: Study, panel: Chosen, most: int) -> None:
    splits = [(point, _splits(hardware_of(study, point))) for point in panel.points]
    widest = max(split.own_b for _, both in splits for split in both.values())
    ticks: list[tuple[float, str]] = []
    for index, (point, both) in enumerate(splits):
        top = index * _ROWS
        axes.annotate(steps_label(point), (0, top), xycoords=("axes fraction", "data"), fontsize=9.5, va="center",
                      color=LIGHT["ink"], fontweight="bold", annotation_clip=False)  # fmt: skip
        for line, name in enumerate(("predicted", "measured"), start=1):
            ticks.append((top + line, name))
            if name in both:
                split = both[name]
                # A part that is a difference of two measurements may come out below zero: nothing to draw.
                parts = [(max(0.0, getattr(split, field)), PARTS[part], "") for part, field in _FIELDS.items()]
                stack(axes, top + line, parts, 0.8, math.inf)
                end = sum(part[0] for part in parts) + 0.02 * widest
                axes.text(end, top + line, _written(split), va="center", fontsize=9)
            else:
                axes.text(0, top + line, "n/a", va="center", fontsize=9, color=LIGHT["muted"])
    axes.set_xlim(0, widest * 1.02)
    axes.set_ylim(most * _ROWS - 0.6, -0.6)
    axes.set_yticks([at for at, _ in ticks], [name for _, name in ticks])
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _tick(x)))
    no_frame(axes)
    axes.tick_params(axis="y", labelsize=9, labelcolor=LIGHT["muted"])
    axes.set_title(study.named(panel.shape[0], panel.where))
    key(axes, [(role, part) for part, role in PARTS.items()], left=58, below=38)


def _written(split: MemorySplit) -> str:
    """`894 MB + 323 MB rest`."""
    own = format_number(split.own_b, "B")
    return f"{own} + {format_number(split.rest_b, 'B')} rest" if split.rest_b else own


def _tick(x: float) -> str:
    number, _, unit = format_number(x, "B").partition(" ")
    return f"{float(number.replace(',', '')):g} {unit}" if x else "0"


def _sentence(study: Study, points: list[Point]) -> str:
    """The largest part of the largest peak, and how far predictions were off."""
    splits = [(point, _splits(hardware_of(study, point))) for point in points]
    named = [(point, name, split) for point, both in splits for name, split in both.items()]
    measured = [entry for entry in named if entry[1] == "measured"] or named
    point, name, split = max(measured, key=lambda entry: entry[2].own_b)
    part = max(_FIELDS, key=lambda p: getattr(split, _FIELDS[p]))
    share = getattr(split, _FIELDS[part]) / split.own_b
    text = (
        f"The largest peak shown, {_written(split)} ({name}; {named_point(point)}, batch {point.batch}), is "
        f"{share * 100:.0f} % {part}{' without the rest' if split.rest_b else ''}"
    )
    off = [both["measured"].own_b / both["predicted"].own_b - 1 for _, both in splits if len(both) == 2]
    if not off:
        return f"{text}."
    return f"{text}; measured is {min(off) * 100:+.0f} to {max(off) * 100:+.0f} % off the predictions."
