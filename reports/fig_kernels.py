"""What ran on the device: the time of one profiled generation by kind of kernel, and the gaps in which nothing ran."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from ..profiles.hardware import CATEGORIES, KernelProfile
from .bars import key, no_frame, stack
from .chosen import Chosen, absent, chosen, hardware_of, named_point
from .format import format_number
from .palette import LIGHT
from .plotting import Figure, Sheet
from .study import Point, Study, left_out, steps_label

NAME, TITLE = "kernels", "What ran on the device"
MAX_PANELS = 6
GAPS = "gaps"
_PARTS = (*CATEGORIES, GAPS)
_ROLE: dict[str, str] = {name: name for name in CATEGORIES} | {"sampling": "sampler", GAPS: "idle"}
_MARGINS = (78, 60, 64, 42)
_LABELLED = 0.095


def kernels_figure(study: Study, folder: Path) -> Figure:
    """Stacked bars, a panel a shape: AR, and diffusion at its most and fewest steps."""
    found = chosen(study, lambda point: profile(study, point) is not None)
    if not found:
        why = absent(study, "kernels", "This run has none: it was not asked to profile its cells, or predates that.")
        return Figure(NAME, TITLE, skipped=f"No cell was replayed under the torch profiler. {why}")
    shown = found[:MAX_PANELS]
    rows = max(len(panel.points) for panel in shown)
    sheet = Sheet(len(shown), 2, height=102 + 34 * rows)
    for index, panel in enumerate(shown):
        _draw(sheet.axes(index, _MARGINS), study, panel, rows)
    profiles = [(panel, p, seen) for panel in shown for p in panel.points if (seen := profile(study, p)) is not None]
    return Figure(
        NAME,
        TITLE,
        sentence=study.told(shown[0].shape[0], _sentence(study, shown[0])),
        caption=(
            "Shares of one generation under the torch profiler: kernels by what they compute, and gaps in which none "
            "ran. Kernels that ran at the same time share that time. At the right: launches per output token. "
            f"{_cpu([seen for _, _, seen in profiles])}{_overhead([seen for _, _, seen in profiles])}"
            f"{left_out(len(shown), len(found))}{study.provenance([p for _, p, _ in profiles], None)}"
        ),
        svg=sheet.save(folder / f"{NAME}.png"),
        alt="; ".join(
            f"{panel.where}, {steps_label(point)}: "
            + ", ".join(f"{name} {_percent(share)}" for name, share in shares(seen).items())
            + f", {_launches(seen)} launches a token"
            for panel, point, seen in profiles
        ),
    )


def profile(study: Study, point: Point) -> KernelProfile | None:
    hardware = hardware_of(study, point)
    return None if hardware is None else hardware.kernels


def shares(seen: KernelProfile) -> dict[str, float]:
    """Each category's share of the wall time, then the gaps; together 1.

    Seconds of a category are summed over kernels, so that streams in parallel count twice: they are scaled to the time
    in which some kernel ran.
    """
    seconds = {name: seen.categories[name].seconds if name in seen.categories else 0.0 for name in CATEGORIES}
    total, busy = sum(seconds.values()), min(seen.busy_s, seen.wall_s) / seen.wall_s
    found: dict[str, float] = {name: busy * own / total if total > 0 else 0.0 for name, own in seconds.items()}
    return {**found, GAPS: 1 - sum(found.values())}


def _launches(seen: KernelProfile) -> str:
    return format_number(seen.launches / max(1, seen.output_tokens), "1")


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def _draw(axes: Axes, study: Study, panel: Chosen, rows: int) -> None:
    for row, point in enumerate(panel.points):
        seen = profile(study, point)
        if seen is None:
            continue
        parts = [(share, _ROLE[name], _percent(share)) for name, share in shares(seen).items()]
        stack(axes, row, parts, 0.62, _LABELLED)
        axes.text(1.02, row, _launches(seen), va="center", fontsize=9.5, color=LIGHT["ink"])
    axes.annotate("launches", (1.02, 1), xycoords="axes fraction", xytext=(0, 8), textcoords="offset points",
                  fontsize=8.5, color=LIGHT["muted"], annotation_clip=False)  # fmt: skip
    axes.annotate("per token", (1.02, 1), xycoords="axes fraction", xytext=(0, -3), textcoords="offset points",
                  fontsize=8.5, color=LIGHT["muted"], annotation_clip=False)  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(rows - 0.45, -0.75)
    axes.set_yticks(range(len(panel.points)), [steps_label(point) for point in panel.points])
    axes.xaxis.set_major_locator(FixedLocator([0, 0.5, 1]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _percent(x)))
    no_frame(axes)
    axes.set_title(study.named(panel.shape[0], panel.where), pad=12)
    key(axes, [(_ROLE[name], name) for name in _PARTS], left=66, below=38)


def _cpu(profiles: list[KernelProfile]) -> str:
    if all(seen.device == "cuda" for seen in profiles):
        return ""
    return "On a CPU a kernel is an operator that calls no other, and a gap is the interpreter's. "


def _overhead(profiles: list[KernelProfile]) -> str:
    """How far the profiler slowed what it looked at."""
    known = sorted(seen.overhead for seen in profiles if seen.overhead is not None)
    if not known:
        return "How much the profiler slowed these generations was not recorded. "
    low, high = _percent(known[0]), _percent(known[-1])
    return f"The profiler slowed these generations by {low if low == high else f'{low} to {high}'}. "


def _sentence(study: Study, panel: Chosen) -> str:
    told = []
    for point in panel.points:
        seen = profile(study, point)
        if seen is not None:
            found = shares(seen)
            most = max(CATEGORIES, key=lambda name: found[name])
            told.append(
                f"{named_point(point)} launches {_launches(seen)} kernels a token and leaves the device idle for "
                f"{_percent(found[GAPS])} of the time, its longest part being {most} ({_percent(found[most])})"
            )
    text = "; ".join(told)
    return f"At {panel.where}, {text}."
