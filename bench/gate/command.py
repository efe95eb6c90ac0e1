"""`dlmbench gate`: two sides in, one verdict out, as a table, JSON, JUnit XML and Markdown. The verdict comes last."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, redirect_stdout, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ... import InputError, __version__
from ...profiles.gate import EXIT_CODES, CellEvidence, GateResult, Policy
from ...profiles.gate_record import GateContext, GateDocument, write_gate
from ...profiles.store import StoredRun, read_run
from ...reports.gate_annotations import print_annotations
from ...reports.gate_context import Revision, counted_context, stored_context
from ...reports.gate_junit import write_junit
from ...reports.gate_markdown import append_job_summary, write_gate_markdown
from ...reports.gate_table import show_gate
from ..handle import Launch
from ..options import RunOptions
from ..plan import Plan, make_plan
from ..progress import Progress
from ..run import new_folder
from .benchmark_json import are_files, benchmark_evidence, benchmarks_from, gate_side
from .campaign import Campaign
from .decision import decide
from .evidence import certificate_evidence, unpaired_evidence, without_drift
from .learned import Learned, learn_margins, learned_toml
from .options import GateOptions
from .policy import overridden, read_policy
from .repository import find_repository
from .sides import Side, commanded, placed, prepared
from .work import Spoiled, Work, count_work, read_work, work_evidence, write_work

DOCUMENT, JUNIT, SUMMARY, LEARNED = "gate.json", "junit.xml", "summary.md", "policy.toml"
_SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"


def gate_command(
    options: GateOptions, command: Sequence[str], console: Console, *, variables: Mapping[str, str] = os.environ
) -> tuple[GateDocument, int]:
    """Compare, write the outputs, show the table; returns the document and the exit code."""
    begin = time.monotonic()
    form, policy = options.form, policy_of(options)
    revisions: tuple[Revision | None, Revision | None] = (None, None)
    if form == "counters":
        return _concluded(options, *_counters(options, policy, command, begin), console, variables)
    if form == "stored" and (are_files(options.baseline) or are_files(options.current)):
        return _concluded(options, *_benchmarks(options, policy, command, begin), console, variables)
    if form == "stored":
        folder = _folder(options)
        result, runs = _stored(options, policy)
        names = str(options.baseline[0]), str(options.current[0])
    else:
        folder = new_folder(RunOptions(suite="gate", out=options.out), "gate")
        with _kept_if_used(folder):
            result, sides = _measured(options, policy, folder, command, console)
        names, revisions = _names(options), (_revision(sides[0]), _revision(sides[1]))
        runs = (read_run(folder / "base"), read_run(folder / "head"))
    context = stored_context(
        *runs,
        names=names,
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        duration_s=time.monotonic() - begin,
        paired=form != "stored",
        revisions=revisions,
    )
    return _concluded(options, folder, result, context, console, variables)


def renew_command(options: GateOptions, console: Console) -> dict[str, Any]:
    """Write the file of `--counters` with what is counted now; what `--json` prints of it."""
    assert options.form == "counters"
    assert options.counters is not None
    _, work, spoiled = _count(options)
    write_work(options.counters, work, spoiled)
    console.print(Text(f"{options.counters}: {len(work.cells)} cells; commit it with the change"), soft_wrap=True)
    for key in work.undecided:
        note = f"{key}: the data or the draws decide its forwards, so only its tokens are gated"
        console.print(Text(note), soft_wrap=True)
    return {"counters": str(options.counters), "cells": len(work.cells), "undecided": work.undecided}


def _concluded(
    options: GateOptions,
    folder: Path | None,
    result: GateResult,
    context: GateContext,
    console: Console,
    variables: Mapping[str, str],
) -> tuple[GateDocument, int]:
    """Write every output, then say the verdict."""
    document = GateDocument(result=result, context=context)
    for path in _write(document, options, folder, variables):
        console.print(Text(str(path)), soft_wrap=True)
    print_annotations(document, console.file.write, variables)
    show_gate(document, console)
    return document, EXIT_CODES[result.verdict]


def policy_of(options: GateOptions) -> Policy:
    """The policy of the file given, or the default one, with the flags given."""
    policy = Policy() if options.policy is None else read_policy(options.policy)
    return overridden(
        policy,
        alpha=options.alpha,
        looks=options.looks,
        margins=options.margins,
        floors=options.floors,
        accept_changed=True if options.accept_changed else None,
    )


def _stored(options: GateOptions, policy: Policy) -> tuple[GateResult, tuple[StoredRun, StoredRun]]:
    """Two runs from disk, process against process, with the machine's drift between them taken out."""
    base, head = read_run(options.baseline[0]), read_run(options.current[0])
    cells = list({cell.key: cell for stored in (base, head) for part in stored.run.plan for cell in part}.values())
    evidence = unpaired_evidence(cells, base.trials, head.trials, policy.margins)
    evidence = without_drift(evidence, base.trials, head.trials)
    evidence += certificate_evidence(base.run.pairs, head.run.pairs)
    if base.run.suite != head.run.suite:
        why = f"the baseline is of suite {base.run.suite}, the current run of {head.run.suite}: give runs of one suite"
        evidence.append(CellEvidence(key="suite", spoiled=("suite", why)))
    return decide(evidence, policy), (base, head)


def _folder(options: GateOptions) -> Path | None:
    """The gate's folder, where the user wants one; a gate that measures nothing needs none."""
    return None if options.out is None else new_folder(RunOptions(suite="gate", out=options.out), "gate")


def _benchmarks(
    options: GateOptions, policy: Policy, command: Sequence[str], begin: float
) -> tuple[Path | None, GateResult, GateContext]:
    """Times from pytest-benchmark's JSON, on one side or both, process against process."""
    base, head = (benchmarks_from(side) for side in (options.baseline, options.current))
    folder = _folder(options)
    result = decide(benchmark_evidence(base, head), policy)
    context = GateContext(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
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
    return folder, result, context


def _counters(
    options: GateOptions, policy: Policy, command: Sequence[str], begin: float
) -> tuple[Path | None, GateResult, GateContext]:
    """What the cells do now, against the committed file of what they did: exact, and on no clock."""
    assert options.counters is not None
    base = read_work(options.counters)
    plan, head, spoiled = _count(options)
    folder = _folder(options)
    untimed = policy.model_copy(
        update={"margins": {}, "cells": tuple(cell.model_copy(update={"margins": {}}) for cell in policy.cells)}
    )
    result = decide(work_evidence(base, head, spoiled), untimed)
    context = counted_context(
        str(options.counters),
        suite=plan.suite.name,
        device=plan.device,
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        duration_s=time.monotonic() - begin,
    )
    return folder, result, context


def _count(options: GateOptions) -> tuple[Plan, Work, Spoiled]:
    """The cells' work, counted in this process."""
    # The same cells on every machine: an accelerator would have others.
    device = "cpu" if options.run.device == "auto" else options.run.device
    # Standard output may be a document's: what a generator prints is not part of it.
    with redirect_stdout(sys.stderr):
        plan = make_plan(replace(options.run, device=device))
        if options.only_generators:
            plan = only(plan, options.run.generators)
        return plan, *count_work(plan)


def _measured(
    options: GateOptions, policy: Policy, folder: Path, command: Sequence[str], console: Console
) -> tuple[GateResult, tuple[Side, Side]]:
    """Measure pairs into `folder/base` and `folder/head` until a verdict stands; returns it and the two sides."""
    progress = Progress(console, quiet=False)
    logs = folder / "logs"
    logs.mkdir()
    with _sides(options, logs, progress) as (sides, run_options, place):
        with chdir(place):
            plan = make_plan(run_options)
        if options.only_generators:
            plan = only(plan, run_options.generators)
        campaign = Campaign(plan, sides, folder, progress, run_options, command)
        # Learning wants as many pairs as there may be, and looks at them once.
        once = policy.model_copy(update={"looks": policy.looks[-1:]})
        looked = campaign.run(once if options.learn_margins else policy, options.budget_s)
        for note in campaign.notes:
            progress.note(note)
        if options.learn_margins:
            learned_policy, learned = learn_margins(campaign.evidence(policy), policy)
            (folder / LEARNED).write_text(learned_toml(learned_policy, learned), encoding="utf-8")
            _show_learned(learned, folder / LEARNED, console)
        return looked, sides


def only(plan: Plan, generators: Sequence[str]) -> Plan:
    """The plan with the cells of these generators alone. Raises InputError where it has none."""
    pairings = []
    for pairing in plan.pairings:
        cells = tuple(cell for cell in pairing.cells if cell.generator in generators)
        if cells:
            pairings.append(pairing.model_copy(update={"cells": cells}))
    if not pairings:
        raise InputError("--only: there is no cell of a generator that was given; name one with --generator")
    return replace(plan, pairings=tuple(pairings))


@contextmanager
def _sides(
    options: GateOptions, logs: Path, progress: Progress
) -> Iterator[tuple[tuple[Side, Side], RunOptions, Path]]:
    """Both sides ready to start workers, the run's options as they understand them, and the folder to plan in."""
    run = options.settled()
    if options.against is not None:
        repository = find_repository(Path.cwd())
        run = replace(run, generators=tuple(placed(repository, name) for name in run.generators))
        with prepared(
            repository,
            options.against,
            logs=logs,
            merge_base=options.merge_base,
            install=options.install,
            say=progress.say,
        ) as sides:
            yield sides, run, repository.root / repository.folder
    elif options.base_cmd is not None and options.head_cmd is not None:
        yield commanded(options.base_cmd, options.head_cmd), run, Path.cwd()
    else:
        yield (Side("base", Launch()), Side("head", Launch())), run, Path.cwd()


def _revision(side: Side) -> Revision | None:
    """The commit that was checked out for a side: of a working tree with changes, the one that they are on."""
    made = side.made
    if made is None:
        return None
    return (made.revision.on if made.revision.dirty else made.revision.commit), made.revision.dirty


def _names(options: GateOptions) -> tuple[str, str]:
    """What the user calls the two sides."""
    if options.against is not None:
        return options.against, "the working tree"
    return options.base_cmd or "this dlmbench", options.head_cmd or "this dlmbench"


@contextmanager
def _kept_if_used(folder: Path) -> Iterator[None]:
    """Remove the folder again if what was asked is refused before anything was measured."""
    try:
        yield
    except InputError:
        if not any((folder / side / "trials.jsonl").exists() for side in ("base", "head")):
            logs = [path for path in (folder / "logs").glob("install-*.log") if path.stat().st_size]
            if not logs:
                shutil.rmtree(folder, ignore_errors=True)
                with suppress(OSError):
                    folder.parent.rmdir()  # `runs`, where it was made for this one
        raise


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


def _show_learned(learned: Sequence[Learned], path: Path, console: Console) -> None:
    for one in learned:
        detects = "no slowdown up to twice the time" if one.detects is None else f"+{one.detects:.1%}"
        console.print(
            Text(
                f"{one.metric}: margin {one.margin.relative:.1%} from {one.pairs} pairs of equal programs (a pair's "
                f"ratio spreads by {one.spread:.2%} in {one.noisiest}); found in nine of ten gates: {detects}"
            ),
            soft_wrap=True,
        )
        if one.warning:
            console.print(Text(one.warning, style="yellow"), soft_wrap=True)
    with suppress(OSError):
        console.print(Text(f"{path}: use it with --policy"), soft_wrap=True)
