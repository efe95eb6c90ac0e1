"""How speculative decoding divides L and T into drafts, and what a commit schedule makes of it. Arithmetic only."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Self

from .. import InputError
from .commit_schedule import in_turn
from .generator import Settings, Shape

_DRAFT_LENGTH = 4  # by default, if L has as many


@dataclass(frozen=True, slots=True)
class DraftPlan:
    """k tokens a draft (`block`), in `steps` draft steps; `cached`: the drafter keeps its prefix from round to round.

    `replayed`: the tokens that each round adds to each row, row -> round, from the commit schedule, if there is one.
    """

    shape: Shape
    block: int
    steps: int
    cached: bool
    replayed: tuple[tuple[int, ...], ...] | None

    @classmethod
    def of(cls, shape: Shape, settings: Settings) -> Self:
        """The plan of `settings` for `shape`; raises InputError where they do not fit."""
        settings.refuse("speculative decoding", "cache", "commit_schedule")
        if settings.cache not in (None, "none", "prefix"):
            raise InputError(f"cache {settings.cache!r}: speculative decoding knows prefix and none")
        if settings.remasking != "low_confidence":
            raise InputError(f"remasking {settings.remasking!r}: a draft is committed from the left; leave it out")
        length = shape.length
        block = settings.block_length or min(_DRAFT_LENGTH, length)
        if block > length:
            raise InputError(f"block length: drafts of {block} exceed length L={length}; choose at most L")
        steps, unit = settings.steps or 1, length // gcd(length, block)
        if steps > length:
            raise InputError(f"steps: T={steps} exceeds length L={length}: a draft step commits a token; choose T <= L")
        if steps * block > length and steps % unit:
            raise InputError(
                f"steps: T={steps} makes {steps * block / length:.3g} steps of each draft of {block} in L={length}; "
                f"choose a multiple of {unit}, or at most {length // block} for one step"
            )
        replayed = _replayed(settings.commit_schedule, shape, block)
        return cls(shape, block, max(1, steps * block // length), settings.cache != "none", replayed)


def _replayed(
    schedule: tuple[tuple[int, ...], ...] | None, shape: Shape, block: int
) -> tuple[tuple[int, ...], ...] | None:
    """A commit schedule for every row (cyclically), as far as it is needed; rows that are done add one a round."""
    if schedule is None:
        return None
    # The prompt's forward gives the first token.
    used, due = [], shape.length - 1
    for number, row in in_turn(schedule, shape.batch):
        counts: list[int] = []
        for count in row:
            if not 1 <= count <= block + 1:
                raise InputError(
                    f"commit_schedule row {number}: a round adds {count} tokens; expected 1 to {block + 1}, "
                    f"a draft of {block} and one of the target's"
                )
            if sum(counts) < due:
                counts.append(count)
        if sum(counts) < due:
            raise InputError(
                f"commit_schedule row {number}: its rounds add {sum(counts)} tokens; expected at least {due}, "
                f"L={shape.length} less the one of the prompt's forward"
            )
        used.append(counts)
    rounds = max(len(counts) for counts in used)
    return tuple((*counts, *[1] * (rounds - len(counts))) for counts in used)
