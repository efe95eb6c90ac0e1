"""The load of a suite: servers under load once the suite's cells are measured, in the folder of the same run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from ... import InputError
from ...profiles.serving.store import LOAD_FOLDER, StoredLoad, is_load, read_load
from ...profiles.store import RUN_FILE, read_run
from ...profiles.versioned import first_problem
from ..folders import locked, where_it_started
from .command import Prepared, measured, prepared
from .options import LoadOptions, planned


@dataclass(frozen=True, slots=True)
class Left:
    """A load that may begin, or go on from what is `kept` of it."""

    load: Prepared
    kept: StoredLoad | None = None


def load_of_suite(options: LoadOptions) -> Left:
    """The load of a run that has not begun: refused now, or not at all."""
    try:
        return Left(prepared(options))
    except InputError as error:
        raise InputError(f"the suite's load: {error}") from None


def load_that_is_left(folder: Path) -> Left | None:
    """What is left of the load of a run that was cut off; None where nothing is."""
    run = read_run(folder).run
    asked = run.settings.get("load")
    if asked is None:
        return None
    kept = load_in(folder)
    if kept is not None and kept.run.finished is not None:
        return None
    try:
        options = LoadOptions.model_validate(asked)
    except ValidationError as error:
        what = first_problem(error)
        raise InputError(f"{folder / RUN_FILE}: settings.load.{what}; restore it or start a new run") from None
    with where_it_started(run.settings.get("cwd")):
        return Left(load_of_suite(options).load, kept)


def put_under_load(run: Path, left: Left, command: Sequence[str], console: Console) -> None:
    """Open the load's windows into the folder of the run."""
    folder = run / LOAD_FOLDER
    folder.mkdir(exist_ok=True)
    with locked(folder):
        measured(left.load, folder, command, console, kept=left.kept)


def load_in(run: Path) -> StoredLoad | None:
    """The load in a run's folder, if its suite has one that has begun."""
    folder = run / LOAD_FOLDER
    return read_load(folder) if is_load(folder) else None


def show_planned_load(options: LoadOptions, console: Console) -> dict[str, Any]:
    """What would be sent, and where; nobody is asked."""
    plan = planned(options)
    most = plan.most_requests
    document = {
        "servers": [target.url for target in options.targets],
        "levels": [load.key for load in plan.levels],
        "rounds": plan.rounds,
        "most_requests_each": most,
    }
    count = "requests that nothing bounds" if most is None else f"up to {most:,} requests"
    servers, levels = " and ".join(document["servers"]), ", ".join(document["levels"])
    console.print(Text(f"Then {count} to {servers}: {levels}, {plan.rounds} round(s)."), soft_wrap=True)
    return document
