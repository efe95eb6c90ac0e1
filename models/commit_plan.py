"""How many positions each step commits in each row, where that is known beforehand: the host then never waits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .. import InputError
from .generator import Settings, Shape
from .schedule import steps_per_block, transfer_counts

# Blocks, of steps, of a count for each row.
Plan = list[list[tuple[int, ...]]]


def commit_plan(shape: Shape, settings: Settings) -> Plan:
    """LLaDA's even division of T steps, or the recorded `commit_schedule` in its place. Raises InputError.

    T defaults to L, the block to the whole length. T > L means steps that commit nothing (LLaDA's loop runs them):
    refused, but where `idle_steps` is "run".
    """
    block = settings.block_length or shape.length
    if settings.commit_schedule is not None:
        blocks = whole_blocks(shape.length, block)
        plan = _recorded(settings.commit_schedule, shape.batch, blocks, block)
        idle = settings.idle_steps == "run"
        return [[counts for counts in steps if idle or any(counts)] for steps in plan]
    counts = transfer_counts(block, _steps(shape.length, settings, block))
    return [[(count,) * shape.batch for count in counts] for _ in range(shape.length // block)]


def whole_blocks(length: int, block_length: int) -> int:
    """How many blocks L has; raises InputError where they do not fit."""
    steps_per_block(length, length, block_length)  # one token a step always fits, if the blocks do
    return length // block_length


def _steps(length: int, settings: Settings, block: int) -> int:
    """Steps of each block."""
    steps = settings.steps or length
    if steps <= length or settings.idle_steps == "skip":
        return steps_per_block(length, steps, block)
    blocks = whole_blocks(length, block)
    if steps % blocks:
        raise InputError(
            f"steps: T={steps} is not divisible by the {blocks} blocks of {block} in L={length}; "
            f"choose a multiple of {blocks}"
        )
    return steps // blocks


def _recorded(schedule: Sequence[Sequence[int]], batch: int, blocks: int, block: int) -> Plan:
    """The schedule's counts, row by row, cut at the ends of blocks: a block takes as long as its slowest row.

    Zeros after a row's block is complete are steps in which it waited; other rows may make it wait longer or shorter
    here, so they are left out and put in where they are needed.
    """
    if not schedule:
        raise InputError("commit_schedule has no rows; give at least one list of counts")
    rows = []
    for index in range(batch):
        source = index % len(schedule)
        rows.append(list(_cut(schedule[source], source, blocks, block)))
    plan: Plan = []
    for number in range(blocks):
        longest = max(len(row[number]) for row in rows)
        padded = [row[number] + [0] * (longest - len(row[number])) for row in rows]
        plan.append(list(zip(*padded, strict=True)))
    return plan


def _cut(counts: Sequence[int], row: int, blocks: int, block: int) -> Iterator[list[int]]:
    """One row's counts block by block. A count beyond the block's end commits what is left of it."""
    given = iter(counts)
    for number in range(blocks):
        own: list[int] = []
        while (left := block - sum(own)) > 0:
            count = next(given, None)
            if count is None:
                done = number * block + sum(own)
                raise InputError(
                    f"commit_schedule row {row}: its counts end after {done} positions, expected {blocks * block} in "
                    f"{blocks} blocks of {block}; record it at this length"
                )
            if count < 0:
                raise InputError(f"commit_schedule row {row}: a count is {count}; expected 0 or more")
            if count or own:
                own.append(min(count, left))
        yield own
