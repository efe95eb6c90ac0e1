"""How masks become tokens: by counts known beforehand, by lot, by recounting masks, by a threshold, or as recorded.

A course works on the columns begin … end of a canvas through one kind of forward: the whole canvas (`dream`), or what a
cache leaves to be fed (`dream_blocks`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .draws import race
from .dream_canvas import Denoising, Forward
from .dream_plan import EPSILON, Counts
from .noise import time_grid
from .selection import above_threshold, candidates, top_k


def by_counts(work: Denoising, forward: Forward, begin: int, end: int, counts: Sequence[Counts]) -> None:
    """Each step commits the best of each row, as many as `counts` says. The host never waits: it knows all sizes."""
    rows, width = work.ids.shape
    device = work.ids.device
    places = torch.arange(rows, device=device)[:, None] * width + torch.arange(begin, end, device=device)
    # Non-blocking: otherwise torch waits for all that has been launched.
    plan = torch.tensor(counts).to(device, non_blocking=True).expand(-1, rows)[:, :, None]  # [T, B, 1]
    open_at = end - begin - (plan.cumsum(0) - plan)
    columns = torch.arange(end - begin, device=device)
    left = [end - begin] * rows
    for step, given in enumerate(counts):
        taken = given * rows if len(given) == 1 else given
        if any(taken) or work.settings.idle_steps == "run":
            size = places.shape[1]
            # A row that commits all that it has left, or nothing, needs no confidence.
            ranked = any(0 < count < have for count, have in zip(taken, left, strict=True))
            flat, confidence = work.predict(forward, places.flatten(), ranked=ranked)
            ids = flat.view(rows, size)
            if confidence is not None:
                # The open positions of a row come first; behind them are some that it has committed.
                closed = columns[:size] >= open_at[step]
                order = _ranking(work, confidence.view(rows, size).masked_fill(closed, -torch.inf))
                places, ids = places.gather(1, order), ids.gather(1, order)
            before = work.ids.clone()
            work.write(places, ids, columns[:size] < plan[step])
            work.announce(before, begin, end)
            left = [have - count for count, have in zip(taken, left, strict=True)]
            places = places.gather(1, (columns[: max(left)] + plan[step]) % size)
        work.step += 1


def by_lot(work: Denoising, forward: Forward, begin: int, end: int, lots: Sequence[Tensor]) -> None:
    """Each step commits the places drawn for it beforehand, and computes no others."""
    for places in lots:
        if len(places) or work.settings.idle_steps == "run":
            before = work.ids.clone()
            ids, _ = work.predict(forward, places, ranked=False)
            work.ids.view(-1)[places] = ids
            work.announce(before, begin, end)
        work.step += 1


def by_recount(work: Denoising, forward: Forward, begin: int, end: int, steps: int, first: int = 0) -> None:
    """The published loop: each step counts the masks, and a position that predicts the mask is tried again.

    `first` is the step of the time grid at which it starts. A batch commits the same number in each row, by the mean
    of its masks; a row that has fewer commits those it has.
    """
    rows = work.ids.shape[0]
    grid = time_grid(steps, work.settings.epsilon or EPSILON)
    for step in range(first, steps):
        places = work.masked(begin, end)
        share = 1 - grid[step + 1] / grid[step] if step < steps - 1 else torch.ones(())
        count = int(torch.tensor(float(len(places))) / rows * share)
        if work.measure is None:
            places = places[work.draws.uniform(1, len(places))[0] < float(share)]
            count = len(places)
        if count or work.settings.idle_steps == "run":
            before = work.ids.clone()
            ids, confidence = work.predict(forward, places)
            chosen = torch.ones_like(places, dtype=torch.bool)
            if confidence is not None:
                spread, at = work.spread(forward, places, confidence)
                chosen = _best(work, spread, count).view(-1)[at]
            work.write(places, ids, chosen)
            work.announce(before, begin, end)
        work.step += 1


def by_threshold(
    work: Denoising, forward: Forward, begin: int, end: int, threshold: float, per_step: int | None = None
) -> None:
    """Each step commits the best of each row, and the others whose confidence reaches the threshold.

    `per_step` bounds them (Fast-dLLM's uncached variant): each of T = masks / per_step steps adds it to a row's budget,
    and what is not used stays there. Steps go on until all of it is used.
    """
    settings, total = work.settings, end - begin
    used = work.ids.new_zeros(work.ids.shape[0])
    step = tried = 0
    while len(places := work.masked(begin, end)):
        budget = None if per_step is None else min(per_step * (step + 1), total) - used
        if not settings.suppress_mask:
            # What predicts the mask stays masked: for good where no budget is left, or a greedy choice repeats itself.
            if budget is not None and not budget.any():
                break
            if budget is None and settings.temperature == 0 and len(places) == tried:
                break
        tried = len(places)
        before = work.ids.clone()
        ids, confidence = work.predict(forward, places)
        assert confidence is not None, "a threshold is compared with probabilities"
        spread, at = work.spread(forward, places, confidence)
        chosen = above_threshold(spread, threshold, most=budget)
        used += chosen.sum(dim=1)
        work.write(places, ids, chosen.view(-1)[at])
        work.announce(before, begin, end)
        work.step += 1
        step += 1


def by_replay(
    work: Denoising, forward: Forward, begin: int, end: int, threshold: float, counts: Sequence[Counts]
) -> None:
    """`by_threshold` with its work and its waiting, and recorded numbers of commits in the place of its outcome."""
    rows, device = work.ids.shape[0], work.ids.device
    plan = torch.tensor(counts).to(device, non_blocking=True).expand(-1, rows)
    for given, count in zip(counts, plan, strict=True):
        if any(given) or work.settings.idle_steps == "run":
            places = work.masked(begin, end)
            before = work.ids.clone()
            ids, confidence = work.predict(forward, places)
            assert confidence is not None, "a threshold is compared with probabilities"
            spread, at = work.spread(forward, places, confidence)
            above_threshold(spread, threshold)
            work.write(places, ids, top_k(spread, count).view(-1)[at])
            work.announce(before, begin, end)
        work.step += 1
    work.masked(begin, end)  # by which the rule learns that it is done


def _ranking(work: Denoising, confidence: Tensor) -> Tensor:
    """The columns of confidence [B, n] in the order in which they are committed; -inf comes last.

    With a temperature of positions they are drawn one after the other in proportion to exp(confidence / temperature).
    """
    if not work.settings.position_temperature:
        return confidence.argsort(dim=1, descending=True, stable=True)
    return race(_tempered(work, confidence), work.draws.uniform(*confidence.shape), confidence.shape[1])


def _best(work: Denoising, confidence: Tensor, count: int) -> Tensor:
    """Which columns [B, n] are the `count` first of each row, or those it has; drawn as the published loop draws."""
    if not work.settings.position_temperature:
        return top_k(confidence, count)
    chosen = torch.zeros_like(confidence, dtype=torch.bool)
    if count:
        chosen.scatter_(1, work.draws.positions(_tempered(work, confidence).exp(), count), True)
    return chosen & candidates(confidence)


def _tempered(work: Denoising, confidence: Tensor) -> Tensor:
    """Logarithms of the weights that positions are drawn by, [B, n] float64, at most 0."""
    scaled = (confidence.double() - confidence.amax(dim=1, keepdim=True)) / work.settings.position_temperature
    return scaled.masked_fill(confidence.isneginf(), -torch.inf)
