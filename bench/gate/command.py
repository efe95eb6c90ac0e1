"""`dlmbench gate`: two sides in, one verdict out, as a table, JSON, JUnit XML and Markdown. The verdict comes last."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ... import InputError
from ...profiles.gate import EXIT_CODES, CellEvidence, GateResult, Policy
from ...profiles.gate_record import GateDocument, read_gate, write_gate
from ...profiles.record import Run
from ...profiles.store import TRIALS_FILE, StoredRun, read_run
from ...reports.gate_annotations import print_annotations
from ...reports.gate_context import stored_context
from ...reports.gate_junit import write_junit
from ...reports.gate_markdown import append_job_summary, write_gate_markdown
from ...reports.gate_table import show_gate
from ..handle import Launch
from ..options import RunOptions
from ..plan import Plan, make_plan
from ..progress import Progress
from ..run import InterruptedRunError, locked, new_folder, same_question, stoppable
from .campaign import Campaign
from .decision import decide
from .evidence import certificate_evidence, unpaired_evidence, without_drift
from .learned import Learned, learn_margins, learned_toml
from .options import GateOptions
from .policy import overridden, read_policy
from .repository import find_repository
from .resume import SETTING, Asked, adopted, asked_in, kept_pairs, same_gate
from .sides import Side, commanded, placed, prepared

DOCUMENT, JUNIT, SUMMARY, LEARNED = "gate.json", "junit.xml", "summary.md", "policy.toml"
_SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"


def gate_command(
    options: GateOptions, command: Sequence[str], console: Console, *, variables: Mapping[str, str] = os.environ
) -> tuple[GateDocument, int]:
    """Compare, write the outputs, show the table; returns the document and the exit code."""
    with ExitStack() as stack:
        if options.resume is not None:
            folder: Path | None = options.resume.resolve()
            document, options = _resumed(options, options.resume.resolve(), command, console, stack)
        elif options.form == "stored":
            folder = None if options.out is None else new_folder(RunOptions(suite="gate", out=options.out), "gate")
            policy = policy_of(options)
            result, *runs = _stored(options, policy)
            document = _document(result, (runs[0], runs[1]), options, command)
        else:
            policy = policy_of(options)
            folder = new_folder(RunOptions(suite="gate", out=options.out), "gate").resolve()
            for guard in (locked(folder), _kept_if_used(folder), stoppable("gate", folder)):
                stack.enter_context(guard)
            document = _measured(options, policy, folder, command, console)
        for path in _write(document, options, folder, variables):
            console.print(Text(str(path)), soft_wrap=True)
    print_annotations(document, lambda line: console.out(line, end="", highlight=False), variables)
    show_gate(document, console)
    return document, EXIT_CODES[document.result.verdict]


def policy_of(options: GateOptions) -> Policy:
    """The policy of the file given, or the default one, with the flags given."""
    policy = Policy() if options.policy is None else read_policy(options.policy)
    policy = overridden(
        policy,
        alpha=options.alpha,
        looks=options.looks,
        margins=options.margins,
        floors=options.floors,
        accept_changed=True if options.accept_changed else None,
    )
    # Learning wants as many pairs as there may be, and looks at them once.
    return policy.model_copy(update={"looks": policy.looks[-1:]}) if options.learn_margins else policy


def _document(
    result: GateResult,
    runs: tuple[StoredRun, StoredRun],
    options: GateOptions,
    command: Sequence[str],
    duration_s: float | None = None,
) -> GateDocument:
    stored = options.form == "stored"
    context = stored_context(
        *runs,
        names=(str(options.baseline), str(options.current)) if stored else _names(options),
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        duration_s=duration_s,
        paired=not stored,
    )
    return GateDocument(result=result, context=context)


def _resumed(
    given: GateOptions, folder: Path, command: Sequence[str], console: Console, stack: ExitStack
) -> tuple[GateDocument, GateOptions]:
    """Go on with a gate that was cut off; one that has its verdict gives it again, and measures nothing.

    `stack` keeps others out of the folder, and this process in the one that the gate was started in.
    """
    asked, run = asked_in(folder)
    options = adopted(folder, given, asked)
    stack.enter_context(locked(folder))
    if not Path(asked.cwd).is_dir():
        raise InputError(f"--resume {folder}: {asked.cwd}, where it was started, is gone; start a new gate")
    stack.enter_context(chdir(asked.cwd))
    stack.enter_context(stoppable("gate", folder))
    if (folder / DOCUMENT).exists():
        return read_gate(folder / DOCUMENT), options
    return _measured(options, policy_of(options), folder, command, console, (asked, run)), options


def _stored(options: GateOptions, policy: Policy) -> tuple[GateResult, StoredRun, StoredRun]:
    """Two runs from disk, process against process, with the machine's drift between them taken out."""
    assert options.baseline is not None
    assert options.current is not None
    base, head = read_run(options.baseline), read_run(options.current)
    cells = list({cell.key: cell for stored in (base, head) for part in stored.run.plan for cell in part}.values())
    evidence = unpaired_evidence(cells, base.trials, head.trials, policy.margins)
    evidence = without_drift(evidence, base.trials, head.trials)
    evidence += certificate_evidence(base.run.pairs, head.run.pairs)
    if base.run.suite != head.run.suite:
        why = f"the baseline is of suite {base.run.suite}, the current run of {head.run.suite}: give runs of one suite"
        evidence.append(CellEvidence(key="suite", spoiled=("suite", why)))
    return decide(evidence, policy), base, head


def _measured(
    options: GateOptions,
    policy: Policy,
    folder: Path,
    command: Sequence[str],
    console: Console,
    before: tuple[Asked, Run] | None = None,
) -> GateDocument:
    """Measure pairs into `folder/base` and `folder/head` until a verdict stands.

    `before`: what an earlier session was asked, and its record.
    """
    begin = time.monotonic()
    progress = Progress(console, quiet=False)
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    with _sides(options, logs, progress) as (sides, run_options, place):
        with chdir(place):
            plan = make_plan(run_options)
        if options.only_generators:
            plan = only(plan, run_options.generators)
        asked = Asked.of(options, policy, sides)
        campaign = Campaign(
            plan, sides, folder, progress, run_options, command, {SETTING: asked.model_dump(mode="json")}
        )
        if before is not None:
            same_gate(folder, before[0], asked)
            same_question(folder, before[1], plan)
            campaign.record, campaign.kept = before[1], kept_pairs(folder, campaign.cells)
            progress.say(f"{len(campaign.kept)} pairs are kept")
        result = campaign.run(policy, options.budget_s)
        for note in campaign.notes:
            progress.note(note)
        if options.learn_margins:
            learned_policy, learned = learn_margins(
                campaign.evidence(policy), policy_of(replace(options, learn_margins=False))
            )
            (folder / LEARNED).write_text(learned_toml(learned_policy, learned), encoding="utf-8")
            _show_learned(learned, folder / LEARNED, console)
        sides_runs = read_run(folder / "base"), read_run(folder / "head")
        return _document(result, sides_runs, options, command, time.monotonic() - begin)


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


def _names(options: GateOptions) -> tuple[str, str]:
    """What the user calls the two sides."""
    if options.against is not None:
        return options.against, "the working tree"
    return options.base_cmd or "this dlmbench", options.head_cmd or "this dlmbench"


@contextmanager
def _kept_if_used(folder: Path) -> Iterator[None]:
    """Remove the folder again if what was asked is refused, or stopped, before anything was measured.

    What a refused build said stays.
    """
    try:
        yield
    except (InputError, InterruptedRunError) as error:
        stopped = isinstance(error, InterruptedRunError)
        if not any((folder / side / TRIALS_FILE).exists() for side in ("base", "head")):
            logs = [path for path in (folder / "logs").glob("install-*.log") if path.stat().st_size]
            if stopped or not logs:
                shutil.rmtree(folder, ignore_errors=True)
                with suppress(OSError):
                    folder.parent.rmdir()  # `runs`, where it was made for this one
            if stopped:
                raise KeyboardInterrupt from None
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
