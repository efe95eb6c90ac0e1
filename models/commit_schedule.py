"""The reader of commit schedules (row -> step -> count): what each step of blocks of given sizes commits in each row.

A schedule was recorded with rows that waited for each other at the ends of blocks. Other rows, or another number of
them, wait elsewhere: so each row's own counts are cut at the blocks' ends first, and the waiting is put in afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import dropwhile, islice, zip_longest
from operator import not_

from .. import InputError

Schedule = Sequence[Sequence[int]]
# Blocks, of steps, of a count for each row.
Plan = list[list[tuple[int, ...]]]


def cut_at_blocks(
    schedule: Schedule,
    rows: int,
    sizes: Sequence[int],
    *,
    asked: int | None = None,
    idle: bool = True,
    in_step: bool = False,
    opening: bool = False,
) -> Plan:
    """The plan of blocks of `sizes` positions, the schedule's rows used cyclically.

    A count beyond a block's end commits what is left of it, and a block takes as long as its slowest row. Zeros before
    a row's first commit in a block are steps in which it waited for others: they are left out, and put in again behind.

    Raises InputError for negative counts, and for a row that ends before `asked` positions (None: all). Positions past
    those may be missing: the last step takes them along. Further:
    - `idle`: steps in which no row commits are kept.
    - `in_step`: the zeros that a block begins with are kept too, so that the rows stay as they were side by side.
    - `opening`: each block's first forward commits one position, whatever its count.
    """
    asked = sum(sizes) if asked is None else asked
    own = [_cut(counts, row, sizes, asked, in_step, opening) for row, counts in in_turn(schedule, rows)]
    together = [zip_longest(*parts, fillvalue=0) for parts in zip(*own, strict=True)]
    return [[counts for counts in steps if idle or any(counts)] for steps in together]


def in_turn(schedule: Schedule, rows: int) -> Iterator[tuple[int, Sequence[int]]]:
    """The schedule's row, and its counts, for each of `rows` rows: cyclically. Raises InputError if there is none."""
    if not schedule:
        raise InputError("commit_schedule has no rows; give at least one list of counts")
    for row in range(rows):
        yield row % len(schedule), schedule[row % len(schedule)]


def until(given: Iterator[int], total: int) -> Iterator[int]:
    """Counts until they add up to `total`, the last one cut to fit."""
    while total > 0 and (count := next(given, None)) is not None:
        yield min(count, total)
        total -= count


def _cut(
    counts: Sequence[int], row: int, sizes: Sequence[int], asked: int, in_step: bool, opening: bool
) -> list[list[int]]:
    """One row's counts, block by block."""
    if min(counts, default=0) < 0:
        raise InputError(f"commit_schedule row {row}: a count is {min(counts)}, expected 0 or more; record it again")
    given, done = iter(counts), 0
    parts: list[list[int]] = []
    for size in sizes:
        begun = given if in_step else dropwhile(not_, given)
        part = [1 for _ in islice(begun, 1)] if opening else []
        part += until(begun, size - sum(part))
        done += sum(part)
        missing = size - sum(part)
        if missing and done < asked:
            lengths = " or ".join(map(str, sorted(set(sizes))))
            first = ", each opened by a forward that commits one" if opening else ""
            raise InputError(
                f"commit_schedule row {row}: its counts end after {done} positions, expected {asked} in {len(sizes)} "
                f"blocks of {lengths}{first}; record it again at this length"
            )
        if missing:
            part[-1] += missing
        parts.append(part)
    return parts
