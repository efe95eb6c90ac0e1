"""BD3LM's loops over one block: each as a fast one, and as a `whole` one that draws what the published code draws.

Which position leaves the mask when does not depend on the network. The fast loops draw it beforehand and compute
logits only for what leaves, in float32; no step waits for the host. The whole ones compute every open position and
draw at each, in float64, for the Gumbel race and for recorded draws: what is not wanted of it is thrown away.

The grid of `ddpm` is the published one: T times from 1 to 0, but steps of 1/T, so that from t a mask stays with
probability s/t, s = t - 1/T, and the last time is 0. Nothing is left to stay there: in the fast loop every mask leaves.
The whole loop computes what is published, s/t = -inf, under which a race gives token 0 to every mask that got so far:
4.6 % of them at T = 6, few at large T.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from .block_diffusion import Decoding, Denoise
from .generator import Settings
from .noise import time_grid
from .nucleus import Crossing
from .sampling import truncate


def first_hitting(run: Decoding, mask_id: int, crossing: Crossing) -> Denoise:
    """One position a row and forward, in an order that is drawn for each block and row."""

    def block(start: int) -> Iterator[None]:
        window, columns = run.window(start), run.masked(start)
        order = run.draws.positions(torch.ones_like(columns, dtype=torch.float32), columns.shape[1])
        for column in columns.gather(1, order).split(1, dim=1):
            where = run.places(column)
            window.scatter_(1, column, _tokens(run, start, where, mask_id, crossing)[:, None])
            yield

    return block


def first_hitting_whole(run: Decoding, mask_id: int, crossing: Crossing) -> Denoise:
    """The same, with a token drawn at every open position, of which one is kept."""

    def block(start: int) -> Iterator[None]:
        window, columns = run.window(start), run.masked(start)
        for left in range(columns.shape[1], 0, -1):
            drawn = _tokens(run, start, run.places(columns), mask_id, crossing).view(columns.shape)
            choice = run.draws.positions(torch.ones_like(columns, dtype=torch.float32), 1)
            window.scatter_(1, columns.gather(1, choice), drawn.gather(1, choice))
            yield
            rest = torch.arange(left - 1, device=columns.device).expand(columns.shape[0], -1)
            columns = columns.gather(1, rest + (rest >= choice))

    return block


def ddpm(run: Decoding, mask_id: int, crossing: Crossing, steps: int) -> Denoise:
    """A forward for each different step of the grid at which something leaves; all of them are drawn up front."""
    rows = run.canvas.shape[0]
    columns = torch.cat([run.masked(start)[0] + start for start in run.blocks.starts])
    left = 1 - torch.tensor(stay_chances(steps, strict=False), dtype=torch.float64).cumprod(dim=0)
    # The host waits for its draws, before there is anything else to wait for.
    uniforms = run.draws.uniform(rows, columns.shape[0]).cpu()
    leaving = torch.searchsorted(left, uniforms, right=True)
    # All positions in the order in which they leave: (block, step, row, column).
    size = run.blocks.size
    queue = sorted(
        (column // size * size, step, row, column % size)
        for row, of_row in enumerate(leaving.tolist())
        for column, step in zip(columns.tolist(), of_row, strict=True)
    )
    places = torch.tensor([entry[2:] for entry in queue], device=run.canvas.device)
    sizes = [(start, len(list(group))) for (start, _), group in groupby(queue, key=lambda entry: entry[:2])]
    ends = [0]
    for _, count in sizes:
        ends.append(ends[-1] + count)
    slices: dict[int, list[slice]] = {start: [] for start in run.blocks.starts}
    for (start, _), (begin, end) in zip(sizes, pairwise(ends), strict=True):
        slices[start].append(slice(begin, end))

    def block(start: int) -> Iterator[None]:
        window = run.window(start)
        for part in slices[start]:
            row, column = places[part].unbind(1)
            window[row, column] = _tokens(run, start, row * size + column, mask_id, crossing)
            yield

    return block


def ddpm_whole(run: Decoding, mask_id: int, crossing: Crossing, steps: int) -> Denoise:
    """The published loop: at every time a token or the mask is drawn at each open position."""
    chances = stay_chances(steps, strict=True)

    def block(start: int) -> Iterator[None]:
        window, known = run.window(start), run.blocks.known(start)
        clean: Tensor | None = None
        for stay in chances:
            row, column = (window[:, known:] == mask_id).nonzero().unbind(1)
            if not row.shape[0]:
                return
            column = column + known
            where = row * run.blocks.size + column
            if clean is None:
                clean = clean_probabilities(run.logits(start, where), run.settings, mask_id, crossing, torch.float64)
            weights = clean * (1 - stay)
            weights[:, mask_id] = stay
            ids = run.draws.tokens(weights, where, (window.shape[0], window.shape[1]))
            window[row, column] = ids
            if bool((ids != mask_id).any()):
                clean = None
                yield

    return block


def stay_chances(steps: int, *, strict: bool) -> list[float]:
    """s/t at each time t of the grid of T: how probable it is that a mask stays. The last is 0, -inf if `strict`."""
    times = time_grid(steps - 1, 0.0).double() if steps > 1 else torch.ones(1, dtype=torch.float64)
    chances = (times - 1 / steps) / times
    return (chances if strict else chances.clamp(min=0.0)).tolist()


def clean_probabilities(
    logits: Tensor, settings: Settings, mask_id: int, crossing: Crossing, dtype: torch.dtype
) -> Tensor:
    """SUBS at masked positions: p(x0) [n, V], 0 for the mask, of logits [n, V] (overwritten); tempered and cut."""
    logits[:, mask_id] = -torch.inf
    if settings.temperature == 0:
        return F.one_hot(logits.argmax(dim=-1), logits.shape[1]).to(dtype)
    scaled = logits.to(dtype) / settings.temperature
    return truncate(scaled, settings.top_k, settings.top_p, crossing).softmax(dim=-1)


def _tokens(run: Decoding, start: int, where: Tensor, mask_id: int, crossing: Crossing) -> Tensor:
    """One forward, and tokens [n] drawn at the places `where` [n]."""
    logits, whole = run.logits(start, where), run.draws.whole
    if run.settings.temperature == 0 and not whole:
        logits[:, mask_id] = -torch.inf
        return logits.argmax(dim=-1)
    dtype = torch.float64 if whole else torch.float32
    weights = clean_probabilities(logits, run.settings, mask_id, crossing, dtype)
    return run.draws.tokens(weights, where, (run.canvas.shape[0], run.blocks.size))
