"""Commit schedules: how many tokens each step committed, recorded from trained weights and replayed on random ones.

A rule whose step count depends on the data (a threshold, an entropy bound, a draft's acceptance) is meaningless on
random weights. A schedule stands in for the data: `even` (the default there: T spread evenly), `constant:K`, or what a
run on trained weights recorded. Such a run writes one file a cell to its folder `schedules/`; `--commit-schedule` takes
that file, or the run's folder. `recorded:RULE` are those that ship, recorded from the trained models that ship.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from .. import InputError
from ..models.hf_config import read_json
from ..models.names import ADAPTIVE_SAMPLERS, BUILT_IN, DIFFUSION_GEMMA, RANDOM, SPECULATIVE
from ..models.schedule import transfer_counts
from ..profiles.record import Cell, CommitSchedule, PairRecord, Timeline, Trial

FOLDER = "schedules"
SHIPPED = Path(__file__).parent / "commit_schedules"


class ScheduleFile(BaseModel):
    """A recorded schedule: the cell that it was recorded from, its L and block length, counts by row and step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    recorded_from: str
    weights: str
    length: int
    block_length: int
    rows: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """What a schedule must fit: L, the block length and T. `aligned_from` positions precede the first token in blocks
    that are aligned to position 0 (0: blocks begin with the first token). `opening` says that a block's first forward
    commits one position whatever is asked (Dream's blocks with a cache)."""

    aligned_from: int
    length: int
    block_length: int
    steps: int = 1
    opening: bool = False

    @property
    def blocks(self) -> list[int]:
        """New tokens of each block."""
        first = min(self.length, self.block_length - self.aligned_from % self.block_length)
        rest, left = divmod(self.length - first, self.block_length)
        return [first] + [self.block_length] * rest + ([left] if left else [])


def drafted(length: int) -> Frame:
    """What a schedule of accepted drafts must fit: all but the first token, which the prompt's forward gives."""
    return Frame(0, max(length - 1, 1), max(length - 1, 1))


def even_schedule(frame: Frame) -> CommitSchedule:
    """T spread over the blocks and each block's tokens over its steps, as evenly as can be: the data plays no part."""
    blocks = frame.blocks
    each = -(-frame.steps // len(blocks))
    rows: list[int] = []
    for size in blocks:
        rest = size - frame.opening
        rows += [1] * frame.opening
        if rest:
            rows += transfer_counts(rest, min(max(each - frame.opening, 1), rest))
    return CommitSchedule(source="even", rows=(tuple(rows),))


def read_schedule(reference: str, frame: Frame) -> CommitSchedule:
    """The schedule that `reference` names. Raises InputError where it does not fit L and the block length."""
    constant = re.fullmatch(r"constant:([1-9][0-9]{0,5})", reference)
    if constant:
        return CommitSchedule(source=reference, rows=(constant_rows(frame, int(constant[1])),))
    if reference.startswith("recorded:"):
        rule, rules = reference.removeprefix("recorded:"), shipped_rules()
        if rule not in rules:
            raise InputError(f"commit schedule {reference!r}: no such rule ships; choose from {', '.join(rules)}")
        return _from_folder(SHIPPED / rule, frame)
    path = Path(reference)
    if path.is_dir():
        return _from_folder(path, frame)
    if not path.is_file():
        raise InputError(
            f"commit schedule {reference!r}: expected constant:K, recorded:RULE, a schedule's .json file or a run's "
            "folder; check it"
        )
    return _fitting(path, _read(path), frame)


def shipped_rules() -> list[str]:
    """Rules of which schedules ship, for `recorded:RULE`."""
    return sorted(path.name for path in SHIPPED.iterdir() if path.is_dir() and path.name[:1] not in "._")


def constant_rows(frame: Frame, count: int) -> tuple[int, ...]:
    """`count` tokens a step; the last step of a block takes what is left of it."""
    counts: list[int] = []
    for size in frame.blocks:
        block = size - frame.opening
        counts += [1] * frame.opening
        counts += [count] * (block // count) + ([block % count] if block % count else [])
    return tuple(counts)


def adaptive(generator: str, decode: Mapping[str, Any]) -> bool:
    """Whether the number of steps under these decode settings depends on the data."""
    entry = BUILT_IN.get(generator)
    sampler = decode["sampler"] or (entry.samplers[0] if entry is not None and entry.samplers else None)
    rules = (decode["threshold"], decode["factor"], decode["entropy_bound"])
    if generator == DIFFUSION_GEMMA:
        return False  # a fixed T runs exactly that many steps
    return any(rule is not None for rule in rules) or sampler in ADAPTIVE_SAMPLERS or generator == SPECULATIVE


def is_adaptive(cell: Cell) -> bool:
    """Whether the number of steps of a cell depends on the data."""
    decode = cell.decode.model_dump(exclude={"commit_schedule"})
    return cell.side == "diffusion" and cell.decode.commit_schedule is None and adaptive(cell.generator, decode)


def write_schedules(folder: Path, trials: Sequence[Trial], pairs: Sequence[PairRecord]) -> list[Path]:
    """Write one file for each data-dependent cell measured on other than random weights; returns the paths."""
    weights = {pair.name: str(pair.diffusion.get("weights", pair.weights)) for pair in pairs}
    rows: dict[str, list[tuple[int, ...]]] = {}
    cells: dict[str, Cell] = {}
    for trial in trials:
        if trial.timeline is not None and is_adaptive(trial.cell) and weights.get(trial.cell.pair) != RANDOM:
            rows.setdefault(trial.key, []).append(counts_of(trial.timeline))
            cells[trial.key] = trial.cell
    written = []
    for key, counts in rows.items():
        cell = cells[key]
        frame = Frame(0, cell.length, cell.block_length or cell.length)
        if cell.generator == SPECULATIVE:
            frame, counts = drafted(cell.length), [row[1:] for row in counts]
        content = ScheduleFile(
            recorded_from=key,
            weights=Path(weights[cell.pair]).name,
            length=frame.length,
            block_length=frame.block_length,
            rows=tuple(counts),
        )
        (folder / FOLDER).mkdir(exist_ok=True)
        path = folder / FOLDER / f"{re.sub(r'[^A-Za-z0-9.=-]+', '_', key)[:150]}.json"
        path.write_text(content.model_dump_json(indent=1) + "\n", encoding="utf-8")
        written.append(path)
    return written


def counts_of(timeline: Timeline) -> tuple[int, ...]:
    """Tokens that each step committed in row 0; a step that committed none is a 0 in its place."""
    counts: dict[int, int] = {}
    for commit in timeline.commits:
        if commit.final:
            counts[commit.step] = counts.get(commit.step, 0) + len(commit.positions)
    return tuple(counts.get(step, 0) for step in range(max(counts) + 1)) if counts else ()


def _from_folder(folder: Path, frame: Frame) -> CommitSchedule:
    wanted = (frame.length, frame.block_length)
    files = sorted((folder / FOLDER if (folder / FOLDER).is_dir() else folder).glob("*.json"))
    read = [(path, _read(path)) for path in files if path.name != "run.json"]
    fitting = [(path, found) for path, found in read if (found.length, found.block_length) == wanted]
    if len(fitting) == 1:
        return _fitting(*fitting[0], frame)
    found_text = ", ".join(f"L={found.length} block={found.block_length}" for _, found in read) or "none"
    raise InputError(
        f"commit schedule {folder}: {len(fitting)} schedules fit L={frame.length}, block {frame.block_length}, "
        f"expected one (recorded: {found_text}); name a file, or record one with these"
    )


def _read(path: Path) -> ScheduleFile:
    try:
        return ScheduleFile.model_validate(read_json(path))
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        place = ".".join(map(str, detail["loc"]))
        raise InputError(f"{path}: {place}: {detail['msg']}; expected a file that a run wrote to {FOLDER}/") from None


def _fitting(path: Path, found: ScheduleFile, frame: Frame) -> CommitSchedule:
    if (found.length, found.block_length) != (frame.length, frame.block_length):
        raise InputError(
            f"{path}: recorded at L={found.length}, block {found.block_length}, asked for L={frame.length}, block "
            f"{frame.block_length}; record one with these"
        )
    if any(count < 0 for row in found.rows for count in row):
        least = min(min(row) for row in found.rows if row)
        raise InputError(f"{path}: rows: a step commits {least} tokens, expected 0 or more")
    wrong = [sum(row) for row in found.rows if sum(row) != frame.length]
    if wrong or not found.rows:
        raise InputError(f"{path}: rows: a row commits {wrong[0] if wrong else 0} tokens, expected L={frame.length}")
    digest = hashlib.sha256(json.dumps(found.rows).encode()).hexdigest()[:8]
    return CommitSchedule(source=f"recorded:{digest}", rows=found.rows)
