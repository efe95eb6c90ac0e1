"""A load's folder: `load.json`, replaced whole as windows end, and `requests.jsonl`, a line a request."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ... import InputError
from ..store import TornRecordWarning, replace_file
from .record import LOAD_SCHEMA, LoadRun, RequestRecord

LOAD_FILE, REQUESTS_FILE = "load.json", "requests.jsonl"


@dataclass(frozen=True)
class StoredLoad:
    """A load as it lies on disk."""

    path: Path
    run: LoadRun
    requests: tuple[RequestRecord, ...]


def is_load(folder: Path) -> bool:
    """Whether a folder holds a load and not a run."""
    try:
        return (folder / LOAD_FILE).is_file()
    except OSError:
        return False


def write_load(folder: Path, run: LoadRun) -> None:
    """Write or replace `load.json`."""
    replace_file(folder / LOAD_FILE, run.model_dump_json(indent=1) + "\n")


def append_requests(folder: Path, requests: Sequence[RequestRecord]) -> None:
    """Append a window's requests in one write, synced. On an error nothing is left half-written."""
    block = "".join(request.model_dump_json() + "\n" for request in requests).encode()
    descriptor = os.open(folder / REQUESTS_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
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


def read_load(folder: Path) -> StoredLoad:
    """Read a load's folder; requests of a window that `load.json` does not list are left out, since it was cut off.

    Raises InputError, in one line, for anything that is not a readable load.
    """
    path = folder / LOAD_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        version = document["schema_version"]
    except FileNotFoundError:
        raise InputError(f"{folder}: not a load's folder, it has no {LOAD_FILE}") from None
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read as a load ({error}); restore it or measure again") from None
    if not isinstance(version, int) or version > LOAD_SCHEMA:
        raise InputError(f"{path}: schema_version {version!r} is not one that this dlmbench reads; upgrade dlmbench")
    try:
        run = LoadRun.model_validate_json(json.dumps(document))
    except ValidationError as error:
        raise InputError(f"{path}: {_first(error)}; restore the file or measure again") from None
    whole = {window.number for window in run.windows}
    return StoredLoad(folder, run, tuple(r for r in _requests(folder / REQUESTS_FILE) if r.window in whole))


def _requests(path: Path) -> list[RequestRecord]:
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            found.append(RequestRecord.model_validate_json(line))
        except ValidationError as error:
            if number == len(lines):
                warnings.warn(f"{path}:{number}: torn last line dropped", TornRecordWarning, stacklevel=2)
                break
            raise InputError(f"{path}:{number}: {_first(error)}; the record is corrupted, restore it") from None
    return found


def _first(error: ValidationError) -> str:
    detail = error.errors()[0]
    return f"{'.'.join(str(part) for part in detail['loc']) or 'document'}: {detail['msg']}"
