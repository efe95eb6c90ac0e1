"""The work of a suite's cells in a file: the baseline of a gate that reads no clock, small enough to be committed.

    {"schema_version": 1, "suite": "work", "cells": {
      "small/ar/L=16": {"nfe": 16, …, "model_flops": 14229504},
      …,
      "certificate of small": {"weight bytes (ar)": 1921408, …}}}

Nothing in it depends on the machine, the day or the version of a library: counting equal code again writes the same
bytes, a line a cell, so that a change of work is read in the file's diff.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat

from ... import InputError
from ...profiles.gate import CellEvidence, Counted
from ...profiles.metrics import METRICS
from ...profiles.store import replace_file
from ...profiles.stored import Stored
from ...profiles.versioned import read_versioned
from ..plan import Plan, pair_records, whole
from .evidence import quantity

SCHEMA_VERSION = 1

CERTIFICATE = "certificate of "

Quantities = dict[str, int | FiniteFloat | str]
# By cell: why it could not be counted, as a code and a sentence.
Spoiled = Mapping[str, tuple[str, str]]


class Work(Stored):
    """What every cell of a suite does: counters by cell, and the pairs' match certificates."""

    schema_version: int = SCHEMA_VERSION
    suite: str
    cells: dict[str, Quantities]

    @property
    def undecided(self) -> list[str]:
        """Cells whose number of forwards the data or the draws decide: of these only tokens are compared."""
        return [key for key, work in self.cells.items() if not key.startswith(CERTIFICATE) and "nfe" not in work]


def count_work(plan: Plan) -> tuple[Work, Spoiled]:
    """Count every cell of a plan, and say of each that cannot be counted why. Runs the generators in this process."""
    from ..counting import Counting  # imports torch
    from ..opened import WorkDiffersError

    whole(plan)
    count = Counting(plan)
    cells: dict[str, Quantities] = {}
    spoiled: dict[str, tuple[str, str]] = {}
    for cell in (cell for pairing in plan.pairings for cell in pairing.cells):
        try:
            cells[cell.key] = {name: _whole(value) for name, value in count.work(cell).items()}
        except InputError as error:
            spoiled[cell.key] = ("input", str(error))
        except WorkDiffersError as error:
            spoiled[cell.key] = ("work", str(error))
        except Exception as error:
            spoiled[cell.key] = ("crash", f"{type(error).__name__}: {' '.join(str(error).split())}"[:500])
    for pair in pair_records(plan):
        certified = {
            f"{row.quantity} ({side})": value if isinstance(value, str) else _whole(value)
            for row in pair.certificate
            for side in ("ar", "diffusion")
            if (value := getattr(row, side)) is not None
        }
        cells[CERTIFICATE + pair.name] = certified
    return Work(suite=plan.suite.name, cells=cells), spoiled


def work_evidence(base: Work, head: Work, spoiled: Spoiled) -> list[CellEvidence]:
    """Evidence that takes no time: every cell of either side, and the suite where the two are not of one."""
    evidence = []
    for key in dict.fromkeys([*base.cells, *head.cells, *spoiled]):
        sides = (base.cells.get(key), head.cells.get(key))
        if key in spoiled:
            code, why = spoiled[key]
            evidence.append(CellEvidence(key=key, timeless=True, spoiled=(code, f"head: {why}")))
        elif sides[0] is None:
            why = "the baseline has no such cell: renew it if the cell is new, and commit it with the change"
            evidence.append(CellEvidence(key=key, timeless=True, spoiled=("missing", why)))
        elif sides[1] is None:
            why = "the baseline has this cell, and it is no longer counted: give the baseline's options, or renew it"
            evidence.append(CellEvidence(key=key, timeless=True, spoiled=("missing", why)))
        else:
            names = dict.fromkeys([*sides[0], *sides[1]])
            counted = tuple(_counted(name, sides[0].get(name), sides[1].get(name)) for name in names)
            evidence.append(CellEvidence(key=key, timeless=True, counted=counted))
    if base.suite != head.suite:
        why = f"the baseline is of suite {base.suite}, this is {head.suite}: name the baseline's suite, or renew it"
        evidence.append(CellEvidence(key="suite", timeless=True, spoiled=("suite", why)))
    return evidence


def read_work(path: Path) -> Work:
    """The file's content. Raises InputError, in one line, for anything that is no such file."""
    try:
        return read_versioned(
            path,
            Work,
            SCHEMA_VERSION,
            expected="expected what `dlmbench gate --counters FILE --renew` writes",
            again="restore it or --renew it",
            missing=f"{path}: no such file; write it with --renew and commit it",
        )
    except InputError as error:
        raise InputError(f"--counters {error}") from None


def write_work(path: Path, work: Work, spoiled: Spoiled) -> None:
    """Write the file whole, a line a cell. Raises InputError, leaving the old one, where a cell has no counts."""
    for key, (_, why) in spoiled.items():
        raise InputError(f"--renew: {key} cannot be counted ({why}); nothing was written")
    cells = ",\n".join(f"  {json.dumps(key)}: {json.dumps(work.cells[key])}" for key in sorted(work.cells))
    head = f' "schema_version": {work.schema_version},\n "suite": {json.dumps(work.suite)},\n "cells": {{\n'
    try:
        replace_file(path, f"{{\n{head}{cells}\n }}\n}}\n")
    except OSError as error:
        raise InputError(f"--counters {path}: cannot be written ({error.strerror}); nothing was changed") from None


def _whole(value: Any) -> int | float | str:
    """A count as a whole number where it is one; what is no number in words."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return int(value) if float(value).is_integer() else float(value)


def _counted(name: str, base: int | float | str | None, head: int | float | str | None) -> Counted:
    if isinstance(base, str) or isinstance(head, str):
        return quantity(name, base, head)
    direction = METRICS[name].direction if name in METRICS else "neutral"
    numbers = [None if value is None else float(value) for value in (base, head)]
    return Counted(name=name, base=numbers[0], head=numbers[1], direction=direction)
