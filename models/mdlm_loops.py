"""MDLM's two loops over one canvas: `planned`, the fast one, and `whole`, which draws what the published code draws.

Both have the same law. `planned` knows beforehand when each position leaves the mask (see `mdlm_moves`): no step waits
for the host, and the vocabulary head runs on the leaving positions alone. `whole` draws at every open position among
all tokens and the mask, and finds out what left; it is for the Gumbel race and for recorded draws.

Both end with one more forward that removes the masks that are left. `planned` nearly always knows that there are none,
and still runs it: it belongs to the published sampler's cost, and to its number of forwards in closed form.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .canvas import Canvas, Conditions
from .draws import Draws
from .generator import Settings
from .mdlm_moves import Moves, evaluations, leaving_steps
from .sampling import choose


def planned(
    canvas: Canvas, odds: Moves, settings: Settings, random: torch.Generator, host: torch.Generator, *, every: bool
) -> None:
    """Denoise a canvas in place: steps drawn from `host`, a CPU generator, tokens by exact draws from `random`.

    `every`: the network runs at every step, rather than where something leaves.
    """
    rows, width = canvas.window
    steps, mask_id = len(odds.leave), _mask_id(canvas)
    leaving = leaving_steps(odds, torch.rand(rows * width, dtype=torch.float64, generator=host))
    counts = torch.bincount(leaving, minlength=steps + 1).tolist()
    order = leaving.argsort(stable=True).to(canvas.ids.device, non_blocking=True)
    conditions = Conditions(canvas.network, odds.sigmas)
    for run in evaluations(counts, every=every, idle=settings.idle_steps == "run"):
        where = order[run.first : run.first + run.count]
        logits = canvas.logits(where, conditions[run.step])
        if run.count:
            canvas.put(where, choose(logits, settings, random, suppress=mask_id)[0], run.leaving)
        del logits  # or the next forward would run beside them
    where = order[rows * width - counts[steps] :]
    logits = canvas.logits(where, conditions[steps])
    if counts[steps]:
        if settings.sampler == "analytic":
            tokens, _ = choose(logits, settings, random, suppress=mask_id)
        else:
            tokens = _likeliest(logits, mask_id)
        canvas.put(where, tokens, steps)


def whole(canvas: Canvas, odds: Moves, settings: Settings, draws: Draws, *, every: bool) -> None:
    """Denoise a canvas in place by draws from the weights of all tokens, the mask's included, at every open position.

    Without `every`, p(x0) is used again until something changes.
    """
    mask_id, window = _mask_id(canvas), canvas.window
    conditions = Conditions(canvas.network, odds.sigmas)
    where = canvas.places(mask_id)
    clean: Tensor | None = None
    for step, (leave, stay) in enumerate(zip(odds.leave, odds.stay, strict=True)):
        if clean is None:
            clean = clean_probabilities(canvas.logits(where, conditions[step]), mask_id, settings.temperature)
        weights = clean * leave
        weights[:, mask_id] = stay
        tokens = draws.tokens(weights, where, window)
        left = tokens != mask_id
        places = where[left]
        if places.shape[0]:
            canvas.put(places, tokens[left], step)
            where = where[~left]
        if every or places.shape[0]:
            clean = None
    logits = canvas.logits(where, conditions[len(odds.leave)])
    if settings.sampler == "analytic":
        tokens = draws.tokens(clean_probabilities(logits, mask_id, settings.temperature), where, window)
    else:
        tokens = _likeliest(logits, mask_id)
    if where.shape[0]:
        canvas.put(where, tokens, len(odds.leave))


def clean_probabilities(logits: Tensor, mask_id: int, temperature: float = 1.0) -> Tensor:
    """SUBS at masked positions: p(x0) [n, V] float32 of logits [n, V] (overwritten), 0 for the mask.

    Temperature 1 is the published law; 0 puts everything on the likeliest token.
    """
    logits[:, mask_id] = -torch.inf
    if temperature == 0:
        return F.one_hot(logits.argmax(dim=-1), logits.shape[1]).float()
    return (logits.float() / temperature).softmax(dim=-1)


def _likeliest(logits: Tensor, mask_id: int) -> Tensor:
    logits[:, mask_id] = -torch.inf
    return logits.argmax(dim=-1)


def _mask_id(canvas: Canvas) -> int:
    mask_id = canvas.network.config.mask_id
    assert mask_id is not None  # checked when the generator was made
    return mask_id
