"""`dlmbench doctor`: what would spoil a measurement here, what that would do to the numbers, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..profiles.doctor import examine, probe
from ..profiles.environment import capture_environment
from ..profiles.finding import Finding
from ..reports.format import format_number
from ..reports.plain import plain
from .plan import choose_threads

if TYPE_CHECKING:
    from .gate.self_test import Answer

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


def self_test_command(pairs: int, slowdown: float, console: Console) -> dict[str, Any]:
    """Measure the harness on this machine and show what it can tell. Returns the answers as a document."""
    from .gate.self_test import self_test  # imports torch

    def said(text: str) -> None:
        console.print(Text(text, style="dim"), soft_wrap=True)

    answers = self_test(pairs, slowdown, said)
    show_answers(answers, console)
    return {"self_test": [asdict(answer) | {"value": answer.value.model_dump(mode="json")} for answer in answers]}


def show_answers(answers: Sequence[Answer], console: Console) -> None:
    """Print what the self-test found: value with interval, meaning, and what is wrong where something is."""
    table = Table.grid(padding=(0, 2))
    for answer in answers:
        text = Text(answer.meaning, style="dim")
        if answer.warning:
            text.append(f"\n{answer.warning}", style="not dim yellow")
        table.add_row(Text(answer.name, style="bold"), answer_words(answer), text)
    console.print(table)
    wrong = sum(answer.warning is not None for answer in answers)
    console.print(f"self-test: {wrong} of {len(answers)} answers give cause for concern. Intervals: 95 %.")


def answer_words(answer: Answer) -> str:
    """A value in the unit that suits it, and its interval."""

    def words(number: float) -> str:
        if answer.unit == "s":
            return format_number(number, "s")
        return f"{1e6 * number:+.1f} ppm" if 0 < abs(number) < 1e-5 else f"{100 * number:.2f} %"

    value = answer.value
    text = "-" if value.value is None else words(value.value)
    return text if value.low is None or value.high is None else f"{text} [{words(value.low)}, {words(value.high)}]"


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
