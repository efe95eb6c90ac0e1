"""`dlmbench gate`: two sides in, one verdict out, as a table, JSON, JUnit XML and Markdown. The verdict comes last."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ... import InputError
from ...profiles.gate import EXIT_CODES
from ...profiles.gate_record import GateDocument, write_gate
from ...reports.gate_annotations import print_annotations
from ...reports.gate_junit import write_junit
from ...reports.gate_markdown import append_job_summary, write_gate_markdown
from ...reports.gate_table import show_gate
from ..folders import locked, new_folder, stoppable
from .benchmark_json import are_files
from .measured import DOCUMENT, kept_if_used, measured, resumed
from .options import GateOptions
from .policy import policy_of
from .unmeasured import benchmarks, count, counters, stored
from .work import write_work

JUNIT, SUMMARY = "junit.xml", "summary.md"
_SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"


def gate_command(
    options: GateOptions, command: Sequence[str], console: Console, *, variables: Mapping[str, str] = os.environ
) -> tuple[GateDocument, int]:
    """Compare, write the outputs, show the table; returns the document and the exit code."""
    _to_be_written("--junit", options.junit)
    _to_be_written("--markdown", options.markdown)
    with ExitStack() as stack:
        document, folder, options = _judged(options, command, console, stack)
        for path in _write(document, options, folder, variables):
            console.print(Text(str(path)), soft_wrap=True)
    print_annotations(document, lambda line: console.out(line, end="", highlight=False), variables)
    show_gate(document, console)
    return document, EXIT_CODES[document.result.verdict]


def renew_command(options: GateOptions, console: Console) -> dict[str, Any]:
    """Write the file of `--counters` with what is counted now; what `--json` prints of it."""
    assert options.form == "counters"
    assert options.counters is not None
    _, work, spoiled = count(options)
    write_work(options.counters, work, spoiled)
    console.print(Text(f"{options.counters}: {len(work.cells)} cells; commit it with the change"), soft_wrap=True)
    for key in work.undecided:
        note = f"{key}: the data or the draws decide its forwards, so only its tokens are gated"
        console.print(Text(note), soft_wrap=True)
    return {"counters": str(options.counters), "cells": len(work.cells), "undecided": work.undecided}


def _judged(
    options: GateOptions, command: Sequence[str], console: Console, stack: ExitStack
) -> tuple[GateDocument, Path | None, GateOptions]:
    """The verdict of whichever form is asked for, its folder if it has one, and the options that it was started with.
    `stack` guards the folder."""
    if options.resume is not None:
        folder = options.resume.resolve()
        document, started = resumed(options, folder, command, console, stack)
        return document, folder, started
    form, policy = options.form, policy_of(options)
    if form in ("stored", "counters"):
        # A gate that measures nothing needs no folder.
        kept = None if options.out is None else new_folder(options.out, "gate")
        files = form == "stored" and (are_files(options.baseline) or are_files(options.current))
        judge = counters if form == "counters" else benchmarks if files else stored
        return judge(options, policy, command), kept, options
    folder = new_folder(options.out, "gate").resolve()
    for guard in (locked(folder), kept_if_used(folder), stoppable("gate", folder)):
        stack.enter_context(guard)
    return measured(options, policy, folder, command, console), folder, options


def _to_be_written(flag: str, path: Path | None) -> None:
    """Refuse, before minutes are spent on what would be in it, a file that cannot be one."""
    if path is None:
        return
    try:
        possible = bool(path.name) and not path.is_dir() and path.absolute().parent.is_dir()
    except OSError:  # a name that no file system takes
        possible = False
    if not possible:
        raise InputError(f"{flag} {str(path)[:80]!r}: expected the name of a file in a folder that is there")


def _write(
    document: GateDocument, options: GateOptions, folder: Path | None, variables: Mapping[str, str]
) -> list[Path]:
    """Every output that was asked for, and all of them in the gate's folder; the job summary where CI names one."""
    written = []
    junit = [path for path in (folder and folder / JUNIT, options.junit) if path is not None]
    summaries = [path for path in (folder and folder / SUMMARY, options.markdown) if path is not None]
    try:
        if folder is not None:
            write_gate(folder / DOCUMENT, document)
            written.append(folder / DOCUMENT)
        for path in junit:
            write_junit(document, path)
        for path in summaries:
            write_gate_markdown(document, path)
        if variables.get(_SUMMARY_VARIABLE):
            append_job_summary(document, Path(variables[_SUMMARY_VARIABLE]))
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be written ({error.strerror}); the verdict was "
                         f"{document.result.verdict}") from None  # fmt: skip
    return [*written, *junit, *summaries]
