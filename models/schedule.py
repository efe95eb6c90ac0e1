"""How samplers divide T steps and L positions: into blocks, and into tokens per step. Arithmetic only: no data."""

from __future__ import annotations

from .. import InputError


def transfer_counts(block_length: int, steps: int) -> list[int]:
    """How many positions each of `steps` steps commits: as even as can be, the larger ones first (LLaDA).

    >>> transfer_counts(10, 4)
    [3, 3, 2, 2]
    """
    base, extra = divmod(block_length, steps)
    return [base + (step < extra) for step in range(steps)]


def transfer_counts_by_time(masks: int, steps: int, epsilon: float = 1e-3) -> list[int]:
    """How many of `masks` masked positions each of `steps` steps commits when the count follows the time (Dream).

    Between the times t > s of a grid from 1 down to epsilon, int(left (1 - s/t)) of those left are committed; the last
    step takes all. So T = L does not mean one token a step:

    >>> transfer_counts_by_time(8, 8)
    [0, 1, 1, 1, 1, 1, 1, 2]

    The arithmetic is float32 like the sampler's: where left (1 - s/t) is close to an integer, rounding decides.
    """
    # Imported here: reading a suite needs this module, but not torch.
    from .noise import time_grid

    grid = time_grid(steps, epsilon)
    counts: list[int] = []
    for step in range(steps - 1):
        left = masks - sum(counts)
        counts.append(int(left * (1 - grid[step + 1] / grid[step])))
    return [*counts, masks - sum(counts)]


def steps_per_block(length: int, steps: int, block_length: int) -> int:
    """Denoising steps of each block; raises InputError where T and the blocks do not fit into L."""
    if steps > length:
        raise InputError(
            f"steps: T={steps} exceeds length L={length}: a step commits at least one token; choose T <= L"
        )
    if length % block_length:
        raise InputError(f"block length: L={length} is not divisible by {block_length}; choose a divisor of L")
    blocks = length // block_length
    if steps % blocks:
        raise InputError(
            f"steps: T={steps} is not divisible by the {blocks} blocks of {block_length} in L={length}; "
            f"choose a multiple of {blocks}"
        )
    return steps // blocks
