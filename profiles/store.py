"""A run's folder: written so that a kill loses at most the open pairing, read so that a torn line costs one line.

`trials.jsonl` grows by one flushed and synced write a pairing. Everything else is replaced whole: written to a
temporary neighbour and renamed, so that a reader (or a power cut) sees the old file or the new one, never half of one.
"""

from __future__ import annotations

import errno
import json
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from .. import InputError
from .record import SCHEMA_VERSION, Measurement, Run, Trial
from .studies import Studies
from .versioned import first_problem, read_versioned

RUN_FILE, TRIALS_FILE, MEASUREMENTS_FILE = "run.json", "trials.jsonl", "measurements.jsonl"
STUDIES_FILE = "studies.json"

_Line = TypeVar("_Line", bound=BaseModel)


class TornRecordWarning(UserWarning):
    """The last line of a record was cut off, by a kill or a full disk, and has been ignored."""


@dataclass(frozen=True)
class StoredRun:
    """A run as it lies on disk. `measurements` is empty while the run is still going on; `studies` are by pair."""

    path: Path
    run: Run
    trials: tuple[Trial, ...]
    measurements: tuple[Measurement, ...]
    studies: dict[str, Studies] = field(default_factory=dict)


def replace_file(path: Path, text: str) -> None:
    """Write `text` to `path` whole: a crash leaves the old file or the new one. Raises OSError."""
    if not path.name:  # "" or "..": `with_name` would call that a bug
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_run(folder: Path, run: Run) -> None:
    """Write or replace `run.json`."""
    replace_file(folder / RUN_FILE, run.model_dump_json(indent=1) + "\n")


def write_measurements(folder: Path, measurements: Iterable[Measurement]) -> None:
    """Write or replace `measurements.jsonl`."""
    replace_file(folder / MEASUREMENTS_FILE, "".join(m.model_dump_json() + "\n" for m in measurements))


def write_studies(folder: Path, studies: Iterable[Studies]) -> None:
    """Write or replace `studies.json`: a list, one entry a pair."""
    document = [entry.model_dump(mode="json") for entry in studies]
    replace_file(folder / STUDIES_FILE, json.dumps(document, ensure_ascii=False, indent=1) + "\n")


def read_studies(folder: Path) -> dict[str, Studies]:
    """The studies of a run by pair; empty where it has none. Raises InputError for a file that is none."""
    path = folder / STUDIES_FILE
    try:
        entries = TypeAdapter(list[Studies]).validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error)}; delete the file, or restore it") from None
    return {entry.pair: entry for entry in entries}


def append_trials(folder: Path, trials: Sequence[Trial]) -> None:
    """Append the trials of one pairing in a single write, synced to disk. On an error nothing is left half-written."""
    append_lines(folder / TRIALS_FILE, trials)


def append_lines(path: Path, entries: Sequence[BaseModel]) -> None:
    """Append a line an entry in a single write, synced to disk. On an error nothing is left half-written."""
    block = "".join(entry.model_dump_json() + "\n" for entry in entries).encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        before = os.fstat(descriptor).st_size
        try:
            view = memoryview(block)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)


def rewrite_trials(folder: Path, trials: Sequence[Trial]) -> None:
    """Replace `trials.jsonl`, to drop a torn line or an open pairing before a run is resumed."""
    rewrite_lines(folder / TRIALS_FILE, trials)


def rewrite_lines(path: Path, entries: Sequence[BaseModel]) -> None:
    """Replace a file of lines whole.

    Nobody else may be writing to the folder: what a kill left of other files half replaced is removed too.
    """
    for left in path.parent.glob(".*.tmp"):
        left.unlink(missing_ok=True)
    replace_file(path, "".join(entry.model_dump_json() + "\n" for entry in entries))


def read_run(folder: Path) -> StoredRun:
    """Read a run's folder. Raises InputError, in one line, for anything that is not a readable run."""
    try:
        there = folder.is_dir()
    except OSError as error:  # a name that no file system takes
        raise InputError(f"{str(folder)[:80]}: no run folder ({error.strerror}); give one of `dlmbench run`") from None
    if not there:
        raise InputError(f"{folder}: no such run folder; expected one written by `dlmbench run`")
    run = read_versioned(
        folder / RUN_FILE,
        Run,
        SCHEMA_VERSION,
        expected="expected a run written by dlmbench",
        again="restore the file or measure again",
        missing=f"{folder}: not a run folder, it has no {RUN_FILE}; give one written by `dlmbench run`",
    )
    return StoredRun(
        folder,
        run,
        tuple(read_lines(folder / TRIALS_FILE, Trial)),
        tuple(read_lines(folder / MEASUREMENTS_FILE, Measurement)),
        read_studies(folder),
    )


def read_lines(path: Path, kind: type[_Line]) -> Iterable[_Line]:
    """The parsed lines of a JSONL file; a torn last line is dropped with a warning, any other bad line is an error."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    lines = raw.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            yield kind.model_validate_json(line)
        except ValidationError as error:
            if number == len(lines):
                warnings.warn(f"{path}:{number}: torn last line dropped", TornRecordWarning, stacklevel=2)
                return
            raise InputError(f"{path}:{number}: {first_problem(error)}; the record is corrupted, restore it") from None
