"""How many positions of a block each step commits, where that is known beforehand: the host then never waits."""

from __future__ import annotations

from collections.abc import Sequence

from .. import InputError
from .block_forwards import Blocks
from .commit_schedule import Plan, cut_at_blocks, until


def even_plan(blocks: Blocks, counts: Sequence[int], rows: int) -> Plan:
    """Every block takes `counts` in turn until its new positions are used up: a shared first block needs fewer steps.

    Steps after that are not run, in the published loop neither.
    """
    return [[(count,) * rows for count in until(iter(counts), blocks.new(start))] for start in blocks.starts]


def recorded_plan(blocks: Blocks, schedule: Sequence[Sequence[int]], rows: int, *, idle: bool) -> Plan:
    """A `commit_schedule`'s counts, for the new positions of each block. Raises InputError.

    A step in which no row commits is kept where `idle`. Positions past the last token that was asked for may be left
    out of the counts.
    """
    sizes = [blocks.new(start) for start in blocks.starts]
    return cut_at_blocks(schedule, rows, sizes, asked=blocks.length, idle=idle)


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
