"""Gates that start no worker: two stored runs, files of pytest-benchmark, and counts against a committed file."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime

from ... import __version__
from ...profiles.gate import CellEvidence, Policy
from ...profiles.gate_record import GateContext, GateDocument
from ...profiles.store import read_run
from ...reports.gate_context import counted_context, stored_context
from ..plan import Plan, make_plan, only
from .benchmark_json import benchmark_evidence, benchmarks_from, gate_side
from .decision import decide
from .evidence import certificate_evidence, unpaired_evidence, without_drift
from .options import GateOptions
from .work import Spoiled, Work, count_work, read_work, work_evidence


def stored(options: GateOptions, policy: Policy, command: Sequence[str]) -> GateDocument:
    """Two runs from disk, process against process, with the machine's drift between them taken out."""
    begin = time.monotonic()
    base, head = read_run(options.baseline[0]), read_run(options.current[0])
    cells = list({cell.key: cell for run in (base, head) for part in run.run.plan for cell in part}.values())
    evidence = unpaired_evidence(cells, base.trials, head.trials, policy.margins)
    evidence = without_drift(evidence, base.trials, head.trials)
    evidence += certificate_evidence(base.run.pairs, head.run.pairs)
    if base.run.suite != head.run.suite:
        why = f"the baseline is of suite {base.run.suite}, the current run of {head.run.suite}: give runs of one suite"
        evidence.append(CellEvidence(key="suite", spoiled=("suite", why)))
    result = decide(evidence, policy)
    context = stored_context(
        base,
        head,
        names=(str(options.baseline[0]), str(options.current[0])),
        command=command,
        created=_now(),
        duration_s=time.monotonic() - begin,
    )
    return GateDocument(result=result, context=context)


def benchmarks(options: GateOptions, policy: Policy, command: Sequence[str]) -> GateDocument:
    """Times from pytest-benchmark's JSON, on one side or both, process against process."""
    begin = time.monotonic()
    base, head = (benchmarks_from(side) for side in (options.baseline, options.current))
    result = decide(benchmark_evidence(base, head), policy)
    context = GateContext(
        created=_now(),
        duration_s=time.monotonic() - begin,
        command=tuple(command),
        suite="benchmarks",
        device="as measured",
        device_name=", ".join(head.machine.values()) or "unknown",
        base=gate_side(options.baseline, base),
        head=gate_side(options.current, head),
        paired=False,
        dlmbench_version=__version__,
    )
    return GateDocument(result=result, context=context)


def counters(options: GateOptions, policy: Policy, command: Sequence[str]) -> GateDocument:
    """What the cells do now, against the committed file of what they did: exact, and on no clock."""
    begin = time.monotonic()
    assert options.counters is not None
    base = read_work(options.counters)
    plan, head, spoiled = count(options)
    untimed = policy.model_copy(
        update={"margins": {}, "cells": tuple(cell.model_copy(update={"margins": {}}) for cell in policy.cells)}
    )
    result = decide(work_evidence(base, head, spoiled), untimed)
    context = counted_context(
        str(options.counters),
        suite=plan.suite.name,
        device=plan.device,
        command=command,
        created=_now(),
        duration_s=time.monotonic() - begin,
    )
    return GateDocument(result=result, context=context)


def count(options: GateOptions) -> tuple[Plan, Work, Spoiled]:
    """The cells' work, counted in this process."""
    # The same cells on every machine: an accelerator would have others.
    device = "cpu" if options.run.device == "auto" else options.run.device
    # Standard output may be a document's: what a generator prints is not part of it.
    with redirect_stdout(sys.stderr):
        plan = make_plan(replace(options.run, device=device))
        if options.only_generators:
            plan = only(plan, options.run.generators)
        return plan, *count_work(plan)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
