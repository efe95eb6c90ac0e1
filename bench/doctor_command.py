"""`dlmbench doctor`: what would spoil a measurement here, what that would do to the numbers, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..profiles.doctor import examine, probe
from ..profiles.environment import capture_environment
from ..profiles.finding import Finding
from ..reports.plain import plain
from .plan import choose_threads

_STYLES = {"warning": "yellow", "info": "cyan", "ok": "green"}


def doctor_command(threads: int | None, console: Console) -> dict[str, Any]:
    """Examine this machine and show the findings, warnings first; changes nothing. Returns them as a document."""
    environment = capture_environment()
    chosen = choose_threads(threads)
    findings = examine(environment, chosen, probe(output=Path.cwd()))
    show_findings(findings, console)
    warnings = sum(finding.severity == "warning" for finding in findings)
    console.print(f"{warnings} warnings; a run here would use {chosen} threads.")
    return {"threads": chosen, "findings": [asdict(finding) for finding in findings]}


def show_findings(findings: Sequence[Finding], console: Console) -> None:
    """Print findings in their order: what was found, its effect, its remedy."""
    table = Table.grid(padding=(0, 1))
    for finding in findings:
        text = Text(f"{plain(finding.subject)}: ", style="bold").append(plain(finding.message), style="not bold")
        if finding.severity != "ok":
            text.append(f"\neffect: {plain(finding.effect)}\nremedy: {plain(finding.remedy)}", style="not bold dim")
        table.add_row(Text(finding.severity, style=_STYLES[finding.severity]), text)
    if findings:
        console.print(table)
