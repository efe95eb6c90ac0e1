"""How a semi-autoregressive sampler divides T steps and L positions into blocks. Arithmetic only: no data, no torch."""

from __future__ import annotations

from .. import InputError


def transfer_counts(block_length: int, steps: int) -> list[int]:
    """How many positions each of `steps` steps commits: as even as can be, the larger ones first (LLaDA).

    >>> transfer_counts(10, 4)
    [3, 3, 2, 2]
    """
    base, extra = divmod(block_length, steps)
    return [base + (step < extra) for step in range(steps)]


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
