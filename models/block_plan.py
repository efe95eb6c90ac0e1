"""How many positions of a block each step commits, where that is known beforehand: the host then never waits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .. import InputError
from .block_forwards import Blocks

# Blocks, of steps, of a count for each row.
Plan = list[list[tuple[int, ...]]]


def even_plan(blocks: Blocks, counts: Sequence[int], rows: int) -> Plan:
    """Every block takes `counts` in turn until its new positions are used up: a shared first block needs fewer steps.

    Steps after that are not run, in the published loop neither.
    """
    return [[(count,) * rows for count in _until(counts, blocks.new(start))] for start in blocks.starts]


def recorded_plan(blocks: Blocks, schedule: Sequence[Sequence[int]], rows: int, *, idle: bool) -> Plan:
    """A `commit_schedule`'s counts, cut at the ends of blocks; its rows are used in turn. Raises InputError.

    A block takes as long as its slowest row, and a count beyond a block's end commits what is left of it. Zeros before
    a row's first commit in a block are steps in which it waited for others: they are left out, and put in again
    behind. A step in which no row commits is kept where `idle`. Positions past the last token that was asked for may
    be left out of the counts: the last step takes them along.
    """
    if not schedule:
        raise InputError("commit_schedule has no rows; give at least one list of counts")
    cut = [_cut(schedule[row % len(schedule)], row % len(schedule), blocks) for row in range(rows)]
    plan: Plan = []
    for parts in zip(*cut, strict=True):
        longest = max(map(len, parts))
        steps = zip(*(part + [0] * (longest - len(part)) for part in parts), strict=True)
        plan.append([counts for counts in steps if idle or any(counts)])
    return plan


def steps_of_each_block(blocks: Blocks, steps: int | None, default: int, most: int | None = None) -> int:
    """Steps of one block, T being counted over the generation. Raises InputError where T does not fit the blocks.

    `most` bounds the steps of a block (None: any number).
    """
    count = len(blocks.starts)
    if steps is None:
        return default
    if steps % count:
        raise InputError(
            f"steps: T={steps} is not divisible by the {count} blocks of {blocks.size} that hold L={blocks.length} "
            f"tokens after a prompt of {blocks.prompt}; choose a multiple of {count}"
        )
    if most is not None and steps // count > most:
        raise InputError(
            f"steps: T={steps} exceeds the {count * most} positions of {count} blocks of {blocks.size}: a step commits "
            f"at least one token; choose T <= {count * most}, or idle_steps run"
        )
    return steps // count


def _cut(counts: Sequence[int], row: int, blocks: Blocks) -> list[list[int]]:
    if any(count < 0 for count in counts):
        raise InputError(f"commit_schedule row {row}: a count is {min(counts)}; expected 0 or more")
    given = iter(counts)
    parts: list[list[int]] = []
    for start in blocks.starts:
        part = list(_until(_from_first(given), blocks.new(start)))
        missing = blocks.new(start) - sum(part)
        done = sum(map(sum, parts)) + sum(part)
        if missing and done < blocks.length:
            raise InputError(
                f"commit_schedule row {row}: its counts end after {done} positions, expected {blocks.length} in "
                f"{len(blocks.starts)} blocks of {blocks.size} after a prompt of {blocks.prompt}; record it so"
            )
        if missing:
            part[-1] += missing
        parts.append(part)
    return parts


def _from_first(counts: Iterator[int]) -> Iterator[int]:
    """Counts without the zeros that they begin with."""
    begun = False
    for count in counts:
        begun = begun or count > 0
        if begun:
            yield count


def _until(counts: Sequence[int] | Iterator[int], total: int) -> Iterator[int]:
    """Counts until they add up to `total`, the last one cut to fit."""
    for count in counts:
        yield min(count, total)
        total -= min(count, total)
        if not total:
            return
