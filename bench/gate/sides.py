"""The two sides of a gate: base and head, each as a way to start workers that run its code and no other.

    with prepared(find_repository(Path.cwd()), "origin/main", logs=folder) as (base, head):
        worker = WorkerHandle(log, threads, device, base.launch)
        info = greeted(base, worker.ask("load", …))
        why_not = prove(base, [info])

Whether a side's workers do run its code is for `proof` to say.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from ... import InputError
from ...profiles.child import PARENT
from ...profiles.stored import Stored
from ..folders import locked
from ..handle import Launch
from .checkout import changed_files, check_out
from .environment import Environment, Runner, make_environment, run_logged
from .repository import Repository, Revision, base_revision, head_revision

SideName = Literal["base", "head"]
_PREFIX = "dlmbench-gate-"
_Handler = Callable[[int, FrameType | None], object] | signal.Handlers


class SideRecord(Stored):
    """What a gate's record says of a side: what it was asked to be, what that came to, and how it was made.

    `dirty`: the commit is a snapshot of a working tree with changes on its commit `on`. `install` are the commands
    that installed it in `seconds`. Of a side that was given as a command only that is known beforehand.
    """

    name: SideName
    ref: str | None = None
    commit: str | None = None
    dirty: bool = False
    on: str | None = None
    command: tuple[str, ...]
    install: tuple[str, ...] = ()
    seconds: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Made:
    """A side that was made from a commit: whose repository, which commit, and where it lies.

    `uneven` are files of the checkout that git calls changed as soon as they are written (see `changed_files`).
    """

    repository: Repository
    revision: Revision
    checkout: Path
    environment: Environment
    uneven: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Side:
    """One side: its name, how its workers are started, and what it was made from (None: it was given as a command)."""

    name: SideName
    launch: Launch
    made: Made | None = None
    notes: tuple[str, ...] = ()

    @property
    def record(self) -> SideRecord:
        if self.made is None:
            return SideRecord(name=self.name, command=self.launch.command, notes=self.notes)
        revision, environment = self.made.revision, self.made.environment
        return SideRecord(
            name=self.name,
            ref=revision.ref,
            commit=revision.commit,
            dirty=revision.dirty,
            on=revision.on,
            command=self.launch.command,
            install=environment.commands,
            seconds=environment.seconds,
            notes=self.notes,
        )


@contextlib.contextmanager
def prepared(
    repository: Repository,
    against: str,
    *,
    logs: Path,
    merge_base: bool = False,
    install: Sequence[str] | None = None,
    say: Callable[[str], None] = lambda _: None,
    run: Runner = run_logged,
) -> Iterator[tuple[Side, Side]]:
    """Base (what the ref `against` names) and head (the working tree), installed side by side until the block ends.

    Everything lies in a temporary folder, removed whatever happens (also on SIGTERM, which raises SystemExit in here);
    only the output of builds stays, in the existing folder `logs`. `install` are commands as a user gives them (see
    `make_environment`), `say` is told in a line what is being done. Raises InputError.
    """
    commands = None if install is None else [split_command("--install", text) for text in install if text.strip()]
    base = base_revision(repository, against, merge_base=merge_base)
    with _ended_by_sigterm(), _temporary_folder() as folder:
        try:
            head = head_revision(repository, folder / "snapshot")
            revisions: dict[SideName, Revision] = {"base": base, "head": head}
            sides = []
            for name, revision in revisions.items():
                say(f"{name}: installing {revision.ref} ({revision.commit[:12]})")
                log = logs / f"install-{name}.log"
                sides.append(_made_side(name, repository, revision, folder, commands, log, run))
        except OSError as error:
            raise InputError(f"{error.filename or folder}: {error.strerror}; no side can be made there") from None
        yield sides[0], sides[1]


def _made_side(
    name: SideName,
    repository: Repository,
    revision: Revision,
    folder: Path,
    commands: Sequence[Sequence[str]] | None,
    log: Path,
    run: Runner,
) -> Side:
    # Both sides' names, and so all their paths, have one length: it may move what a process lays out in memory.
    checkout, place = folder / name / "checkout", folder / name / "environment"
    missing = check_out(repository, revision.commit, checkout, folder / "snapshot" / "objects")
    uneven = frozenset(changed_files(checkout))
    environment = make_environment(name, repository, checkout, place, commands, log, run)
    working = checkout / repository.folder
    working.mkdir(parents=True, exist_ok=True)
    variables = {
        "PYTHONPATH": None,
        "PYTHONHOME": None,
        # Bytecode would lie in the checkout and make it differ from its commit.
        "PYTHONDONTWRITEBYTECODE": "1",
        # torch compiles extensions in a folder named by the extension alone: the sides would overwrite each other's.
        "TORCH_EXTENSIONS_DIR": str(place / "torch_extensions"),
    }
    launch = Launch((str(environment.python), "-P", "-m", "dlmbench.bench.worker"), working, variables)
    return Side(name, launch, Made(repository, revision, checkout, environment, uneven), (*revision.notes, *missing))


def commanded(base: str, head: str) -> tuple[Side, Side]:
    """Two sides given as commands that start a worker, in whatever environment or container. Raises InputError."""
    made: list[Side] = []
    for name, flag, text in (("base", "--base-cmd", base), ("head", "--head-cmd", head)):
        command = split_command(flag, text)
        if shutil.which(command[0]) is None:
            raise InputError(f"{flag}: there is no program {command[0]!r}; give a command that starts a worker")
        # The worker may be the child of a launcher, so that its parent is not this process.
        made.append(Side("base" if name == "base" else "head", Launch(tuple(command), variables={PARENT: None})))
    return made[0], made[1]


def split_command(flag: str, text: str) -> list[str]:
    """The words of a command as a shell would part them; no shell ever sees it. Raises InputError."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"{flag} {text!r}: {error}; quote it as for a shell") from None
    if not words:
        raise InputError(f"{flag}: the command is empty")
    return words


def placed(repository: Repository, generator: str) -> str:
    """A generator's name as both sides understand it: a file in the user's tree relative to where the workers run.

    A file elsewhere keeps its place, and is the same on both sides; so do names of modules and of built-in generators.
    """
    place, _, factory = generator.rpartition(":")
    if not place.endswith(".py"):
        return generator
    path = Path(place).absolute().resolve()
    if not path.is_relative_to(repository.root):
        return f"{path}:{factory}"
    return f"{os.path.relpath(path, repository.root / repository.folder)}:{factory}"


def comparison_notes(base: Side, head: Side) -> tuple[str, ...]:
    """Sentences that a reader of the comparison must know, from how its sides were made."""
    notes = [f"{side.name}: {note}" for side in (base, head) for note in side.notes]
    if base.made is None or head.made is None:
        return tuple(notes)
    if base.made.revision.commit == head.made.revision.commit:
        notes.append("base and head are the same commit: this compares a commit with itself (A/A)")
    asked = [side.environment.installed for side in (base.made, head.made)]
    for name in sorted(asked[0].keys() & asked[1].keys()):
        if asked[0][name] != asked[1][name]:
            differing = ", ".join(sorted(asked[0][name] ^ asked[1][name]))
            notes.append(f"{name} asks for other libraries at base and at head ({differing}); both ran with those here")
    return tuple(notes)


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    try:
        _remove_abandoned(Path(tempfile.gettempdir()))
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
    except OSError as error:
        raise InputError(
            f"no temporary folder can be made ({error.strerror}); point TMPDIR at a writable one"
        ) from None
    try:
        with locked(folder):
            yield folder
    finally:
        with _undisturbed():
            shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(place: Path) -> None:
    """Remove what gates of this user left that were killed (kill -9, a power cut): nobody holds their locks now."""
    if os.name != "posix":
        return
    for folder in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(InputError, OSError), locked(folder):
            found = folder.lstat()
            # One that is a minute young may be about to be locked.
            if found.st_uid == os.getuid() and time.time() - found.st_mtime > 60:
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as an exception does, so that what it made is removed; a caller may have seen to that."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    with _handling({signal.SIGTERM: end}):
        yield


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C does not stop the removal that the first one began."""
    with _handling({signal.SIGTERM: signal.SIG_IGN, signal.SIGINT: signal.SIG_IGN}):
        yield


@contextlib.contextmanager
def _handling(handlers: Mapping[signal.Signals, _Handler]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
