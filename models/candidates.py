"""What a step may commit, kept compactly, and the rule and number by which it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .commit_schedule import Plan
from .selection import top_k

Rule = Callable[[Tensor], Tensor]  # scores [B, n] -> committed, bool [B, n] (see `selection`)
# How many each row commits, or None where only the rule knows, and the rule that chooses them.
Step = tuple[tuple[int, ...] | None, Rule]


def even(counts: tuple[int, ...]) -> bool:
    """Whether all rows commit as many."""
    return len(set(counts)) == 1


def planned_steps(plan: Plan, device: torch.device) -> list[list[Step]]:
    """The steps of each block of a plan. Counts that differ between rows are copied to the device here, all at once."""
    flat = [counts for steps in plan for counts in steps]
    table: Sequence[Tensor] = ()
    if not all(even(counts) for counts in flat):
        table = torch.tensor(flat, device=device).unbind()
    of = {counts: counts[0] if even(counts) else table[index] for index, counts in enumerate(flat)}
    return [[(counts, partial(top_k, count=of[counts])) for counts in steps] for steps in plan]


def standing_in(planned: Rule, rule: Rule) -> Rule:
    """`rule` does its work on the scores, and `planned` says what is committed: a schedule in place of the data."""

    def run(scores: Tensor) -> Tensor:
        rule(scores)
        return planned(scores)

    return run


@dataclass(frozen=True, slots=True)
class Candidates:
    """Columns [B, n] of the canvas that a step may commit; `open` [B, n] bool where only some of them are (None: all).

    `settled`: all of them will be committed, whatever the logits say.
    """

    columns: Tensor
    open: Tensor | None = None
    settled: bool = False

    def take(self, wanted: Tensor, sizes: Sequence[int], *, settled: bool = False) -> Candidates:
        """Those `wanted` [B, n], of which row r has sizes[r], in their order and moved to the left."""
        width = max(sizes)
        order = wanted.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :width]
        kept = None if min(sizes) == width else wanted.gather(1, order)
        return Candidates(self.columns.gather(1, order), kept, settled)

    def without(self, chosen: Tensor, sizes: Sequence[int]) -> Candidates:
        """Those that `chosen` [B, n] leaves, of which row r has sizes[r]."""
        return self.take(~chosen if self.open is None else self.open & ~chosen, sizes)

    def split(self, order: Tensor | None, count: int) -> tuple[Tensor, Candidates]:
        """The first `count` of every row in an `order` [B, n] (None: as they are), and the rest: where all are open.

        The same as a choice and `without`, with half the operations: for most generations, every step is like this.
        """
        columns = self.columns if order is None else self.columns.gather(1, order)
        return columns[:, :count], Candidates(columns[:, count:])

    def masked(self, scores: Tensor) -> Tensor:
        """Scores [B, n], -inf where a column is no candidate."""
        return scores if self.open is None else scores.masked_fill(~self.open, -torch.inf)
