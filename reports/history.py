"""A folder of runs, read for its history: of each run only what a trend needs, oldest first, and a note on the rest.

Runs may lie at any depth. What cannot be read, belongs to a newer schema or is a copy of another run is left out with
a note; a run that was torn or not finished counts as far as it goes.
"""

from __future__ import annotations

import datetime
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from .. import InputError
from ..profiles.record import Measurement, Trial
from ..profiles.store import RUN_FILE, StoredRun, TornRecordWarning, read_run
from .conditions import conditions

Limit = Literal["matmul", "read"]


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate of the calibration, the median over the processes, and its kernel: only rates of equal work compare."""

    per_s: float
    kernel: tuple[str | int | None, ...]


@dataclass(frozen=True, slots=True)
class Rates:
    """What the device did beside one cell: matrix product (FLOP/s) and read (B/s), None where they were not measured.

    `limit` is the rate that the cell's work asks more of (None: its cost is not known).
    """

    matmul: Rate | None
    read: Rate | None
    limit: Limit | None


@dataclass(frozen=True, slots=True)
class PastRun:
    """A run as its history keeps it."""

    path: Path
    id: str
    created: datetime.datetime
    suite: str
    device: str
    device_name: str
    commit: str
    dlmbench: str
    conditions: dict[str, str]
    measurements: dict[str, Measurement]
    rates: dict[str, Rates]


@dataclass(frozen=True, slots=True)
class Note:
    """A remark on one folder: why it was left out, or what to know of it."""

    path: Path
    text: str


@dataclass(frozen=True, slots=True)
class History:
    """`runs` by their date; `notes` in the order in which the folders were read."""

    folder: Path
    runs: tuple[PastRun, ...]
    notes: tuple[Note, ...]


def read_history(folder: Path, read: Callable[[Path], StoredRun] = read_run) -> History:
    """Every run below `folder`. Raises InputError where there is none that can be read."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one that holds runs of `dlmbench run`")
    runs: list[PastRun] = []
    notes: list[Note] = []
    seen: dict[tuple[str, str, str], Path] = {}
    for path in run_folders(folder):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", TornRecordWarning)
            try:
                stored = read(path)
                created = _moment(stored.run.created, path)
            except InputError as error:
                notes.append(Note(path, f"left out: {error}"))
                continue
        identity = (stored.run.id, stored.run.created, stored.run.device_name)
        if identity in seen:
            notes.append(Note(path, f"left out: a copy of {seen[identity]}"))
            continue
        seen[identity] = path
        notes += [Note(path, str(warning.message)) for warning in caught]
        if stored.run.finished is None:
            notes.append(Note(path, "not finished: its cells count as far as they were measured"))
        runs.append(_past(stored, created))
    if not runs and not notes:
        raise InputError(f"{folder}: there is no run in it; expected folders written by `dlmbench run`")
    if not runs:
        raise InputError(f"{folder}: none of its {len(notes)} runs can be read; the first is {notes[0].text}")
    return History(folder, tuple(sorted(runs, key=lambda run: (run.created, run.id))), tuple(notes))


def run_folders(folder: Path) -> Iterable[Path]:
    """The folders at or below `folder` that hold a run, by name; nothing below a run, no hidden folder, no link."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if RUN_FILE in files:
            folders.clear()
            yield Path(place)


def _moment(created: str, path: Path) -> datetime.datetime:
    try:
        moment = datetime.datetime.fromisoformat(created)
    except ValueError:
        raise InputError(f"{path}: created is {created!r}, expected a date and time in ISO 8601") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=datetime.UTC)


def _past(stored: StoredRun, created: datetime.datetime) -> PastRun:
    run = stored.run
    found = conditions(stored)
    trials: dict[str, list[Trial]] = defaultdict(list)
    for trial in stored.trials:
        trials[trial.key].append(trial)
    return PastRun(
        path=stored.path,
        id=run.id,
        created=created,
        suite=run.suite,
        device=run.device,
        device_name=run.device_name,
        commit=found["commit"],
        dlmbench=run.dlmbench_version,
        conditions=found,
        measurements={m.key: m for m in stored.measurements},
        rates={key: _rates(own) for key, own in trials.items()},
    )


def _rates(trials: Sequence[Trial]) -> Rates:
    """The rates beside the trials of one cell."""
    both = [beside for trial in trials for beside in (trial.calibration_before, trial.calibration_after)]
    beside = [calibration for calibration in both if calibration is not None]
    return Rates(
        matmul=_rate([(c.matmul_flop_s, (c.dtype, c.matrix)) for c in beside]),
        read=_rate([(c.read_b_s, (c.read_block_b,)) for c in beside]),
        limit=next((limit for trial in trials if (limit := _limit(trial)) is not None), None),
    )


def _rate(seen: Sequence[tuple[float, tuple[str | int | None, ...]]]) -> Rate | None:
    """None where none was measured, or not one kernel throughout."""
    kernels = {kernel for _, kernel in seen}
    middle = median(per_s for per_s, _ in seen) if seen else 0.0
    return Rate(middle, kernels.pop()) if len(kernels) == 1 and middle > 0 else None


def _limit(trial: Trial) -> Limit | None:
    """What the cell's analytic work needs longer for: its arithmetic or its traffic."""
    flops, moved = trial.counters.get("model_flops"), trial.counters.get("model_bytes")
    peak = trial.calibration_before or trial.calibration_after
    if peak is None or not isinstance(flops, int | float) or not isinstance(moved, int | float):
        return None
    return "matmul" if flops / peak.matmul_flop_s > moved / peak.read_b_s else "read"
