"""The load of a suite: servers under load once the suite's cells are measured, in the folder of the same run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from ... import InputError
from ...profiles.record import Run
from ...profiles.serving.store import LOAD_FOLDER, StoredLoad, is_load, read_load
from ...profiles.store import RUN_FILE, StoredRun, read_run
from ...profiles.versioned import first_problem
from ..folders import locked, where_it_started
from .command import measured, prepared
from .options import LoadOptions, planned
from .spend import check_spending
from .targets import place_of


def check_load(options: LoadOptions, *, yes: bool) -> None:
    """Raise InputError, before any cell is measured, for a load that could not begin now: its servers are asked."""
    try:
        prepared(options, yes=yes)
    except InputError as error:
        raise InputError(f"the suite's load: {error}") from None


def check_load_that_is_left(folder: Path, *, yes: bool) -> None:
    """The same of a run that goes on, unless its load is over."""
    run = read_run(folder).run
    options, begun = _asked(folder, run), load_in(folder)
    if options is not None and (begun is None or begun.run.finished is None):
        with where_it_started(run.settings.get("cwd")):
            check_load(options, yes=yes)


def put_under_load(stored: StoredRun, command: Sequence[str], console: Console, *, yes: bool) -> None:
    """Open the windows of the load of a run's suite, if it has one: those that are not yet in the run's folder.

    The servers are asked anew what they are: the cells may have taken hours.
    """
    options = _asked(stored.path, stored.run)
    if options is None:
        return
    run = stored.path.resolve()
    folder = run / LOAD_FOLDER
    folder.mkdir(exist_ok=True)
    with locked(run), locked(folder), where_it_started(stored.run.settings.get("cwd")):
        kept = load_in(run)
        if kept is None or kept.run.finished is None:
            measured(prepared(options, yes=yes), folder, command, console, kept=kept)


def load_in(run: Path) -> StoredLoad | None:
    """The load in a run's folder, if its suite has one that has begun."""
    folder = run / LOAD_FOLDER
    return read_load(folder) if is_load(folder) else None


def show_planned_load(options: LoadOptions, console: Console, *, yes: bool) -> dict[str, Any]:
    """What would be sent, and where; nobody is asked. Raises InputError for what is refused without asking."""
    plan = planned(options)
    places = [place_of(target) for target in options.targets]
    if not yes:
        check_spending(options, plan, places)
    most = plan.most_requests
    servers, levels = [place.url for place in places], [load.key for load in plan.levels]
    count = "requests that nothing bounds" if most is None else f"up to {most:,} requests"
    line = f"Then {count} to {' and '.join(servers)}: {', '.join(levels)}, {plan.rounds} round(s)."
    console.print(Text(line), soft_wrap=True)
    return {"servers": servers, "levels": levels, "rounds": plan.rounds, "most_requests_each": most}


def _asked(folder: Path, run: Run) -> LoadOptions | None:
    """The load of a recorded run's suite, if it has one."""
    asked = run.settings.get("load")
    if asked is None:
        return None
    try:
        return LoadOptions.model_validate(asked)
    except ValidationError as error:
        what = first_problem(error)
        raise InputError(f"{folder / RUN_FILE}: settings.load.{what}; restore it or start a new run") from None
