"""A load's folder: `load.json`, replaced whole as windows end, and `requests.jsonl`, a line a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..store import append_lines, read_lines, replace_file, rewrite_lines
from ..versioned import read_versioned
from .record import LOAD_SCHEMA, LoadRun, RequestRecord

LOAD_FILE, REQUESTS_FILE = "load.json", "requests.jsonl"
# Where in a run's folder the load of its suite lies.
LOAD_FOLDER = "load"


@dataclass(frozen=True)
class StoredLoad:
    """A load as it lies on disk."""

    path: Path
    run: LoadRun
    requests: tuple[RequestRecord, ...]


def is_load(folder: Path) -> bool:
    """Whether a folder holds a load itself, not a run that may have one beside its cells."""
    try:
        return (folder / LOAD_FILE).is_file()
    except OSError:
        return False


def write_load(folder: Path, run: LoadRun) -> None:
    """Write or replace `load.json`."""
    replace_file(folder / LOAD_FILE, run.model_dump_json(indent=1) + "\n")


def append_requests(folder: Path, requests: Sequence[RequestRecord]) -> None:
    """Append a window's requests in one write, synced. On an error nothing is left half-written."""
    append_lines(folder / REQUESTS_FILE, requests)


def rewrite_requests(folder: Path, requests: Sequence[RequestRecord]) -> None:
    """Replace all requests by these: what a load that was cut off goes on from."""
    rewrite_lines(folder / REQUESTS_FILE, requests)


def read_load(folder: Path) -> StoredLoad:
    """Read a load's folder; requests of a window that `load.json` does not list are left out, since it was cut off.

    Raises InputError, in one line, for anything that is not a readable load.
    """
    run = read_versioned(
        folder / LOAD_FILE,
        LoadRun,
        LOAD_SCHEMA,
        expected="expected a load written by dlmbench",
        again="restore the file or measure again",
        missing=f"{folder}: not a load's folder, it has no {LOAD_FILE}; give one written by `dlmbench load`",
    )
    whole = {window.number for window in run.windows}
    requests = read_lines(folder / REQUESTS_FILE, RequestRecord)
    return StoredLoad(folder, run, tuple(request for request in requests if request.window in whole))
