"""A run from its plan to its record: folder, lock, sweep, measurements. What touches the disk happens here."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import InputError, __version__
from ..profiles.environment import capture_environment, read_libraries, read_moment
from ..profiles.git import git_state
from ..profiles.hardware import Datasheet, DevicePeaks
from ..profiles.record import Calibration, Run, Trial
from ..profiles.store import (
    RUN_FILE,
    TRIALS_FILE,
    StoredRun,
    read_run,
    rewrite_trials,
    write_measurements,
    write_run,
)
from .folders import locked, new_folder, new_id, refuse_changes, stoppable, where_it_started
from .options import RunOptions, adopted
from .plan import Plan, ar_generators, make_plan, pair_records
from .progress import Progress
from .schedules import write_schedules
from .summary import measurements
from .sweep import Job, sweep


def start_run(options: RunOptions, plan: Plan, command: Sequence[str], progress: Progress) -> StoredRun:
    """Measure a plan into a new folder. What is refused before anything was measured leaves no folder behind."""
    folder = new_folder(options.out, plan.suite.name)
    with locked(folder):
        run = new_run(options, plan, command)
        write_run(folder, run)
        try:
            return _measure(run, plan, folder, frozenset(), progress)
        except InputError:
            if not (folder / TRIALS_FILE).exists():
                shutil.rmtree(folder / "logs", ignore_errors=True)
                (folder / RUN_FILE).unlink(missing_ok=True)
                with suppress(OSError):
                    folder.rmdir()
            raise


def resume_run(folder: Path, options: RunOptions, suite_given: bool, progress: Progress) -> StoredRun:
    """Go on with a run that was cut off: finished pairings are kept, the rest is measured with the recorded options."""
    folder = folder.resolve()
    stored = read_run(folder)
    with locked(folder), where_it_started(stored.run.settings.get("cwd")):
        plan = make_plan(_recorded(folder, stored.run, options, suite_given))
        same_question(folder, stored.run, plan)
        wanted = {f"{p.name}#{process}": len(p.cells) for p in plan.pairings for process in range(p.processes)}
        trials = read_run(folder).trials
        counts = Counter(trial.pairing for trial in trials)
        done = frozenset(name for name, count in counts.items() if wanted.get(name) == count)
        kept = [trial for trial in trials if trial.pairing in done]
        rewrite_trials(folder, kept)
        return _measure(stored.run, plan, folder, done, progress)


def same_question(folder: Path, run: Run, plan: Plan) -> None:
    """Refuse to pool samples of other shapes, weights, prompts or versions with those that are on disk."""
    if tuple(pairing.cells for pairing in plan.pairings) != run.plan:
        raise InputError(
            f"--resume {folder}: its cells are not those that suite {run.suite!r} has now "
            f"(the suite, a pair or the device has changed); start a new one"
        )
    pairs = tuple(type(record).model_validate_json(record.model_dump_json()) for record in pair_records(plan))
    libraries = ("torch", "transformers", "numpy")
    then, now = dict(run.environment.get("libraries") or {}), read_libraries()
    differing = {
        "a pair or its weights": pairs != run.pairs,
        "the prompts": plan.prompts.sha256 != run.prompts.get("sha256"),
        "the tokenizer": plan.prompts.tokenizer.sha256 != run.prompts.get("tokenizer_sha256"),
        "the suite's load": plan.suite.model_dump(mode="json")["load"] != run.settings.get("load"),
        "dlmbench": __version__ != run.dlmbench_version,
        **{name: then.get(name) != now.get(name) for name in libraries},
    }
    refuse_changes(folder, differing)


def _recorded(folder: Path, run: Run, given: RunOptions, suite_given: bool) -> RunOptions:
    """The options that the run was started with. Others beside --resume are refused, not passed over."""
    if suite_given and given.suite != run.suite:
        raise InputError(
            f"--resume {folder}: it is a run of suite {run.suite!r}, not {given.suite!r}; "
            f"leave the suite out, or start a new run"
        )
    if given != RunOptions(suite=given.suite):
        raise InputError(
            f"--resume {folder}: a run goes on with the flags that it was started with; leave all others out, "
            f"or start a new run"
        )
    recorded = run.settings.get("options")
    try:
        if not isinstance(recorded, dict):
            raise InputError("options: expected a table")
        return adopted(given, recorded)
    except InputError as error:
        raise InputError(f"{folder / RUN_FILE}: settings.{error}; restore the file or start a new run") from None


def new_run(options: RunOptions, plan: Plan, command: Sequence[str]) -> Run:
    """The record of a run that begins now."""
    # The state of the code that is measured, where that is the user's own.
    environment = capture_environment() | {"working_git": git_state(Path.cwd())}
    settings: dict[str, Any] = plan.suite.model_dump(mode="json", exclude={"grid", "name", "description", "load"})
    if plan.suite.load is not None:
        settings["load"] = plan.suite.load.model_dump(mode="json")
    settings |= {
        "threads": plan.threads,
        "blockwise": sorted(plan.blockwise),
        "options": _plain(asdict(options)),
        "cwd": os.getcwd(),
    }
    return Run(
        id=new_id(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        suite=plan.suite.name if not options.suite.endswith(".toml") else options.suite,
        suite_description=plan.suite.description,
        command=tuple(command),
        seed=plan.suite.seed,
        device=plan.device,
        device_name=str((environment.get("cpu") or {}).get("model") or plan.device),
        processes=max(pairing.processes for pairing in plan.pairings),
        settings=settings,
        prompts={
            "source": plan.prompts.name,
            "sha256": plan.prompts.sha256,
            "tokenizer": plan.prompts.tokenizer.name,
            "tokenizer_sha256": plan.prompts.tokenizer.sha256,
        },
        pairs=pair_records(plan),
        plan=tuple(pairing.cells for pairing in plan.pairings),
        environment=environment,
        warnings=plan.warnings,
        dlmbench_version=__version__,
    )


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in options.items() if name != "out"}
    return {name: str(value) if isinstance(value, Path) else value for name, value in kept.items()}


def _measure(run: Run, plan: Plan, folder: Path, done: frozenset[str], progress: Progress) -> StoredRun:
    """Sweep what is not done, then write measurements and the finished record; also when interrupted."""
    job = Job.of(plan, folder, done=done, peaks=run.device_peaks)

    def keep_peaks(peaks: DevicePeaks | None, notes: Sequence[str]) -> None:
        from .floors import show_what_physics_allows  # imports torch, which reading a run does not need

        nonlocal run
        if peaks is None:
            run = run.model_copy(update={"warnings": (*run.warnings, *notes)})
        else:
            run = run.model_copy(update={"device_peaks": peaks})
        for note in notes:
            progress.note(note)
        write_run(folder, run)
        try:
            progress.show(lambda console: show_what_physics_allows(plan, peaks, console))
        except Exception as error:  # a table to read beforehand: no reason to measure nothing
            progress.note(f"What physics allows could not be told beforehand: {type(error).__name__}: {error}")

    begin = time.monotonic()
    device_name = ""
    with stoppable("run", folder):
        try:
            with progress:
                device_name = sweep(job, progress, keep_peaks)
        except KeyboardInterrupt:
            _conclude(run, folder, begin, device_name, complete=False)
            raise
        _conclude(run, folder, begin, device_name, complete=True)
    return read_run(folder)


def _conclude(run: Run, folder: Path, begin: float, device_name: str, *, complete: bool) -> None:
    """Write the measurements and the record as they are at the end of a session."""
    trials = read_run(folder).trials
    finished = datetime.now(UTC).isoformat(timespec="seconds") if complete else None
    spent = (run.duration_s or 0.0) + time.monotonic() - begin
    write_schedules(folder, trials, run.pairs)
    write_measurements(folder, measurements(trials, ar_generators(run.pairs), stated(run), run.plan))
    write_run(folder, replace_run(run, trials, finished, spent, device_name))


def stated(run: Run) -> Datasheet | None:
    """What the maker states for the device of a run, where both are known."""
    return None if run.device_peaks is None else run.device_peaks.datasheet


def replace_run(run: Run, trials: Sequence[Trial], finished: str | None, spent: float, device_name: str) -> Run:
    """The record at the end of a session: duration, best calibrations, the device's name, warnings about workers."""
    peaks: dict[str, Calibration] = {}
    for trial in trials:
        for seen in (trial.calibration_before, trial.calibration_after):
            if seen is not None:
                best = peaks.get(seen.dtype, seen)
                peaks[seen.dtype] = Calibration(
                    matmul_flop_s=max(best.matmul_flop_s, seen.matmul_flop_s),
                    read_b_s=max(best.read_b_s, seen.read_b_s),
                    dtype=seen.dtype,
                )
    unsteady = [trial.key for trial in trials if trial.warmup is not None and not trial.warmup.steady]
    warnings = list(run.warnings)
    if unsteady:
        warnings.append(f"{len(unsteady)} trials never settled during warm-up, {unsteady[0]} among them.")
    moved = [trial for trial in trials if trial.drift is not None]
    if moved:
        most = max(moved, key=lambda trial: abs(trial.drift or 0.0))
        warnings.append(
            f"{len(moved)} trials drifted against those they alternated with, {most.key} most, by {most.drift:+.0%}; "
            f"their workers were replaced."
        )
    name = device_name if run.device.startswith("cuda") and device_name else run.device_name
    update = {
        "finished": finished,
        "duration_s": spent,
        "peaks": tuple(peaks.values()),
        "device_name": name,
        "warnings": tuple(dict.fromkeys(warnings)),
        "after": read_moment(),
    }
    return run.model_copy(update=update)
