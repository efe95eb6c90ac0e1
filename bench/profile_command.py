"""`dlmbench profile`: one shape under the torch profiler: what ran, how long, with which gaps, as table and trace.

It is a run of one process with traces kept, so that its folder can be shown, reported and compared like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import InputError
from ..profiles.hardware import CATEGORIES, KernelProfile
from ..profiles.record import Cell, Trial
from ..profiles.store import StoredRun
from ..reports.format import format_number
from ..reports.plain import plain
from .options import RunOptions
from .plan import Plan, make_plan
from .progress import Progress
from .run import start_run
from .run_command import run_document, write_report

_SHOWN = 12


def profile_command(
    options: RunOptions, side: str, command: Sequence[str], console: Console, *, rows: int = _SHOWN
) -> dict[str, Any]:
    """Profile the first cell of each side that the options describe; returns the run as a JSON document."""
    if side not in ("ar", "diffusion", "both"):
        raise InputError(f"--side {side!r}: expected ar, diffusion or both")
    plan = _narrowed(make_plan(options), side)
    stored = start_run(options, plan, command, Progress(console, quiet=False))
    files = [*write_report(stored), *sorted((stored.path / "traces").glob("*.json.gz"))]
    for trial in stored.trials:
        _show(trial, console, rows)
    for path in files:
        if path.suffix in (".gz", ".html") or path.stem == "flame":
            console.print(Text(str(path)), soft_wrap=True)
    console.print("A trace opens in the Perfetto UI (ui.perfetto.dev), which reads it in the browser.")
    return {**run_document(stored, files), "profiles": _profiles(stored)}


def _narrowed(plan: Plan, side: str) -> Plan:
    """The plan's first shape, with one cell a side, in one process, profiled and traced, no text judged."""
    first = plan.pairings[0]
    chosen: dict[str, Cell] = {}
    for cell in first.cells:
        if side in (cell.side, "both") and cell.key not in plan.unfit:
            chosen.setdefault(cell.side, cell)
    if not chosen:
        why = next(iter(plan.unfit.values()), f"suite {plan.suite.name} has no such cell at this shape")
        raise InputError(f"--side {side}: nothing to profile: {why}")
    pairing = first.model_copy(update={"cells": tuple(chosen.values()), "processes": 1})
    # What ran is worth knowing on a busy machine too: no sample is discarded for others' use of the processors.
    settings: dict[str, object] = {"processes": 1, "hardware": True, "traces": True, "foreign_limit": None}
    settings |= {"quality_texts": 0, "studies": False, "load": None}
    warnings = tuple(warning for warning in plan.warnings if "fewer than five" not in warning)
    return replace(
        plan, suite=plan.suite.model_copy(update=settings), pairings=(pairing,), warnings=warnings, judge=None
    )


def _profiles(stored: StoredRun) -> dict[str, Any]:
    return {
        trial.key: None if trial.hardware is None else trial.hardware.model_dump(mode="json", exclude={"telemetry"})
        for trial in stored.trials
    }


def _show(trial: Trial, console: Console, rows: int) -> None:
    console.print(Text(plain(trial.key), style="bold"), soft_wrap=True)
    hardware = trial.hardware
    if hardware is None or hardware.kernels is None:
        why = trial.reason.message if trial.reason else "no replay was made"
        why = why if hardware is None else hardware.missing.get("kernels", why)
        console.print(Text(f"no profile: {plain(why)}", style="yellow"), soft_wrap=True)
        return
    kernels = hardware.kernels
    console.print(Text(_summary(kernels)), soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    # The name gives way where the terminal is narrow, never a number.
    widest = max(12, console.width - 52)
    table.add_column("kernel" if kernels.device == "cuda" else "operator", overflow="ellipsis", no_wrap=True,
                     max_width=widest)  # fmt: skip
    table.add_column("kind", no_wrap=True)
    for header in ("launches", "time", "of wall"):
        table.add_column(header, justify="right", no_wrap=True)
    for name in CATEGORIES:
        part = kernels.categories.get(name)
        if part is not None and part.launches:
            table.add_row(Text(f"all {name}", style="bold"), name, *_numbers(part.launches, part.seconds, kernels))
    for kernel in kernels.kernels[:rows]:
        table.add_row(Text(plain(kernel.name)), kernel.category, *_numbers(kernel.launches, kernel.seconds, kernels))
    console.print(table)
    left = kernels.others + max(0, len(kernels.kernels) - rows)
    if left:
        console.print(f"{left} more are left out here.")


def _numbers(launches: int, seconds: float, kernels: KernelProfile) -> tuple[str, str, str]:
    return str(launches), format_number(seconds, "s"), f"{seconds / kernels.wall_s:.1%}"


def _summary(kernels: KernelProfile) -> str:
    what = "kernels" if kernels.device == "cuda" else "operators"
    parts = [
        f"{format_number(kernels.wall_s, 's')} under the profiler"
        + ("" if kernels.overhead is None else f" ({kernels.overhead:+.0%} on the timed median)"),
        f"busy {kernels.busy_s / kernels.wall_s:.0%}",
        f"{kernels.launches} {what}",
        f"{kernels.launches / max(1, kernels.output_tokens):.1f} a token",
        f"{kernels.launches / max(1, kernels.forwards):.0f} a forward",
    ]
    if kernels.gaps is not None and kernels.gaps.count:
        gaps = kernels.gaps
        parts.append(
            f"{gaps.count} gaps: median {format_number(gaps.median_s, 's')}, longest "
            f"{format_number(gaps.longest_s, 's')}, {gaps.total_s / kernels.wall_s:.0%} of the time"
        )
    return "; ".join(parts)
