"""`dlmbench run`, `--dry-run`, and the documents and files that follow a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..profiles.store import StoredRun, read_run
from ..reports.format import MISSING, format_number
from .estimate import PAIRING_S, REPORT_S, START_S, latency_above, rough_latency_s
from .folders import stoppable
from .largest import largest_fits, show_largest
from .load.beside import check_load, check_load_that_is_left, load_in, put_under_load, show_planned_load
from .load.command import answered, document, show_load, write_load_report
from .memory_plan import Shapes, predicted_memory
from .options import RunOptions
from .plan import Plan, ar_generators, make_plan
from .progress import Progress
from .run import resume_run, start_run, stated
from .summary import measurements


def run_command(
    options: RunOptions,
    resume: Path | None,
    suite_given: bool,
    command: Sequence[str],
    console: Console,
    *,
    quiet: bool,
    yes: bool = False,
) -> dict[str, Any]:
    """Measure, write the report, show the tables and the paths; returns the run as a JSON document. With `yes` the load
    of the suite may cost whatever it comes to.
    """
    progress = Progress(console, quiet=quiet)
    if resume is not None:
        check_load_that_is_left(resume, yes=yes)
        stored = resume_run(resume, options, suite_given, progress)
    else:
        plan = make_plan(options)
        if plan.suite.load is not None:
            check_load(plan.suite.load, yes=yes)
        stored = start_run(options, plan, command, progress)
    with stoppable("run --yes" if yes else "run", stored.path):
        try:
            put_under_load(stored, command, console, yes=yes)
        finally:  # whatever became of the servers, the cells have a report
            files = write_report(stored)
    show_all(stored, console)
    for path in files:
        if path.suffix in (".html", ".md"):
            console.print(Text(str(path)), soft_wrap=True)
    return run_document(stored, files)


def show_all(stored: StoredRun, console: Console) -> None:
    """A run's tables, and those of its suite's load."""
    from ..reports.terminal import show_run

    show_run(stored, console)
    if (loaded := load_in(stored.path)) is not None:
        show_load(loaded, console)


def stored_run(folder: Path) -> StoredRun:
    """A run from disk; of one that was cut off, what its trials say so far."""
    stored = read_run(folder)
    if stored.measurements or not stored.trials:
        return stored
    run = stored.run
    found = measurements(stored.trials, ar_generators(run.pairs), stated(run), run.plan)
    return replace(stored, measurements=tuple(found))


def run_document(stored: StoredRun, files: Sequence[Path] = ()) -> dict[str, Any]:
    """A run as one JSON document: its record, its measurements, its files, and its suite's load if it has one."""
    loaded = load_in(stored.path)
    served = {} if loaded is None else {"load": document(loaded)["load"], "load_answered": answered(loaded)}
    return {
        "folder": str(stored.path),
        "run": stored.run.model_dump(mode="json"),
        "measurements": [m.model_dump(mode="json") for m in stored.measurements],
        "ok_cells": sum(m.status == "ok" for m in stored.measurements),
        "files": [str(path) for path in files],
        **served,
    }


def write_report(stored: StoredRun) -> list[Path]:
    """The report that every run ends with: figures, HTML, Markdown."""
    from ..reports.figures import write_figures
    from ..reports.html import write_html
    from ..reports.markdown import write_summary

    figures = write_figures(stored, stored.path / "figures")
    page, summary = stored.path / "report.html", stored.path / "summary.md"
    loaded, beside = load_in(stored.path), []
    if loaded is not None:
        beside = write_load_report(loaded)
    write_html(stored, figures, page, loaded)
    write_summary(stored, summary, loaded)
    return [*sorted((stored.path / "figures").glob("*.png")), *beside, page, summary]


def export_report(stored: StoredRun) -> list[Path]:
    """The tables for other programs: CSV, Parquet, pytest-benchmark JSON."""
    from ..reports.exports import write_csv, write_parquet, write_pytest_benchmark_json

    folder = stored.path
    paths = [folder / name for name in ("metrics.csv", "samples.csv", "metrics.parquet", "samples.parquet")]
    write_csv(stored, paths[0], "metrics")
    write_csv(stored, paths[1], "samples")
    write_parquet(stored, paths[2], "metrics")
    write_parquet(stored, paths[3], "samples")
    benchmark = folder / "pytest-benchmark.json"
    write_pytest_benchmark_json(stored, benchmark)
    return [*paths, benchmark]


def dry_run_command(
    options: RunOptions, console: Console, planned_b: int | None = None, *, yes: bool = False
) -> dict[str, Any]:
    """Show what a run would measure, how long it might take, what it needs, what does not fit and the most that would.

    `planned_b`: the memory of a device that need not be here. Writes nothing.
    """
    from .floors import rates_now
    from .forecast import Forecaster  # imports torch

    plan = make_plan(options, planned_b)
    forecast = Forecaster(plan)
    forecasts = {cell.key: forecast(cell) for pairing in plan.pairings for cell in pairing.cells}
    # Nobody can time a device that is not here.
    rates = rates_now(plan, None) if plan.present else {}
    cells = []
    total = START_S * max(p.processes for p in plan.pairings) * len(plan.pairs) + REPORT_S
    for pairing in plan.pairings:
        per_process = PAIRING_S
        for cell in pairing.cells:
            pair = plan.pairs[cell.pair]
            expected, rate = forecasts[cell.key], rates.get((cell.pair, cell.dtype))
            floor = expected.floor_s(rate.flop_s, rate.byte_s) if rate and expected.why is None else None
            if rate is None:
                latency = None
            elif floor is None:
                latency = rough_latency_s(cell, pair, rate.flop_s, rate.byte_s)
            else:
                latency = latency_above(floor, expected.launches, cell.side)
            # Three warm-up generations at least, the smallest number of samples at least, else the budget.
            if latency is not None and cell.key not in plan.unfit:
                per_process += max(pairing.budget_s, plan.suite.min_samples * latency) + 3 * latency
            memory = predicted_memory(cell, Shapes.of(cell, pair), plan.device)
            entry = {
                "key": cell.key,
                "processes": pairing.processes,
                "nfe": expected.nfe if expected.why is None else None,
                "nfe_drawn": expected.drawn,
                "unknown": expected.why,
                "model_flops": expected.flops if expected.why is None else None,
                "model_bytes": expected.bytes if expected.why is None else None,
                "floor_latency_s": floor,
                "ceiling_tok_s": cell.batch * cell.length / floor if floor else None,
                "latency_estimate_s": latency,
                "memory_estimate_b": int(memory.total_b),
                "memory": memory.model_dump(),
                "fits": cell.key not in plan.unfit,
                "why": plan.unfit.get(cell.key),
            }
            cells.append(entry)
        total += pairing.processes * per_process
    largest = largest_fits(
        [cell for pairing in plan.pairings for cell in pairing.cells], plan.pairs, plan.device, plan.memory_b
    )
    plan_document = {
        "suite": plan.suite.name,
        "device": plan.device,
        "threads": plan.threads,
        "cells": cells,
        "memory_available_b": plan.memory_b,
        "duration_estimate_s": total if plan.present else None,
        "alternates_in_blocks": sorted(plan.blockwise),
        "largest": [found.document() for found in largest],
    }
    _show_dry_run(plan, plan_document, console)
    if plan.memory_b is not None:
        show_largest(largest, plan.memory_b, console)
    if plan.suite.load is not None:
        plan_document["load"] = show_planned_load(plan.suite.load, console, yes=yes)
    return plan_document


def _show_dry_run(plan: Plan, document: dict[str, Any], console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("cell", overflow="fold", min_width=28)
    table.add_column("processes", justify="right")
    table.add_column("forwards", justify="right")
    table.add_column("floor", justify="right", no_wrap=True)
    table.add_column("expected", justify="right", no_wrap=True)
    table.add_column("memory", justify="right", no_wrap=True)
    for cell in document["cells"]:
        memory = Text(f"~{cell['memory_estimate_b'] / 1e9:.2f} GB", style="" if cell["fits"] else "yellow")
        expected = cell["latency_estimate_s"]
        latency = MISSING if expected is None else f"~{format_number(expected, 's')}"
        forwards = "?" if cell["nfe"] is None else f"{'~' if cell['nfe_drawn'] else ''}{cell['nfe']}"
        floor = MISSING if cell["floor_latency_s"] is None else format_number(cell["floor_latency_s"], "s")
        table.add_row(Text(cell["key"]), str(cell["processes"]), forwards, floor, latency, memory)
    console.print(table)
    console.print(
        "floor: the least latency of one generation that the arithmetic and the traffic of its forwards allow at the "
        "peaks measured just now; expected: a rough guess for planning."
        if plan.present
        else "No time can be told: the device is not here to measure its peaks."
    )
    have, duration = document["memory_available_b"], document["duration_estimate_s"]
    free = "unknown" if have is None else f"{have / 1e9:.2f} GB"
    lasting = "" if duration is None else f"; about {_duration(duration)}, within a factor of two"
    console.print(
        f"{len(document['cells'])} cells, {plan.trials} trials on {plan.device}, {plan.threads} thread(s){lasting}. "
        f"Memory {'free' if plan.present else 'planned for'}: {free}."
    )
    for key, why in plan.unfit.items():
        console.print(Text(f"{key} {why}", style="yellow"), soft_wrap=True)
    for name in document["alternates_in_blocks"]:
        console.print(Text(f"{name}: both sides do not fit together; they would alternate in blocks"), soft_wrap=True)


def _duration(seconds: float) -> str:
    """Seconds in the unit that a person would plan in."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
