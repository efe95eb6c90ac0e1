"""What a cell's generator does, counted in this process: forwards, tokens, FLOPs and bytes of real generations.

    count = Counting(plan)
    count.work(cell)            # {"nfe": 16, "forward_tokens": 94, …}

No clock enters, so that equal code gives equal numbers on every machine. Each cell is generated for a few prompts and
seeds, through the very checks of a timed sample. What these disagree about depends on the data or the draws, and is no
fact of the code: it is left out. So is every count of forwards where the generator itself says that it depends on them.
Imports torch.
"""

from __future__ import annotations

import gc
import math

import torch

from ..models.catalog import Context, NetworkSource
from ..models.generator import Promising
from ..models.plugins import side_of
from ..profiles.clocks import clock_for
from ..profiles.record import Cell, Sample
from .forecast import one_thread
from .opened import OpenCell, settings_of, shape_of
from .plan import Plan

REQUESTS = 3
_TOKENS = ("output_tokens", "canvas_tokens")
_FORWARDS = ("nfe", "draft_nfe", "forward_tokens")
_COSTS = ("model_flops", "model_bytes")


class Counting:
    """Counts the cells of a plan; a network is loaded once for all cells that share it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._contexts: dict[tuple[str, str, str], Context] = {}

    def work(self, cell: Cell) -> dict[str, float]:
        """The counters of one generation that do not depend on its prompt and seed; see `counted`."""
        return self.counted(cell)[1]

    @one_thread()
    def counted(self, cell: Cell) -> tuple[OpenCell, dict[str, float]]:
        """The open cell and its counters. Raises InputError where its generator refuses it, WorkDiffersError for one
        that breaks its contract, and whatever the generator raises."""
        opened = OpenCell(cell, self._context(cell), self._plan.prompts, clock_for(self._plan.device), 0.0)
        opened.prepare()
        # Each sample begins with a collection, which would look through all that the libraries have made.
        gc.freeze()
        try:
            first, *others = [_work(opened, number) for number in range(REQUESTS)]
        finally:
            gc.unfreeze()
        return opened, {
            name: value
            for name, value in first.items()
            if all(other.get(name) == value for other in others) and (name in _TOKENS or _decided(opened))
        }

    def _context(self, cell: Cell) -> Context:
        side = side_of(cell.generator)
        own, other = self._plan.pairs[cell.pair].seen_from(side)
        kind = (cell.pair, side, cell.dtype)
        if kind not in self._contexts:
            self._contexts[kind] = Context(
                own.backbone, own.weights, getattr(torch, cell.dtype), self._plan.device, self._plan.suite.seed,
                partner=NetworkSource(other.backbone, other.weights),
            )  # fmt: skip
        return self._contexts[kind]


def take(opened: OpenCell, number: int) -> Sample:
    """One sample, of prompt and seed `number`."""
    return opened.sample(order=number, round_index=number, prompt=number, seed=number, started_s=0.0)


def _work(opened: OpenCell, number: int) -> dict[str, float]:
    """All counters of one sample; those that the generator cannot state are absent."""
    sample = take(opened, number)
    costs = opened.counters({number}, flop_s=1.0, byte_s=1.0)
    found = {name: getattr(sample, name) for name in (*_TOKENS, *_FORWARDS)}
    stated = {name: value for name in _COSTS if isinstance(value := costs.get(name), int | float)}
    return found | {name: value for name, value in stated.items() if math.isfinite(value)}


def _decided(opened: OpenCell) -> bool:
    """Whether the number of forwards follows from the cell, as far as its generator says."""
    if not isinstance(opened.generator, Promising):
        return True
    return opened.generator.promised_nfe(shape_of(opened.cell), settings_of(opened.cell)) is not None
