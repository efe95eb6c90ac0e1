"""How many steps diffusion can afford: the T* at which it takes as long as AR, over L, against the line T = L."""

from __future__ import annotations

from pathlib import Path

from .format import format_value
from .palette import LIGHT, side_colour
from .plain import plain
from .plotting import Figure, Sheet, log_values, name_line_ends
from .study import Point, Study, left_out

NAME, TITLE, METRIC = "crossover", "The crossover T*", "crossover_steps"
MAX_PANELS = 6
_MARGINS = (50, 40, 70, 30)


def crossover_figure(study: Study, folder: Path) -> Figure:
    """One panel a pair: T*(L) for each batch, and the line T = L, one token a step."""
    found = {pair: _by_batch(study, pair) for pair in study.pairs}
    absent = _absent(study)
    crossing = [pair for pair in study.pairs if found[pair]]
    drawn = crossing[:MAX_PANELS]
    if not drawn:
        why = f" {absent}" if absent else " No AR cell carries this metric."
        return Figure(NAME, TITLE, skipped=f"No crossover lies inside the range of T that was measured.{why}")
    sheet = Sheet(len(drawn), 2, height=330)
    for index, pair in enumerate(drawn):
        _draw(sheet, index, study, pair, found[pair])
    points = [p for pair in drawn for line in found[pair].values() for p in line]
    return Figure(
        NAME,
        TITLE,
        sentence=_sentence(study, points),
        caption=(
            "T* is the number of steps at which diffusion takes exactly as long as the pair's fastest AR cell, "
            "interpolated between the T measured; below the line diffusion is faster, above it AR is. It says nothing "
            f"about the quality that so few steps give. "
            f"{absent} {left_out(len(drawn), len(crossing))}{study.provenance(points, METRIC)}"
        ).replace("  ", " "),
        svg=sheet.save(folder / f"{NAME}.png"),
        alt="; ".join(
            f"L = {p.length}, batch {p.batch}: {format_value(METRIC, v)}" for p in points if (v := p.value(METRIC))
        ),
    )


def _by_batch(study: Study, pair: str) -> dict[int, list[Point]]:
    lines: dict[int, list[Point]] = {}
    for shape in study.of_pair(pair):
        point = study.ar(shape)
        if point and point.value(METRIC):
            lines.setdefault(shape[3], []).append(point)
    return lines


def _absent(study: Study) -> str:
    """Where T* is null, in words: the reason and the shapes it holds for."""
    reasons: dict[str, list[str]] = {}
    for shape in study.shapes:
        point = study.ar(shape)
        value = point.measurement.metrics.get(METRIC) if point else None
        if value is not None and value.value is None:
            reasons.setdefault(plain(value.why or "no reason recorded"), []).append(
                f"L = {shape[2]} at batch {shape[3]}"
            )
    return " ".join(f"No T* for {', '.join(where)}: {why}." for why, where in reasons.items())


def _draw(sheet: Sheet, index: int, study: Study, pair: str, lines: dict[int, list[Point]]) -> None:
    axes = sheet.axes(index, _MARGINS)
    lengths = [shape[2] for shape in study.of_pair(pair)]
    values = [
        v for line in lines.values() for p in line if (value := p.value(METRIC)) for v in (value.value, value.high)
    ]
    top = max([float(max(lengths)), *(v for v in values if v is not None)])
    bottom = min([1.0, *(v for v in values if v is not None and v > 0)])
    log_values(axes, "x", lengths, "L (new tokens a row)")
    log_values(axes, "y", [bottom, *(2.0**i for i in range(1, 20) if 2.0**i < top), top], "")
    axes.plot(lengths, lengths, color=LIGHT["muted"], linewidth=1.2, dashes=(4, 3), marker="_")
    ends = [(float(max(lengths)), float(max(lengths)), "T = L", LIGHT["muted"])]
    for rank, (batch, points) in enumerate(sorted(lines.items())):
        colour = side_colour("diffusion", rank / max(1, len(lines) - 1) if len(lines) > 1 else 0.5)
        xs, ys = [p.length for p in points], [p.number(METRIC) for p in points]
        axes.plot(xs, ys, color=colour, marker="o")
        intervals = [(p.length, v.low, v.high) for p in points if (v := p.value(METRIC)) and v.low and v.high]
        if intervals:
            at, low, high = zip(*intervals, strict=True)
            axes.vlines(at, low, high, color=colour, linewidth=4, alpha=0.35)
        ends.append((float(max(lengths)), ys[-1], f"T*, batch {batch}", colour))
    for y, text, side in ((0.93, "AR is faster", "ar"), (0.05, "diffusion is faster", "diffusion")):
        axes.text(0.02 if side == "ar" else 0.98, y, text, transform=axes.transAxes, color=side_colour(side),
                  ha="left" if side == "ar" else "right")  # fmt: skip
    axes.set_title(study.named(pair, "T* in denoising steps"))
    name_line_ends(axes, ends)


def _sentence(study: Study, points: list[Point]) -> str:
    point = max(points, key=lambda p: (p.length, -p.batch))
    value = point.value(METRIC)
    steps = value.value if value and value.value is not None else float("nan")
    return study.told(
        point.measurement.cell.pair,
        f"At L = {point.length}, batch {point.batch}, diffusion beats AR only below T = {steps:.3g} steps, that is, "
        f"if each step commits at least {point.length / steps:.1f} tokens.",
    )
