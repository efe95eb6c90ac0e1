"""SDAR's loops over one block: steps that commit known, equal numbers, and steps whose numbers the data decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .block_diffusion import Decoding
from .candidates import Step
from .confidence import Measure, predict
from .selection import candidates


def even(run: Decoding, start: int, counts: Sequence[int], measure: Measure | None, mask_id: int) -> Iterator[None]:
    """Every row commits the same, known number: logits only for what is still masked, and nothing waits."""
    window, columns = run.window(start), run.masked(start)
    for count in counts:
        if measure is None or count == columns.shape[1]:
            tried, columns = columns[:, :count], columns[:, count:]
            ids, _ = _predict(run, start, tried, None, mask_id)
        else:
            ids, scores = _predict(run, start, columns, measure, mask_id)
            assert scores is not None
            order = scores.argsort(dim=1, descending=True, stable=True)
            ids, tried = ids.gather(1, order[:, :count]), columns.gather(1, order[:, :count])
            # In the order of their places again, which is what decides between equal scores.
            columns = columns.gather(1, order[:, count:].sort(dim=1).values)
        window.scatter_(1, tried, ids)
        yield


def uneven(run: Decoding, start: int, steps: Sequence[Step], measure: Measure | None, mask_id: int) -> Iterator[None]:
    """Rows commit different numbers. Where the data decide them, the host waits once a step for what is left."""
    window, columns = run.window(start), run.masked(start)
    still = torch.ones_like(columns, dtype=torch.bool)
    left = [columns.shape[1]] * columns.shape[0]
    for counts, rule in steps:
        ids, scores = _predict(run, start, columns, measure, mask_id)
        if scores is None:
            scores = torch.zeros_like(columns, dtype=torch.float32)
        chosen = rule(scores.masked_fill(~still, -torch.inf))
        if not run.settings.suppress_mask:
            chosen &= ids != mask_id
        window.scatter_(1, columns, torch.where(chosen, ids, window.gather(1, columns)))
        yield
        still &= ~chosen
        if counts is None:
            left = still.sum(dim=1).tolist()
        else:
            left = [before - count for before, count in zip(left, counts, strict=True)]
        if not any(left):
            return
        order = still.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : max(left)]
        columns, still = columns.gather(1, order), still.gather(1, order)


def within_budget(negative_entropy: Tensor, bound: float) -> Tensor:
    """Of scores [B, n] (-inf: no candidate), the best whose entropies add up to at most `bound` nats; at least one."""
    ordered, order = negative_entropy.sort(dim=1, descending=True, stable=True)
    leading = (-ordered).cumsum(dim=1) <= bound
    leading[:, 0] = True
    return torch.zeros_like(leading).scatter_(1, order, leading) & candidates(negative_entropy)


def _predict(
    run: Decoding, start: int, columns: Tensor, measure: Measure | None, mask_id: int
) -> tuple[Tensor, Tensor | None]:
    """One forward: ids [B, n] for columns [B, n] of the block, and scores [B, n] where a measure is asked for."""
    where = run.places(columns)
    ids, scores = predict(
        run.logits(start, where),
        run.settings,
        run.draws,
        where,
        (run.canvas.shape[0], run.blocks.size),
        measure=measure,
        suppress=mask_id if run.settings.suppress_mask else None,
    )
    return ids.view(columns.shape), None if scores is None else scores.view(columns.shape)
