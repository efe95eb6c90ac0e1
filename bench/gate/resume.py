"""Going on with a gate that was cut off: the same question, the same code, and the pairs that are on disk.

Looks are fixed in advance, and what a pair measures in which order is drawn from the seed and the pair's number. So a
gate in two sessions is the gate that it would have been in one, as long as all of it is of one kind: policy, cells,
code of both sides, libraries and device. Where that is not so, or cannot be shown, the gate is refused. The looks are
taken again on the pairs that were kept; nobody saw more of a pair that was lost than that it was begun.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ... import InputError
from ...profiles.gate import Policy
from ...profiles.record import Cell, Run, WorkerInfo
from ...profiles.store import RUN_FILE, read_run, rewrite_trials
from ...profiles.stored import Stored
from ..folders import refuse_changes
from .looks import Trials
from .options import GateOptions
from .proof import origins
from .sides import Side, SideName

SETTING = "gate"
"""The entry of a run's settings that says of which gate it is a side."""
_OPTIONS = TypeAdapter(GateOptions)
# What becomes of a verdict is no part of the question: it may be said anew.
_OUTPUTS = ("junit", "markdown")


class Asked(Stored):
    """What a gate was asked, and of what: `commits` are the sides' own, None where a side was given as a command."""

    options: dict[str, Any]
    policy: Policy
    commits: dict[SideName, str | None]
    cwd: str

    @classmethod
    def of(cls, options: GateOptions, policy: Policy, sides: Sequence[Side]) -> Asked:
        """What is asked now, in this folder."""
        commits = {side.name: side.made and side.made.revision.commit for side in sides}
        return cls(options=_OPTIONS.dump_python(options, mode="json"), policy=policy, commits=commits, cwd=os.getcwd())


def asked_in(folder: Path) -> tuple[Asked, Run]:
    """What the gate in `folder` was asked, and its record. Raises InputError where there is no gate to go on with."""
    if not (folder / "base" / RUN_FILE).exists():
        raise InputError(
            f"--resume {folder}: there is no gate in it of which a pair was begun; expected a folder of `dlmbench gate`"
        )
    run = read_run(folder / "base").run
    try:
        return Asked.model_validate(run.settings.get(SETTING)), run
    except ValidationError:
        raise InputError(f"--resume {folder}: it does not say what the gate was asked; start a new gate") from None


def adopted(folder: Path, given: GateOptions, asked: Asked) -> GateOptions:
    """The options that the gate was started with. Others beside --resume are refused, not passed over."""
    outputs = {name: getattr(given, name) and getattr(given, name).absolute() for name in _OUTPUTS}
    if replace(given, resume=None, junit=None, markdown=None) != GateOptions():
        raise InputError(
            f"--resume {folder}: a gate goes on with the flags that it was started with; leave all but --junit, "
            f"--markdown and --json out, or start a new gate"
        )
    try:
        options = _OPTIONS.validate_python(asked.options)
    except ValidationError:
        raise InputError(f"{folder / 'base' / RUN_FILE}: the gate's options are none; start a new gate") from None
    return replace(options, resume=folder, **{name: path for name, path in outputs.items() if path is not None})


def same_gate(folder: Path, before: Asked, now: Asked) -> None:
    """Raises InputError where the policy or a side's commit is another than when the gate was started."""
    commits = {f"the commit of {name}": before.commits.get(name) != commit for name, commit in now.commits.items()}
    refuse_changes(folder, {"the policy": before.policy != now.policy, **commits}, "gate")


def kept_pairs(folder: Path, cells: Sequence[Cell]) -> list[Trials]:
    """The pairs that both sides have whole, in order. What else lies on disk, on one side or torn, is dropped."""
    keys = sorted(cell.key for cell in cells)
    sides: Trials = {"base": list(read_run(folder / "base").trials), "head": list(read_run(folder / "head").trials)}
    pairs: list[Trials] = []
    while True:
        pair: Trials = {name: [t for t in trials if t.process == len(pairs)] for name, trials in sides.items()}
        if any(sorted(t.key for t in trials) != keys for trials in pair.values()):
            break
        pairs.append(pair)
    for name in sides:
        rewrite_trials(folder / name, [trial for pair in pairs for trial in pair[name]])
    return pairs


def same_workers(folder: Path, kept: Iterable[Trials], infos: Mapping[SideName, Sequence[WorkerInfo]]) -> None:
    """Raises InputError unless the workers of each side report the code and the versions that those before did.

    For sides given as commands; of the others the commit is known. What a worker reports shows that code is the same
    only where that is committed, or a version of something installed.
    """
    before: dict[SideName, list[WorkerInfo]] = {"base": [], "head": []}
    for pair in kept:
        for name in before:
            before[name] += [trial.worker for trial in pair[name] if trial.worker is not None]
    for name in infos:
        then, now = ({part for info in each for part in _code(info)} for each in (before[name], infos[name]))
        loose = sorted(part for part, state in now if state is None)
        if loose:
            why = f"{loose[0]} at {name} is of no commit and no version, so nothing shows that it is still the same"
        elif then and now - then:
            why = f"the workers of {name} report other code or versions than before"
        else:
            continue
        raise InputError(f"--resume {folder}: {why}; start a new gate")


def _code(info: WorkerInfo) -> list[tuple[str, str | None]]:
    """Parts of what a worker ran, each with what tells two states of it apart, None where nothing does."""
    versions = {"python": info.python, "torch": info.torch, "device": info.device, "threads": str(info.threads)}
    parts: dict[str, str | None] = {**versions}
    for name, origin in origins(info).items():
        # What differs from its commit is of no version either.
        parts[name] = None if origin.dirty else origin.commit or origin.version
    return list(parts.items())
