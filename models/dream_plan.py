"""What is known of a Dream generation before it starts: the rule, and how many positions each forward commits.

No tensors but the time grid, no device. Sources: the sampler published with Dream (Ye et al. 2025, "Dream 7B") and its
block-wise variants in Fast-dLLM (Wu et al. 2025).
"""

from __future__ import annotations

from collections.abc import Sequence

from .. import InputError
from .commit_schedule import cut_at_blocks
from .confidence import Measure
from .generator import Settings, Shape
from .names import DREAM_BLOCK
from .noise import time_grid
from .schedule import transfer_counts_by_time

EPSILON = 1e-3
# The published names, and what each ranks positions by; `origin` commits at random.
SAMPLERS: dict[str, Measure | None] = {
    "origin": None,
    "maskgit_plus": "probability",
    "topk_margin": "margin",
    "entropy": "entropy",
}
KNOWN = (
    "sampler", "cache", "threshold", "commit_schedule", "position_temperature", "epsilon", "suppress_mask",
    "idle_steps",
)  # fmt: skip

# How many positions one step commits in each row; a single count holds for all rows.
Counts = tuple[int, ...]


def cached(settings: Settings) -> bool:
    """Whether these settings ask for Fast-dLLM's block-wise variants."""
    return settings.cache in ("prefix", "dual")


def measure_of(settings: Settings) -> Measure | None:
    """What positions are ranked by; None for `origin`. Raises InputError for settings that exclude each other."""
    settings.refuse("Dream", *KNOWN)
    name = settings.sampler
    if name is not None and name not in SAMPLERS:
        raise InputError(f"sampler {name!r}: Dream knows {', '.join(SAMPLERS)}")
    if settings.remasking == "random":
        raise InputError("remasking 'random': Dream's random choice is the sampler origin; leave remasking out")
    if settings.cache == "kv":
        raise InputError("cache 'kv': Dream's blocks know prefix and dual; kv is exact, for block-causal networks")
    scheduled, threshold = settings.commit_schedule is not None, settings.threshold is not None
    if scheduled and not settings.suppress_mask:
        raise InputError("commit_schedule with suppress_mask false: a predicted mask would break its counts; drop one")
    if (scheduled or threshold) and name == "origin":
        raise InputError("sampler 'origin' commits at random; a threshold or commit_schedule needs maskgit_plus")
    if threshold:
        if name not in (None, "maskgit_plus"):
            raise InputError(f"sampler {name!r} with a threshold: it is compared with probabilities; use maskgit_plus")
        if settings.position_temperature:
            raise InputError("position_temperature with a threshold: the most confident are taken; drop one of the two")
    if name is None and not (scheduled or threshold):
        name = "entropy" if cached(settings) else "origin"
    if cached(settings) and not (scheduled or threshold) and name != "entropy":
        raise InputError(f"sampler {name!r} with cache {settings.cache}: Fast-dLLM's blocks always rank by entropy")
    if name == "origin" and settings.position_temperature:
        raise InputError("position_temperature with sampler origin: its positions are random already; drop one")
    return SAMPLERS[name or "maskgit_plus"]


def canvas_counts(shape: Shape, settings: Settings) -> list[Counts] | None:
    """Counts of each step on the whole canvas; None where they depend on data or draws. Raises InputError."""
    measure, length = measure_of(settings), shape.length
    steps = settings.steps or length
    if settings.block_length not in (None, length):
        raise InputError(f"block_length {settings.block_length}: Dream has blocks only with cache prefix or dual")
    if settings.commit_schedule is not None:
        return scheduled(settings.commit_schedule, shape.batch, [length])[0]
    if settings.threshold is not None and length % steps:
        raise InputError(
            f"steps: L={length} is not divisible by T={steps}; under a threshold each step adds L/T positions: "
            "choose a divisor of L"
        )
    if measure is None or settings.threshold is not None or not settings.suppress_mask:
        return None
    return [(count,) for count in transfer_counts_by_time(length, steps, settings.epsilon or EPSILON)]


def blocks(length: int, settings: Settings) -> tuple[int, int]:
    """(block length, forwards of each block). Raises InputError where L, T and the blocks do not fit."""
    block = settings.block_length or min(DREAM_BLOCK, length)
    if length % block:
        raise InputError(f"block length: L={length} is not divisible by {block}; choose a divisor of L")
    steps, count = settings.steps or length, length // block
    if steps % count and settings.threshold is None and settings.commit_schedule is None:
        raise InputError(
            f"steps: T={steps} is not divisible by the {count} blocks of {block} in L={length}; "
            f"choose a multiple of {count}"
        )
    return block, max(1, steps // count)


def block_counts(shape: Shape, settings: Settings) -> list[list[Counts]] | None:
    """For each block, counts of each forward, the refreshing one first; None where they depend on data.

    The refreshing forward commits the block's first position, and takes the first of the block's steps. With a single
    step a block it has to commit them all: the published loop would leave masks.
    """
    measure_of(settings)
    block, steps = blocks(shape.length, settings)
    count = shape.length // block
    if settings.commit_schedule is not None:
        return scheduled(settings.commit_schedule, shape.batch, [block] * count, refreshed=True)
    if settings.threshold is not None or not settings.suppress_mask:
        return None
    if steps == 1:
        return [[(block,)]] * count
    grid = time_grid(steps, settings.epsilon or EPSILON)
    counts: list[Counts] = [(1,)]
    left = block - 1
    for step in range(1, steps):
        taken = int(left * (1 - grid[step + 1] / grid[step])) if step < steps - 1 else left
        counts.append((taken,))
        left -= taken
    return [counts] * count


def scheduled(
    schedule: Sequence[Sequence[int]], rows: int, sizes: Sequence[int], *, refreshed: bool = False
) -> list[list[Counts]]:
    """A commit schedule, row -> step -> count, as counts of each forward of blocks of `sizes` positions.

    On the whole canvas no row waits for another before it is complete: every zero is a step. `refreshed` blocks begin
    with a forward that commits one position. Raises InputError for a schedule that does not fit.
    """
    return cut_at_blocks(schedule, rows, sizes, in_step=not refreshed, opening=refreshed)


def paid(counts: Sequence[Counts], settings: Settings) -> int:
    """Forwards that these counts cost: a step that commits nothing is run or left out."""
    return sum(settings.idle_steps == "run" or any(step) for step in counts)
