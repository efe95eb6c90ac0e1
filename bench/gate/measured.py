"""Gates that measure: both sides made ready, pairs until a verdict stands, and going on with what was cut off."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, chdir, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ... import InputError
from ...profiles.gate import Policy
from ...profiles.gate_record import GateDocument, read_gate
from ...profiles.record import Run
from ...profiles.store import TRIALS_FILE, read_run
from ...reports.gate_context import Revision, stored_context
from ..folders import InterruptedRunError, locked, stoppable
from ..handle import Launch
from ..options import RunOptions
from ..plan import make_plan, only
from ..progress import Progress
from ..run import same_question
from .campaign import Campaign
from .learned import Learned, learn_margins, learned_toml
from .options import GateOptions
from .policy import policy_of
from .repository import find_repository
from .resume import SETTING, Asked, adopted, asked_in, kept_pairs, same_gate
from .sides import Side, commanded, placed, prepared

DOCUMENT, LEARNED = "gate.json", "policy.toml"


def measured(
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
        recorded = {
            SETTING: asked.model_dump(mode="json"),
            "sides": [side.record.model_dump(mode="json") for side in sides],
        }
        campaign = Campaign(plan, sides, folder, progress, run_options, command, recorded)
        if before is not None:
            same_gate(folder, before[0], asked)
            same_question(folder, before[1], plan)
            campaign.begun, campaign.kept = True, kept_pairs(folder, campaign.cells)
            progress.say(f"{len(campaign.kept)} pairs are kept")
        # Learning wants as many pairs as there may be, and looks at them once.
        once = policy.model_copy(update={"looks": policy.looks[-1:]})
        result = campaign.run(once if options.learn_margins else policy, options.budget_s)
        for note in campaign.notes:
            progress.note(note)
        if options.learn_margins:
            learned_policy, learned = learn_margins(campaign.evidence(policy), policy)
            (folder / LEARNED).write_text(learned_toml(learned_policy, learned), encoding="utf-8")
            _show_learned(learned, folder / LEARNED, console)
        context = stored_context(
            read_run(folder / "base"),
            read_run(folder / "head"),
            names=_names(options),
            command=command,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            duration_s=time.monotonic() - begin,
            paired=True,
            revisions=(_revision(sides[0]), _revision(sides[1])),
        )
        return GateDocument(result=result, context=context)


def resumed(
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
    return measured(options, policy_of(options), folder, command, console, (asked, run)), options


@contextmanager
def kept_if_used(folder: Path) -> Iterator[None]:
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
