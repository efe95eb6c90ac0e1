"""Fast-dLLM on LLaDA: keys and values used again, and as many tokens a step as are confident enough.

Fast-dLLM (Wu et al. 2025, "Fast-dLLM: Training-free Acceleration of Diffusion LLM by Enabling KV Cache and Parallel
Decoding"), Algorithm 1. A block begins with one forward of the whole sequence, which commits tokens and fills a cache.
Further forwards compute a part of the sequence and attend to the cache for the rest:

- `prefix`: from the block's start to the end; what is before the block is stale.
- `dual`: the block alone, whose rows of the cache are written anew each time; what is after it is stale as well.
- `none` (the default): the whole sequence, exact, as LLaDA does.

Both caches are approximate; `FastDLLM.audit` says by how much. A step commits LLaDA's even share of the block, or, with
`threshold` or `factor`, the candidates that pass the rule (see `selection`): then T has no meaning, and the host waits
once a step to learn which rows are done. A `commit_schedule` takes the place of such a rule's outcome, not of its work.

The published cached loop runs a forward after the first even where the block is complete: `idle_steps` "run" does too.
Where T gives a block a single step, it has no count for that forward and stops with an error; here the first forward
commits the whole block.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .. import InputError
from .block_canvas import BlockCanvas
from .cache_audit import CacheAudit, exact_logits
from .costs import Cost
from .fast_forwards import CacheKind, FastForwards
from .fast_steps import fast_plan, rule_of, scheduled_steps, until_done
from .generator import Held, Observer, Phase, Request, Settings, Shape, Side, Silent
from .masked_diffusion import check_request, mask_of
from .network import Network
from .predict import check_draw, drawing

_KNOWN = ("cache", "threshold", "factor", "commit_schedule", "draw", "suppress_mask", "idle_steps")


class FastDLLM:
    """Fast-dLLM's three loops (`Settings.cache` none, prefix, dual) on a network that LLaDA's loop fits.

    A block ends as soon as no row has a mask in it; rows that are done commit nothing. Policies as in LLaDA's sampler.
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
        """Check the settings; allocate the cache, compile or capture the full forward and the partial ones."""
        wanted = self._check(shape, settings)
        if wanted == self._prepared:
            return
        self._prepared = None
        _, cache, block = wanted
        self._forwards = FastForwards(self.network, self.engine, cache, self.kv_dtype, shape, block)
        self._prepared = wanted

    def promised_nfe(self, shape: Shape, settings: Settings) -> int | None:
        """Forwards of a run under the policy `fixed`; None where a threshold or factor decides."""
        self._check(shape, settings)
        plan = fast_plan(shape, settings)
        return None if plan is None else sum(len(steps) for steps in plan)

    @torch.inference_mode()
    def generate(self, request: Request, observer: Observer) -> Tensor:
        """Tokens [B, L]."""
        return self._run(request, observer, None)

    @torch.inference_mode()
    def audit(self, request: Request) -> dict[str, float]:
        """How far the cache moves this request's logits and tokens (see `CacheAudit.figures`). Not for timed runs.

        Generates twice more: beside exact forwards on the same canvas, and with the same settings and seed uncached.
        """
        if request.draws is not None:
            raise InputError("an audit generates more than once: recorded draws would run out; give a seed")
        settings = request.settings
        audit = CacheAudit(exact_logits(self.network), self.mask_id if settings.suppress_mask else None)
        self.prepare(request.shape, settings)
        tokens = self._run(request, Silent(), audit)
        uncached, plain = FastDLLM(self.network), replace(request, settings=replace(settings, cache="none"))
        uncached.prepare(plain.shape, plain.settings)
        return audit.figures(tokens, uncached.generate(plain, Silent()))

    def _run(self, request: Request, observer: Observer, audit: CacheAudit | None) -> Tensor:
        settings = request.settings
        check_request(request, self._prepared[0] if self._prepared else None)
        wanted = self._check(request.shape, settings)
        if wanted != self._prepared:
            given, built = (f"cache {found[1]}, block length {found[2]}" for found in (wanted, self._prepared) if found)
            raise InputError(f"generate() got a request for {given}, but prepare() was called for {built}")
        _, cache, block = wanted
        canvas = BlockCanvas(self.network, self.mask_id, request, drawing(request), observer)
        plan = fast_plan(request.shape, settings)
        planned = None if plan is None else scheduled_steps(plan, settings, canvas.ids.device)
        positions = self._forwards.positions
        for number in range(request.length // block):
            canvas.enter(number * block, block)
            steps = until_done(canvas, settings) if planned is None else iter(planned[number])
            for index, (counts, rule) in enumerate(steps):
                part = cache != "none" and index > 0
                fed = self._forwards.fed(canvas.begin, canvas.end) if part else range(positions)
                wanted_now = canvas.wanted(counts, rule, leftovers=not part)
                logit_rows = wanted_now.columns.numel()
                phase: Phase = "denoise" if part or cache == "none" else "cache_refresh"
                with observer.forward("target", phase, canvas.rows, len(fed), positions, logit_rows, "bidirectional"):
                    hidden = self._forwards.part(canvas.ids, fed) if part else self._forwards.whole(canvas.ids)
                    logits = canvas.logits(hidden, wanted_now, fed.start)
                if part and audit is not None:
                    audit(canvas.ids, wanted_now.columns, logits, wanted_now.open)
                canvas.commit(wanted_now, logits, counts, rule, fed)
                del hidden, logits  # or the next forward would run beside them, the largest tensors of all
            if settings.length_policy == "natural" and canvas.ended(self.eos_id):
                break
        return canvas.ids[:, canvas.start :]

    def _check(self, shape: Shape, settings: Settings) -> tuple[Shape, CacheKind, int]:
        """What forwards are built from; raises InputError for settings that do not fit."""
        settings.refuse("Fast-dLLM", *_KNOWN)
        check_draw(settings)
        cache: CacheKind = "none"
        if settings.cache == "kv":
            raise InputError("cache 'kv' is exact and block diffusion's; Fast-dLLM's are none, prefix and dual")
        if settings.cache is not None:
            cache = settings.cache
        if cache != "none" and getattr(self.network.config, "shifted_logits", False):
            raise InputError(
                f"cache {cache!r}: a block's first token is predicted by the row before it, which a partial forward "
                "does not compute; choose Dream's own sampler, or no cache"
            )
        if settings.threshold is not None and settings.factor is not None:
            raise InputError("threshold and factor are two rules for the same choice; give one of them")
        if rule_of(settings) is not None and settings.remasking == "random":
            raise InputError("threshold and factor need confidences; choose remasking low_confidence")
        fast_plan(shape, settings)
        return shape, cache, settings.block_length or shape.length

    def held(self) -> Held:
        """Weights, and with a cache the keys and values of P + L positions."""
        return self.network.held(self._forwards.store if self._prepared else None)

    def forward_cost(self, network: str, rows: int, q_len: int, kv_len: int, logit_rows: int, mask: str) -> Cost:
        """Analytic work of one announced forward."""
        kv_dtype = str(self.kv_dtype).removeprefix("torch.")
        return self.network.forward_cost(network, rows, q_len, kv_len, logit_rows, mask, kv_dtype)
