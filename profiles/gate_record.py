"""The gate's result as a document: what it said, of what, measured where, and the command that asks again.

Readers accept every older `schema_version`: a field that is added later has a default.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .gate import GateResult
from .store import replace_file
from .stored import Stored
from .versioned import read_versioned

SCHEMA_VERSION = 1


class GateSide(Stored):
    """One of the two things compared. `name` is what the user called it (a git ref, a run, a command); `commit` and
    the versions are what its workers reported, None where they did not."""

    name: str
    commit: str | None = None
    dirty: bool | None = None
    dlmbench: str | None = None
    torch: str | None = None
    python: str | None = None


class SideDifference(Stored):
    """Something other than the code that the two sides were not measured alike in."""

    name: str
    base: str
    head: str


class GateContext(Stored):
    """Where and how the gate was measured. Times are seconds; `created` is ISO 8601.

    `paired`: both sides were measured in one job, in pairs of fresh processes; else they are two stored runs, or with
    `counted` the base is a file of counters that the head's were compared with, and nothing was timed. `cell_s` is how
    long each cell was measured, by its key. `environment` is the head's, as captured; `differences` says where the
    base's differed.
    """

    created: str
    duration_s: float | None = None
    command: tuple[str, ...] = ()
    suite: str
    device: str
    device_name: str
    base: GateSide
    head: GateSide
    paired: bool = True
    counted: bool = False
    differences: tuple[SideDifference, ...] = ()
    environment: dict[str, Any] = {}
    cell_s: dict[str, float] = {}
    dlmbench_version: str


class GateDocument(Stored):
    """What `dlmbench gate --json` prints and every other output of the gate is drawn from."""

    schema_version: int = SCHEMA_VERSION
    result: GateResult
    context: GateContext


def write_gate(path: Path, document: GateDocument) -> None:
    """Write the document whole or not at all."""
    replace_file(path, json.dumps(document.model_dump(mode="json"), indent=1, allow_nan=False) + "\n")


def read_gate(path: Path) -> GateDocument:
    """Read a document of this or an older schema. Raises InputError, in one line, for anything else."""
    expected = "expected the JSON that `dlmbench gate` wrote"
    again = "restore the file or run the gate again"
    return read_versioned(path, GateDocument, SCHEMA_VERSION, expected=expected, again=again)
