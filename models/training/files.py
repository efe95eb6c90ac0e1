"""Files that appear whole or not at all, and one clear line where one cannot be written or read."""

from __future__ import annotations

import os
from pathlib import Path

from ... import InputError


def ready(folder: Path) -> None:
    """Make `folder` where it is missing. Raises InputError for one that cannot be read and written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(folder, os.R_OK | os.W_OK | os.X_OK) else "no permission to read and write it"
    except OSError as error:
        reason = error.strerror
    if reason:
        raise InputError(f"{folder}: cannot be used ({reason}); choose another folder, or change its mode")


def write_whole(path: Path, data: bytes) -> None:
    """Write `path` by way of a neighbour that takes its place once it is on the disk; its folder is made.

    Raises InputError where that fails; what lay at `path` is then as it was.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(part, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
            # The rename itself must outlive a power cut, too: a later deletion of an older file counts on it.
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); earlier files are as they were; make room or change the "
            "folder's mode, then go on with --resume"
        ) from None
