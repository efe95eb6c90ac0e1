"""Dream in blocks, with a cache of keys and values: Fast-dLLM's variants (Wu et al. 2025, Algorithm 1, on Dream).

A block begins with one forward of the whole sequence, which fills the cache and commits the block's first position
alone: its token is predicted by the row before the block, which the forwards that follow do not compute. They feed

- `prefix`: everything from the block's start; keys and values of what is before it are stale;
- `dual`: the block; what is after it is stale as well.

Without a threshold the block's T/blocks steps follow Dream's time grid and rank by negative entropy, whatever the
uncached sampler; the whole forward takes the first of them. With a `threshold` T has no meaning: each forward commits
all of the block that reach it, and the best one always.

Where T leaves a block a single step, the published loop commits its first position and leaves the others masked for
good. Here that forward commits the whole block.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from .. import InputError
from .cache_audit import CacheAudit, exact_logits
from .costs import Cost
from .dream_canvas import Denoising, Forward, started
from .dream_courses import by_counts, by_recount, by_replay, by_threshold
from .dream_plan import Counts, block_counts, blocks, paid
from .fast_forwards import CacheKind, FastForwards
from .generator import Held, Observer, Request, Settings, Shape, Side, Silent
from .masked_diffusion import mask_of
from .network import Network


class DreamBlocks:
    """The block-wise loops (`Settings.cache` prefix, dual). `block_length` defaults to 32, or L where that is less.

    Under the policy `natural`, generation ends with the block after which every row holds an EOS.
    """

    side: Side = "diffusion"

    def __init__(self, network: Network, *, engine: str = "eager", kv_dtype: torch.dtype | None = None) -> None:
        self.network = network
        self.engine = engine
        self.kv_dtype = kv_dtype or network.dtype
        self.mask_id = mask_of(network)
        self.eos_id = network.config.eos_token_id
        self._prepared: tuple[Shape, CacheKind, int] | None = None
        self._forwards: FastForwards

    def prepare(self, shape: Shape, settings: Settings) -> None:
        """Check the settings; allocate the cache, compile or capture the whole forward and the partial ones."""
        wanted = _wanted(shape, settings)
        if wanted == self._prepared:
            return
        self._prepared = None
        _, cache, block = wanted
        self._forwards = FastForwards(self.network, self.engine, cache, self.kv_dtype, shape, block)
        self._prepared = wanted

    def promised_nfe(self, shape: Shape, settings: Settings) -> int | None:
        """Forwards of a run under the policy `fixed`; None where the data decide."""
        counts = block_counts(shape, settings)
        return None if counts is None else sum(paid(steps, settings) for steps in counts)

    @torch.inference_mode()
    def generate(self, request: Request, observer: Observer) -> Tensor:
        """Tokens [B, L]."""
        return self._run(request, observer, None)

    @torch.inference_mode()
    def audit(self, request: Request) -> dict[str, float]:
        """How far the cache moves this request's logits and tokens (see `CacheAudit.figures`). Not for timed runs.

        Generates twice more: with each cached forward beside an exact one on the same canvas, and with exact ones only.
        """
        if request.draws is not None:
            raise InputError("an audit generates more than once: recorded draws would run out; give a seed")
        settings = request.settings
        self.prepare(request.shape, settings)
        audit = CacheAudit(exact_logits(self.network), self.mask_id if settings.suppress_mask else None)
        tokens = self._run(request, Silent(), audit)
        return audit.figures(tokens, self._run(request, Silent(), None, exact=True))

    def _run(self, request: Request, observer: Observer, audit: CacheAudit | None, *, exact: bool = False) -> Tensor:
        """Tokens [B, L]; `exact` feeds the whole canvas at every forward instead."""
        settings = request.settings
        if _wanted(request.shape, settings) != self._prepared:
            raise InputError(f"generate() got {request.shape} and {settings}, but prepare() was called for others")
        if request.prompt_mask is not None:
            raise InputError("prompt_mask: padded prompts have no cache; choose cache none, or prompts of one length")
        counts = block_counts(request.shape, settings)
        if request.draws is not None and settings.commit_schedule is None:
            counts = None  # recorded draws are in the order of the published loop
        work = started(self.network, self.mask_id, request, observer)
        start, width = work.start, work.ids.shape[1]
        block, steps = blocks(request.length, settings)
        whole = Forward(self._forwards.whole, "cache_refresh", 0, width)
        for number, begin in enumerate(range(start, width, block)):
            end = begin + block
            fed = self._forwards.fed(begin, end)
            part = Forward(partial(self._forwards.part, fed=fed), "denoise", fed.start, fed.stop)
            work.listen = partial(_compare, audit, work, begin, end) if audit is not None else None
            planned = None if counts is None else counts[number]
            _block(work, whole, whole if exact else part, begin, end, steps, planned)
            if settings.length_policy == "natural" and self._all_ended(work.ids[:, start:end]):
                break
        return work.ids[:, start:]

    def _all_ended(self, tokens: Tensor) -> bool:
        """Whether every row [B, n] holds an EOS. The host waits, once a block and only under `natural`."""
        return self.eos_id is not None and bool((tokens == self.eos_id).any(dim=1).all())

    def held(self) -> Held:
        """Weights, and the keys and values of P + L positions."""
        return self.network.held(self._forwards.store if self._prepared else None)

    def forward_cost(self, network: str, rows: int, q_len: int, kv_len: int, logit_rows: int, mask: str) -> Cost:
        """Analytic work of one announced forward."""
        kv_dtype = str(self.kv_dtype).removeprefix("torch.")
        return self.network.forward_cost(network, rows, q_len, kv_len, logit_rows, mask, kv_dtype)


def _wanted(shape: Shape, settings: Settings) -> tuple[Shape, CacheKind, int]:
    """What the forwards are built from; raises InputError for settings that do not fit."""
    if settings.cache not in ("prefix", "dual"):
        raise InputError(f"cache {settings.cache!r}: Dream in blocks needs prefix or dual")
    block_counts(shape, settings)
    return shape, settings.cache, blocks(shape.length, settings)[0]


def _block(
    work: Denoising,
    whole: Forward,
    part: Forward,
    begin: int,
    end: int,
    steps: int,
    counts: Sequence[Counts] | None,
) -> None:
    """Denoise the columns begin … end: by `counts` if they are known, else by the threshold or by counting masks."""
    settings = work.settings
    if counts is not None and len(counts) == 1:
        by_counts(work, whole, begin, end, counts)
        return
    threshold = settings.threshold
    if counts is None and threshold is None and steps == 1:
        by_recount(work, whole, begin, end, 1)
        return
    by_counts(work, whole, begin, begin + 1, [(1,)])
    if threshold is not None and counts is not None:
        by_replay(work, part, begin + 1, end, threshold, counts[1:])
    elif counts is not None:
        by_counts(work, part, begin + 1, end, counts[1:])
    elif threshold is not None:
        by_threshold(work, part, begin, end, threshold)
    else:
        by_recount(work, part, begin, end, steps, first=1)


def _compare(
    audit: CacheAudit, work: Denoising, begin: int, end: int, forward: Forward, places: Tensor, logits: Tensor
) -> None:
    """Give the audit a cached forward: the block's logits [B n, V], of which only masked positions count."""
    if forward.phase != "denoise":
        return
    rows, width = work.ids.shape
    spread = logits.new_zeros(rows * (end - begin), logits.shape[1])
    spread[places // width * (end - begin) + places % width - begin] = logits
    columns = torch.arange(begin, end, device=places.device).expand(rows, -1)
    audit(work.ids, columns, spread, work.ids[:, begin:end] == work.mask_id)
