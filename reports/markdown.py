"""A run as `summary.md`, in GitHub-flavoured Markdown: for a job summary, an issue, or beside the data.

Names and messages are escaped, so that a pair called `a|b` stays in its table cell and `<img …>` stays text.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from ..profiles.record import PairRecord
from ..profiles.serving.store import StoredLoad
from ..profiles.store import StoredRun, replace_file
from .extrapolation import HEADERS, NOTE, extrapolations
from .hardware_rows import PEAK_HEADERS, HardwareTable, hardware_section
from .load_markdown import load_sections
from .markdown_text import code_block, escape, html, table_lines
from .rows import DEFINITIONS, headlines, pair_names, results, run_facts, unmeasured
from .study import Study
from .terminal import certificate_difference, certificate_value
from .tradeoffs import tradeoffs


def write_summary(stored: StoredRun, path: Path, loaded: StoredLoad | None = None) -> None:
    """Write the run, and its suite's load, as Markdown to `path`. Links to the run's files are relative to where `path`
    lies.
    """
    lines = [f"# {escape(stored.run.suite)}: autoregressive against diffusion", ""]
    for name in pair_names(stored):
        lines += [
            f"**Speed-up of diffusion over the fastest AR, pair {escape(name)}** (fewer steps T cost quality)",
            "",
        ]
        lines += [
            f"- {line.title}: {' · '.join(escape(part) for part in line.parts)}" for line in headlines(stored, name)
        ]
        lines += [""]
    if not stored.measurements:
        lines += [f"No results yet: {len(stored.trials)} trials are recorded and the run is not finished.", ""]
    for name in pair_names(stored):
        lines += [f"## Results: {escape(name)}", "", *_results(stored, name), ""]
        lines += _tradeoffs(stored, name)
    lines += _hardware(stored)
    lines += _extrapolated(stored)
    if loaded is not None:
        lines += ["## Servers under load", "", *load_sections(loaded.run, "###")]
    lines += _section("## Cells without a valid result", _unmeasured(stored))
    lines += _section("## Warnings", [f"- {escape(warning)}" for warning in stored.run.warnings])
    for pair in stored.run.pairs:
        lines += [*_certificate(pair), ""]
    lines += _section(
        "## How it was measured", table_lines(("what", "value"), [map(escape, f) for f in run_facts(stored)])
    )
    lines += [*code_block(shlex.join(stored.run.command)), "", f"{DEFINITIONS}.", ""]
    lines += _section("## Files", _links(stored.path, path))
    replace_file(path, "\n".join(lines).rstrip("\n") + "\n")


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [title, "", *lines, ""] if lines else []


def _results(stored: StoredRun, name: str) -> list[str]:
    table = results(stored, name)
    if not table.groups:
        return ["No cell of this pair has a valid result."]
    headers = ["cell", *(column.header for column in table.columns)]
    rows: list[list[str]] = []
    for group in table.groups:
        rows.append([f"**{group.title}**", *("" for _ in table.columns)])
        # "~" in front of an interval would open a strike-through: escaped like text from the record
        rows += [[escape(row.label), *(escape(str(entry)) for entry in row.entries)] for row in group.rows]
    return [*table_lines(headers, rows, numbers=True), "", *(f"- {escape(note)}" for note in table.notes)]


def _tradeoffs(stored: StoredRun, pair: str) -> list[str]:
    rows = [
        map(escape, (row.aspect, row.claim, row.measured, f"{row.verdict}: {row.reason}"))
        for row in tradeoffs(Study(stored), pair)
    ]
    title = f"## Claims and measurements: {escape(pair)}"
    return _section(title, table_lines(("trade-off", "claim", "measured", "verdict"), rows)) if rows else []


def _hardware(stored: StoredRun) -> list[str]:
    """What the hardware did: a table a pair, then the device's peaks."""
    section = hardware_section(stored)
    lines = [line for table in section.tables for line in _hardware_table(table)]
    if section.peaks:
        lines += [*table_lines(PEAK_HEADERS, [map(escape, row) for row in section.peaks], numbers=True), ""]
    lines += [f"- {escape(note)}" for note in section.notes if section]
    return _section("## What the hardware did", lines)


def _extrapolated(stored: StoredRun) -> list[str]:
    rows = [one.row for one in extrapolations(stored)]
    if not rows:
        return []
    return _section("## Extrapolated", [*table_lines(HEADERS, [map(escape, row) for row in rows]), "", NOTE])


def _hardware_table(table: HardwareTable) -> list[str]:
    rows: list[list[str]] = []
    for group in table.groups:
        rows.append([f"**{escape(group.title)}**", *("" for _ in table.headers)])
        rows += [[escape(row.label), *map(escape, row.entries)] for row in group.rows]
    notes = [f"- {escape(note)}" for note in table.notes]
    return [
        f"Pair {escape(table.pair)}",
        "",
        *table_lines(("cell", *table.headers), rows, numbers=True),
        "",
        *notes,
        "",
    ]


def _unmeasured(stored: StoredRun) -> list[str]:
    rows = [map(escape, (c.cell, c.status, c.code, c.message)) for c in unmeasured(stored)]
    return table_lines(("cell", "status", "code", "message"), rows) if rows else []


def _certificate(pair: PairRecord) -> list[str]:
    """The certificate, collapsed. GitHub needs the blank line before the table to read it as one."""
    rows = [
        map(
            escape,
            (
                row.quantity,
                certificate_value(row.ar, row.unit),
                certificate_value(row.diffusion, row.unit),
                certificate_difference(row),
                row.verdict,
            ),
        )
        for row in pair.certificate
    ]
    body = table_lines(("quantity", "AR", "diffusion", "difference", "in words"), rows)
    weights = escape(f"Weights: {pair.weights}. {pair.weights_note}")
    summary = f"<summary>Match certificate of {html(pair.name)}</summary>"
    return ["<details>", summary, "", weights, "", *(body if rows else ["None was recorded."]), "", "</details>"]


def _links(folder: Path, path: Path) -> list[str]:
    """The regular files of the run's folder, without hidden ones and the summary itself."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(place) / name for name in sorted(names) if not name.startswith(".")]
    links = []
    for file in found:
        if file.is_symlink() or not file.is_file() or file.resolve() == path.resolve():
            continue
        target = Path(os.path.relpath(file, path.parent)).as_posix()
        links.append(f"- [{escape(file.relative_to(folder).as_posix())}]({quote(target)})")
    return links
