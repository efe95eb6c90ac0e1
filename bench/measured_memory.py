"""A cell's peak memory as measured: its own part of what a worker holds, by what it is for.

Cells of one shape are open in a worker together. What the others keep (caches, graphs, layouts that this cell does not
read) is known to the byte and taken off, so that a cell counts as if it were open alone.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..models.generator import Held, Holding
from ..profiles.hardware import MemorySplit
from ..profiles.memory import MemoryMeter, Pool, PoolId
from ..profiles.observer import Trace


class Open(Protocol):
    """An open cell as its memory is counted (see `opened.OpenCell`)."""

    @property
    def generator(self) -> object: ...

    @property
    def pools(self) -> Collection[PoolId]: ...


@dataclass(frozen=True, slots=True)
class Watch:
    """A stretch of work of one cell: `before_b` in use when it began, without what only other cells hold."""

    meter: MemoryMeter
    before_b: int | None
    others_b: int
    own_pools: frozenset[PoolId]
    other_pools: frozenset[PoolId]

    def peak_b(self) -> int | None:
        """The most that this cell has had in use since."""
        peak = self.meter.peak_b()
        if peak is None:
            return None
        pools = self.meter.pools()
        # The allocator counts what is live in a pool; an own one is held whole, one of others' not at all.
        idle = sum(pool.total_b - pool.live_b for pool in _of(pools, self.own_pools))
        return peak - self.others_b + idle - sum(pool.live_b for pool in _of(pools, self.other_pools))


def watch(cell: Open, cells: Iterable[Open], meter: MemoryMeter) -> Watch:
    """Begin a stretch of `cell`'s work beside the other open `cells`."""
    own: dict[int, int] = {}
    theirs: dict[int, int] = {}
    own_pools: set[PoolId] = set(cell.pools)
    other_pools: set[PoolId] = set()
    for each in cells:
        mine = each.generator is cell.generator
        (own_pools if mine else other_pools).update(each.pools)
        held = each.generator.held() if isinstance(each.generator, Holding) else None
        if held is not None:
            (own if mine else theirs).update(_storages((*held.weights, *held.kv)))
    others_b = sum(size for start, size in theirs.items() if start not in own)
    before = meter.start()
    return Watch(
        meter, None if before is None else before - others_b, others_b, frozenset(own_pools), frozenset(other_pools)
    )


def measured_memory(
    cell: Open, cells: Iterable[Open], meter: MemoryMeter, generate: Callable[[], Trace]
) -> MemorySplit | str:
    """The split of the peak of one generation, or why there is none."""
    if not isinstance(cell.generator, Holding):
        return "its generator does not say what it holds (see `models.generator.Holding`)"
    gc.collect()
    meter.return_freed()
    stretch = watch(cell, cells, meter)
    trace = generate()
    peak, held = stretch.peak_b(), cell.generator.held()
    if held is None:
        return "its generator cannot tell how large its cache grows"
    if peak is None or stretch.before_b is None:
        return "this system does not tell a process its peak memory"
    logits = held.logits_b * max((forward.logit_rows for forward in trace.forwards), default=0)
    return split_peak(stretch.before_b, peak, held, logits, resident=not meter.cuda)


def split_peak(before_b: int, peak_b: int, held: Held, logits_b: int, *, resident: bool) -> MemorySplit | str:
    """Divide a peak; `before_b` were in use when the generation began.

    `resident`: the process counts as a whole. What it takes beside weights and caches before a generation is the rest;
    what the generation adds is logits, a growing cache and activations. The C library may have kept freed memory that
    the generation then used again, so that it adds less than its logits: activations are 0 then, and the rest, which
    the kept memory was counted in, is the smaller for it.
    """
    weights, kv = _bytes(held.weights), _bytes(held.kv)
    activations = peak_b - logits_b - held.grown_b - (before_b if resident else weights + kv)
    rest = before_b - weights - kv if resident else 0
    if resident and activations < 0:
        rest, activations = rest + activations, 0
    if rest < 0:
        return "less is resident than weights, caches and logits take: some was swapped out, or never touched"
    if activations < 0:
        return "the allocator counts less than weights, caches and logits take: something is counted twice"
    return MemorySplit(
        weights_b=weights, kv_b=kv + held.grown_b, logits_b=logits_b, activations_b=activations, rest_b=rest
    )


def _of(pools: dict[PoolId, Pool], names: frozenset[PoolId]) -> list[Pool]:
    return [pool for name, pool in pools.items() if name in names]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(_storages(tensors).values())


def _storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Bytes of each distinct piece of memory behind these tensors, by its address."""
    pieces = (tensor.untyped_storage() for tensor in tensors)
    return {piece.data_ptr(): piece.nbytes() for piece in pieces}
