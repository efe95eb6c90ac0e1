"""`dlmbench load`: from the command line to a folder with a load, its report, and its tables in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from ... import InputError
from ...profiles.serving.store import LOAD_FILE, StoredLoad, is_load, read_load
from ...profiles.versioned import first_problem
from ..folders import InterruptedRunError, locked, new_folder, stoppable, where_it_started
from ..serve.files import raise_file_limit
from .options import MOST_OPEN, LoadOptions, LoadPlan, planned
from .prompts import Counting, check_prompts, counting_of
from .session import Session
from .spend import check_spending
from .targets import Target, place_of, target_of


@dataclass(frozen=True, slots=True)
class Prepared:
    """A load that may begin: what was asked is sound, may be spent, and the servers have said what they are."""

    options: LoadOptions
    plan: LoadPlan
    targets: Sequence[Target]
    counting: Counting
    most_open: int


def prepared(options: LoadOptions, *, yes: bool = False) -> Prepared:
    """Check a load and ask its servers what they are. With `yes` it may cost whatever it comes to.

    Raises InputError before any request is sent for what cannot be asked, or may not be spent.
    """
    plan = planned(options)
    places = [place_of(given) for given in options.targets]
    if not yes:
        check_spending(options, plan, places)
    targets = [target_of(place) for place in places]
    counting = counting_of(options.tokenizer, options.prompts, targets)
    check_prompts(counting, options.prompt_tokens)
    if counting.tokenizer is None and "first_final" in plan.objectives:
        raise InputError("--objective first_final: nobody knows where a token ends without a --tokenizer")
    return Prepared(options, plan, targets, counting, min(raise_file_limit(_sockets(plan)), MOST_OPEN))


def measured(
    load: Prepared, folder: Path, command: Sequence[str], console: Console, *, kept: StoredLoad | None = None
) -> tuple[StoredLoad, list[Path]]:
    """Open the load's windows into `folder`, those that are not in `kept`, and write its report; the load and files."""
    Session(
        load.plan, load.options, load.targets, load.counting, folder, command,
        most_open=load.most_open, kept=kept,
        said=lambda text: console.print(Text(text, style="dim"), soft_wrap=True),
    ).run()  # fmt: skip
    stored = read_load(folder)
    return stored, write_load_report(stored)


def load_command(
    options: LoadOptions, command: Sequence[str], console: Console, *, out: Path | None = None, yes: bool = False
) -> tuple[dict[str, Any], bool]:
    """Measure, report and show; returns the load as a document, and whether any request was answered."""
    load = prepared(options, yes=yes)
    folder = new_folder(out, "load")
    with locked(folder), _removed_if_empty(folder), stoppable(_named(yes), folder):
        stored, files = measured(load, folder, command, console)
    return _shown(stored, files, console)


def _named(yes: bool) -> str:
    """The command as one goes on with it."""
    return "load --yes" if yes else "load"


@contextmanager
def _removed_if_empty(folder: Path) -> Iterator[None]:
    """What was stopped before it had a record has nothing to go on with."""
    try:
        yield
    except InterruptedRunError:
        if is_load(folder):
            raise
        with suppress(OSError):
            folder.rmdir()
        raise KeyboardInterrupt from None


def resume_command(folder: Path, console: Console, *, yes: bool = False) -> tuple[dict[str, Any], bool]:
    """Go on with a load that was cut off: windows that had ended are kept, the others are opened. One that was over is
    shown again."""
    stored = read_load(folder)
    folder = folder.resolve()
    with locked(folder), where_it_started(stored.run.cwd):
        kept = read_load(folder)
        if kept.run.finished is not None:
            return _shown(kept, write_load_report(kept), console)
        load = prepared(recorded_options(kept), yes=yes)
        with stoppable(_named(yes), folder):
            stored, files = measured(load, folder, kept.run.command, console, kept=kept)
    return _shown(stored, files, console)


def recorded_options(stored: StoredLoad) -> LoadOptions:
    """What a load was asked for."""
    if not stored.run.options:
        raise InputError(f"{stored.path}: an older dlmbench wrote it, and not what it was asked for; start a new load")
    try:
        return LoadOptions.model_validate(stored.run.options)
    except ValidationError as error:
        raise InputError(
            f"{stored.path / LOAD_FILE}: options.{first_problem(error)}; restore the file or start a new load"
        ) from None


def _shown(stored: StoredLoad, files: Sequence[Path], console: Console) -> tuple[dict[str, Any], bool]:
    show_load(stored, console)
    for path in files:
        if path.suffix in (".html", ".md"):
            console.print(Text(str(path)), soft_wrap=True)
    return document(stored, files), answered(stored)


def answered(stored: StoredLoad) -> bool:
    """Whether any request was answered: else nothing was measured."""
    return any(request.status == "ok" for request in stored.requests)


def write_load_report(stored: StoredLoad) -> list[Path]:
    """Figures, HTML and Markdown of a load."""
    from ...reports.load_page import write_load_files  # imports matplotlib

    return write_load_files(stored)


def show_load(stored: StoredLoad, console: Console) -> None:
    """The load's tables."""
    from ...reports.load_terminal import print_load

    print_load(stored.run, console)


def document(stored: StoredLoad, files: Sequence[Path] = ()) -> dict[str, Any]:
    """A load as one JSON document: its record and its files; the requests are in the folder."""
    return {
        "folder": str(stored.path),
        "load": stored.run.model_dump(mode="json"),
        "files": [str(path) for path in files],
    }


def _sockets(plan: LoadPlan) -> int:
    """How many sockets may be open at once, as far as anybody can tell."""
    return max(int(load.value) for load in plan.levels) if plan.levels[0].kind == "closed" and not plan.sweep else 0
