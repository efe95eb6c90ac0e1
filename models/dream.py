"""Dream's sampler: the whole canvas denoised at once, by a network whose row i predicts token i + 1.

Dream 7B (Ye et al. 2025, "Dream 7B: Diffusion Large Language Models") goes along a time grid from 1 to `epsilon`.
Between the times t > s, masks leave with probability 1 - s/t, so that how many do follows from the time:

- `origin` commits each masked position independently. It is the default here because it is the default of the
  published code; the authors' own scripts choose `entropy`.
- `maskgit_plus`, `topk_margin`, `entropy` commit the int(masks (1 - s/t)) most confident (see `confidence`), the last
  step all; with `position_temperature` (published: alg_temp) they are drawn.

The published loop runs every step, also those that commit nothing; `idle_steps` "skip", the default, leaves those out.
It also counts masks anew at every step, since a position may predict the mask and so stay masked. Where that cannot
happen (`suppress_mask`, the default) all counts are known beforehand, and the host never waits; so are `origin`'s
positions, which depend on no prediction: they are drawn first, and logits are computed for no others.

With a `threshold` this is Fast-dLLM's variant (Wu et al. 2025): each step commits at most L/T positions and those that
earlier steps left over, the best one always, others if their probability reaches the threshold; more than T forwards
may be needed. With `cache` prefix or dual see `dream_blocks`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import InputError
from .costs import Cost
from .dream_blocks import DreamBlocks
from .dream_canvas import Forward, started
from .dream_courses import by_counts, by_lot, by_recount, by_replay, by_threshold
from .dream_plan import EPSILON, cached, canvas_counts, paid
from .fast_forwards import FastForwards
from .generator import Held, Observer, Request, Settings, Shape, Side
from .masked_diffusion import mask_of
from .network import Network, Padding
from .noise import time_grid

# Lots are drawn on the host, tokens on the device: one seed must not give both the same stream where they are one.
_OF_LOTS = 0x5DEECE66D


class Dream:
    """Dream's loop on any network with a mask token; logits are shifted where the network's config says so.

    Prompts may be padded on the left (`Request.prompt_mask`), on the engine eager and without a cache: pads are not
    attended to, and positions count real tokens. Masks in a prompt stay what they are. One canvas has no blocks, so the
    policy `natural` ends no earlier than `fixed`.
    """

    side: Side = "diffusion"

    def __init__(self, network: Network, *, engine: str = "eager", kv_dtype: torch.dtype | None = None) -> None:
        self.network = network
        self.engine = engine
        self.mask_id = mask_of(network)
        self._blocks = DreamBlocks(network, engine=engine, kv_dtype=kv_dtype)
        self._shape: Shape | None = None
        self._forwards: FastForwards

    def prepare(self, shape: Shape, settings: Settings) -> None:
        """Check the settings; compile or capture the forward over P + L positions. With a cache see `DreamBlocks`."""
        if cached(settings):
            self._blocks.prepare(shape, settings)
            return
        canvas_counts(shape, settings)
        if shape == self._shape:
            return
        self._shape = None
        self._forwards = FastForwards(self.network, self.engine, "none", self.network.dtype, shape, shape.length)
        self._shape = shape

    def promised_nfe(self, shape: Shape, settings: Settings) -> int | None:
        """Forwards of a run; None where the data decide, or origin's draws whether a step commits anything."""
        if cached(settings):
            return self._blocks.promised_nfe(shape, settings)
        counts = canvas_counts(shape, settings)
        if counts is not None:
            return paid(counts, settings)
        runs_all = settings.idle_steps == "run" and settings.threshold is None
        return (settings.steps or shape.length) if runs_all else None

    @torch.inference_mode()
    def generate(self, request: Request, observer: Observer) -> Tensor:
        """Tokens [B, L]. Recorded draws are taken in the order of the published loop."""
        settings = request.settings
        if cached(settings):
            return self._blocks.generate(request, observer)
        if request.shape != self._shape:
            raise InputError(f"generate() got {request.shape}, but prepare() was called for {self._shape}")
        counts = canvas_counts(request.shape, settings)
        work = started(self.network, self.mask_id, request, observer)
        forward = self._forward(request)
        span = (work.start, work.ids.shape[1])
        steps = settings.steps or request.length
        if settings.threshold is not None and counts is not None:
            by_replay(work, forward, *span, settings.threshold, counts)
        elif settings.threshold is not None:
            by_threshold(work, forward, *span, settings.threshold, request.length // steps)
        elif settings.commit_schedule is not None and counts is not None:
            by_counts(work, forward, *span, counts)
        elif request.draws is not None or not settings.suppress_mask:
            by_recount(work, forward, *span, steps)
        elif counts is None:
            by_lot(work, forward, *span, _lots(request, steps))
        else:
            by_counts(work, forward, *span, counts)
        return work.ids[:, work.start :]

    def audit(self, request: Request) -> dict[str, float]:
        """How far the cache moves this request's logits and tokens (see `CacheAudit.figures`)."""
        return self._blocks.audit(request)

    def _forward(self, request: Request) -> Forward:
        """The forward over the whole canvas, with the request's padding if it has any."""
        width = request.prompt_ids.shape[1] + request.length
        if request.prompt_mask is None:
            return Forward(self._forwards.whole, "denoise", 0, width)
        if self.engine != "eager":
            raise InputError(f"prompt_mask: padded prompts run on the engine eager only, not on {self.engine!r}")
        padding = left_padding(request.prompt_mask, request.prompt_ids, request.length)
        condition = self.network.conditioning(None)

        def run(ids: Tensor) -> Tensor:
            return self.network.trunk(ids, mask="bidirectional", padding=padding, condition=condition)

        return Forward(run, "denoise", 0, width)

    def held(self) -> Held:
        """Weights, and with a cache what `DreamBlocks` holds."""
        return self._blocks.held()

    def forward_cost(self, network: str, rows: int, q_len: int, kv_len: int, logit_rows: int, mask: str) -> Cost:
        """Analytic work of one announced forward."""
        return self._blocks.forward_cost(network, rows, q_len, kv_len, logit_rows, mask)


def _lots(request: Request, steps: int) -> list[Tensor]:
    """For each step the places that `origin` commits, on the device.

    A mask survives the step from t to s with probability s/t, hence all steps down to time s with probability s: one
    uniform a position says when it leaves.
    """
    settings, (rows, start) = request.settings, request.prompt_ids.shape
    random = torch.Generator().manual_seed(request.seed ^ _OF_LOTS)
    uniforms = torch.rand(rows, request.length, dtype=torch.float64, generator=random)
    times = time_grid(steps, settings.epsilon or EPSILON).double()
    leaves = torch.bucketize(-uniforms, -times[1:-1], right=True).flatten()  # the number of times s > u
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(request.length), indexing="ij")
    places = (row * (start + request.length) + start + column).flatten()
    order = leaves.argsort(stable=True)
    sizes = leaves.bincount(minlength=steps).tolist()
    return list(places[order].to(request.prompt_ids.device, non_blocking=True).split(sizes))


def left_padding(mask: Tensor, prompt: Tensor, length: int) -> Padding:
    """Positions that count real tokens; pads, which nothing sees, take position 1. Raises InputError."""
    if mask.shape != prompt.shape:
        raise InputError(f"prompt_mask {list(mask.shape)}: expected the shape of prompt_ids, {list(prompt.shape)}")
    mask = mask.bool()
    if not bool(mask[:, -1:].all() & (mask[:, 1:] >= mask[:, :-1]).all()):
        raise InputError("prompt_mask: expected pads only on the left, and a real token at the end of every row")
    valid = torch.cat((mask, mask.new_ones(mask.shape[0], length)), dim=1)
    return Padding(valid, (valid.cumsum(dim=1) - 1).masked_fill(~valid, 1))
