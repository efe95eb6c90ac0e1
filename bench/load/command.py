"""`dlmbench load`: from the command line to a folder with a load, its report, and its tables in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ... import CANNOT_WRITE, InputError
from ...profiles.serving.store import LOAD_FILE, StoredLoad, read_load
from ..folders import locked, new_folder
from ..serve.files import raise_file_limit
from ..signals import sigterm_interrupts
from .options import MOST_OPEN, LoadOptions, LoadPlan, planned
from .prompts import check_prompts, counting_of
from .session import Session
from .spend import check_spending
from .targets import place_of, target_of


class StoppedLoadError(Exception):
    """The user stopped a load; its text says what is kept."""


def load_command(options: LoadOptions, command: Sequence[str], console: Console) -> tuple[dict[str, Any], bool]:
    """Measure, report and show; returns the load as a document, and whether any request was answered.

    Raises InputError before anything is sent for what cannot be asked, or may not be spent.
    """
    plan = planned(options)
    places = [place_of(given) for given in options.targets]
    check_spending(options, plan, places)
    targets = [target_of(place) for place in places]
    counting = counting_of(options.tokenizer, options.prompts, targets)
    check_prompts(counting, options.prompt_tokens)
    if counting.tokenizer is None and "first_final" in plan.objectives:
        raise InputError("--objective first_final: nobody knows where a token ends without a --tokenizer")
    most_open = min(raise_file_limit(_sockets(plan)), MOST_OPEN)
    folder = new_folder(options.out, "load")
    with locked(folder), _stoppable(folder):
        session = Session(
            plan, options, targets, counting, folder, command,
            most_open=most_open, said=lambda text: console.print(Text(text, style="dim"), soft_wrap=True),
        )  # fmt: skip
        session.run()
        stored = read_load(folder)
        files = write_report(stored)
    show(stored, console)
    for path in files:
        if path.suffix in (".html", ".md"):
            console.print(Text(str(path)), soft_wrap=True)
    return document(stored, files), any(request.status == "ok" for request in stored.requests)


def write_report(stored: StoredLoad) -> list[Path]:
    """Figures, HTML and Markdown of a load."""
    from ...reports.load_page import write_load_report  # imports matplotlib

    return write_load_report(stored)


def show(stored: StoredLoad, console: Console) -> None:
    """The load's tables."""
    from ...reports.load_terminal import show_load

    show_load(stored.run, console)


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


@contextmanager
def _stoppable(folder: Path) -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does; that, or a folder that takes no more, is told with what is kept."""
    kept = f"windows that had ended are kept: dlmbench show {folder}"
    try:
        with sigterm_interrupts():
            yield
    except KeyboardInterrupt:
        raise StoppedLoadError(kept if (folder / LOAD_FILE).exists() else "nothing was sent yet") from None
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        raise InputError(f"{folder}: cannot be written ({error.strerror}); make room; {kept}") from None
