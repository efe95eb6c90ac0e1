"""How many positions each step commits in each row, where that is known beforehand: the host then never waits."""

from __future__ import annotations

from .. import InputError
from .commit_schedule import Plan, cut_at_blocks
from .generator import Settings, Shape
from .schedule import steps_per_block, transfer_counts


def commit_plan(shape: Shape, settings: Settings) -> Plan:
    """LLaDA's even division of T steps, or the recorded `commit_schedule` in its place. Raises InputError.

    T defaults to L, the block to the whole length. T > L means steps that commit nothing (LLaDA's loop runs them):
    refused, but where `idle_steps` is "run".
    """
    block = settings.block_length or shape.length
    if settings.commit_schedule is not None:
        blocks = whole_blocks(shape.length, block)
        idle = settings.idle_steps == "run"
        return cut_at_blocks(settings.commit_schedule, shape.batch, [block] * blocks, idle=idle)
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
