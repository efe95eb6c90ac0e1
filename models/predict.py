"""Tokens and confidences of a step of LLaDA's family, from whatever draws the request has.

The confidence is the probability of the chosen token under the untempered softmax, in float32. The published LLaDA
takes that softmax in the model's dtype, where bfloat16 makes ties of confidences that differ by less than 0.4 % (and
which of them go first an accident of the sort); Fast-dLLM takes it in float64, eight bytes for every logit. float32
orders what a float32 head can tell apart at the price of neither.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import InputError
from .draws import Draws, ExactDraws, RaceDraws
from .generator import Request, Settings
from .sampling import choose

# A greedy choice draws nothing, but `choose` wants to be given where it would draw from.
_UNUSED = torch.Generator()


class LLaDADraws(RaceDraws):
    """LLaDA's draws seed for seed: the race without an epsilon, and float32 uniforms for random remasking.

    Its form exp(logits) / (-log u)^temperature has the argmax of softmax(logits / temperature) / (-log u).
    """

    def __init__(self, random: torch.Generator, dtype: torch.dtype) -> None:
        super().__init__(lambda shape: torch.rand(shape, dtype=dtype, device=random.device, generator=random), eps=0.0)
        self.random = random

    def uniform(self, rows: int, columns: int) -> Tensor:
        return torch.rand(rows, columns, device=self.random.device, generator=self.random).double()


def drawing(request: Request) -> Draws:
    """Where this request's draws come from: recorded, exact, or LLaDA's race on uniforms of the precision asked for."""
    kind = request.settings.draw
    if request.draws is not None or kind == "exact":
        return request.drawing()
    return LLaDADraws(request.random(), torch.float64 if kind == "gumbel64" else torch.float32)


def check_draw(settings: Settings) -> None:
    """Raise InputError for a filter that the published race does not know."""
    if settings.draw != "exact" and (settings.top_k or settings.top_p < 1):
        raise InputError(f"draw {settings.draw!r} with top_k or top_p: the published race has neither; choose exact")


def predict(
    logits: Tensor,
    settings: Settings,
    draws: Draws,
    where: Tensor | None,
    window: tuple[int, int],
    *,
    suppress: int | None,
    confidence: bool,
) -> tuple[Tensor, Tensor | None]:
    """Ids [n] for logits [n, V] (overwritten at `suppress`) and, if asked, their confidences [n] float32.

    `where` [n] and `window` are the places of a draw (see `draws`); exact ones need no places.
    """
    if settings.temperature == 0 or isinstance(draws, ExactDraws):
        if not logits.shape[0]:
            nothing = logits.new_empty(0, dtype=torch.float32)
            return nothing.long(), nothing if confidence else None
        random = draws.random if isinstance(draws, ExactDraws) else _UNUSED
        return choose(logits, settings, random, suppress=suppress, confidence=confidence)
    if suppress is not None:
        logits[:, suppress] = -torch.inf
    assert where is not None
    # float64 like the race itself, so that rounding decides nothing that the published loop decides otherwise.
    if isinstance(draws, RaceDraws):
        ids = draws.of_logits(logits, settings.temperature, where, window)
    else:
        top = logits.amax(dim=-1, keepdim=True).double()
        ids = draws.tokens((logits.double() - top).div_(settings.temperature).exp_(), where, window)
    if not confidence:
        return ids, None
    chosen = logits.gather(1, ids[:, None])[:, 0].float()
    return ids, (chosen - logits.float().logsumexp(dim=-1)).exp_()
