"""The folders of runs: new ones, one writer each, and an id by which a run is known from its copies."""

from __future__ import annotations

import errno
import os
import secrets
import shlex
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from .. import CANNOT_WRITE, InputError
from ..profiles.serving.store import is_load
from ..profiles.store import RUN_FILE
from .signals import sigterm_interrupts

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]


class InterruptedRunError(Exception):
    """The user stopped a run, a gate or a load; what was finished is on disk. Its text is the command that goes on."""


def new_folder(out: Path | None, kind: str) -> Path:
    """Make the folder `out`, or a new one under `runs` that is named for its kind. Raises InputError where it exists
    with content, or cannot be written."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder = out or Path("runs") / f"{kind}-{stamp}-{secrets.token_hex(2)}"
    try:
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be written ({error.strerror}); choose another folder") from None
    if taken:
        command = "load" if is_load(folder) else "run" if (folder / RUN_FILE).exists() else None
        hint = "" if command is None else f"; dlmbench {command} --resume {folder} goes on with it"
        raise InputError(f"--out {folder}: exists and is not an empty folder; choose another{hint}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.write_bytes(b"\0" * (1 << 20))
        probe.unlink()
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be written ({error.strerror}); choose a folder with space") from None
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second run out of the folder while this one writes to it. The folder itself is locked: no file stays."""
    if fcntl is None:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{folder}: another dlmbench run is writing here; wait for it or choose --out") from None
        yield
    finally:
        os.close(descriptor)


def new_id() -> str:
    """By which a run is known from its copies."""
    return secrets.token_hex(8)


@contextmanager
def stoppable(command: str, folder: Path) -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does; that, or a folder that takes no more, is told with how to go on."""
    onwards = f"dlmbench {command} --resume {shlex.quote(str(folder))}"
    try:
        with sigterm_interrupts():
            yield
    except KeyboardInterrupt:
        raise InterruptedRunError(onwards) from None
    except OSError as error:
        gone = error.errno == errno.ENOENT and not folder.is_dir()
        if error.errno not in CANNOT_WRITE and not gone:
            raise
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); what was finished is kept, make room and go on with: "
            f"{onwards}"
        ) from None


def refuse_changes(folder: Path, differing: Mapping[str, bool], another: str = "one") -> None:
    """Raise InputError naming what differs from when something was started: samples of two questions are never pooled.

    `another` says what to start anew.
    """
    changed = [name for name, differs in differing.items() if differs]
    if changed:
        raise InputError(
            f"--resume {folder}: {' and '.join(changed)} changed since it was started; start a new {another}"
        )


@contextmanager
def where_it_started(start: object) -> Iterator[None]:
    """Work in the folder that something was started in, so that relative file names mean the same files."""
    if not isinstance(start, str) or not Path(start).is_dir():
        yield
        return
    with chdir(start):
        yield
