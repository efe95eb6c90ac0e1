"""The hybrid: a diffusion network drafts k tokens at once, the autoregressive one verifies them in a single forward.

Every round the drafter proposes k tokens (see `drafting`), the target runs over its last token and the draft, and the
acceptance rule (see `rejection`) keeps a prefix of the draft and adds one token of the target's own: 1 to k + 1 tokens
a round. The output has exactly the law of the target under its temperature, top-k and top-p; greedy output is the
target's greedy output (ties apart: a block's forward and single steps round differently). Sources: Leviathan et al.
2023, "Fast inference from transformers via speculative decoding"; Chen et al. 2023, "Accelerating large language model
decoding with speculative sampling"; with a diffusion drafter, Christopher et al. 2024, "Speculative diffusion
decoding".

**Why it is exact for any number of draft steps.** The rule tests x_1 … x_k in the order in which the target factorises,
and needs that, given the past and x_<i, x_i was drawn from the very q_i it is tested with. In one draft step all x_i
are independent draws from marginals q_i(. | prefix): true. In several steps it is false in general: a position drawn
late has seen drafts to its right, and a confidence order chooses positions by the tokens drawn there, so the law of x_i
given x_<i alone is a mixture that nobody computed. Here each step commits the next positions from the left. q_i then
depends on the prefix and on drafts of earlier steps, all to the left of i; within a step draws are independent. So
q(x_1 … x_k | past) = prod_i q_i(x_i | past, x_<i), and acceptances before i look only at x_<i and uniforms of their
own, which leaves x_i's law alone. By induction over i and rounds every token has the law p(. | tokens before it). The
past may hold anything, refused drafts too: a drafter's stale cache changes q, and the rule is told that same q.

**Rows of a batch** accept different numbers, and each advances by its own: positions are per row, and the cache is
written where a row stands. A row that has ended waits, its forwards paid, until the last has. Announced `kv_len` is the
longest row's.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import InputError
from .cache import KVCache
from .costs import Cost
from .draft_plan import DraftPlan
from .drafting import Drafter
from .draws import Draws
from .engines import Prefill, prefill
from .generator import Held, Observer, Request, Settings, Shape, Side
from .network import Network
from .ragged import RaggedBlock, ragged_block
from .rejection import accepted_drafts, agreeing_drafts, distribution, residual


class Speculative:
    """Draft by `drafter`, verification by `target`; they may be one network, run bidirectionally and causally.

    `block_length` is k (default 4); `steps` is T, the draft steps of a generation in which every round advances k: a
    round takes max(1, T k / L), by default one. `cache`: `prefix` (default: a round's drafting then costs the draft's
    positions and not the whole text's, and the law of the output does not depend on it) or `none`. Every round drafts
    k tokens; what goes past L is cut off. The host waits for the device once a round, to learn how many were accepted.

    `commit_schedule` (row -> round -> tokens the round adds, 1 … k + 1) replaces the *outcome* of the test, not its
    work: on random weights, whose acceptance means nothing, it replays acceptance recorded elsewhere. The tokens are
    then the draft's, with no claim to the target's law. The prompt's forward gives the first token and has no entry.
    """

    side: Side = "diffusion"

    def __init__(
        self, target: Network, drafter: Network, *, engine: str = "eager", kv_dtype: torch.dtype | None = None
    ) -> None:
        found, wanted = drafter.config.vocab_size, target.config.vocab_size
        if found != wanted:
            raise InputError(f"the drafter's vocabulary has {found} tokens, the target's {wanted}; they must be equal")
        self.target = target
        self.engine = engine
        self.kv_dtype = kv_dtype or target.dtype
        self.eos_id = target.config.eos_token_id
        self.drafter = Drafter(drafter, engine=engine, kv_dtype=kv_dtype)
        self._prepared: tuple[Shape, int, int, bool] | None = None
        self._cache: KVCache | None = None
        self._prefill: Prefill
        self._verify: RaggedBlock

    def prepare(self, shape: Shape, settings: Settings) -> None:
        """Check k and T against L; allocate both caches; compile or capture the forwards."""
        plan = DraftPlan.of(shape, settings)
        if _built_for(plan) == self._prepared:
            return
        self._prepared = None
        prompt, k = max(shape.prompt_length, 1), plan.block
        # A row that is complete still runs beside the others, and drafts k past its end.
        capacity = prompt + shape.length + k + 1
        self.target.rotary(capacity)
        self._cache = cache = KVCache(self.target.config, shape.batch, capacity, self.kv_dtype, self.target.device)
        self._prefill = prefill(self.engine, self.target, cache, shape.batch, prompt)
        self._verify = ragged_block(self.engine, self.target, cache, shape.batch, k + 1, ends=k + 1)
        self.drafter.prepare(shape.batch, prompt + 1, capacity, k, plan.steps, plan.cached)
        self._prepared = _built_for(plan)

    @torch.inference_mode()
    def generate(self, request: Request, observer: Observer) -> Tensor:
        """Tokens [B, L]. A request without a prompt starts from EOS, which takes the place of a beginning of text."""
        settings, draws, prompt = request.settings, request.drawing(), request.prompt_ids
        plan = DraftPlan.of(request.shape, settings)
        if _built_for(plan) != self._prepared:
            raise InputError(f"generate() got {_built_for(plan)}, but prepare() was called for {self._prepared}")
        if request.prompt_mask is not None:
            raise InputError("prompt_mask: speculative decoding takes prompts of one length; leave it out")
        rows, k = prompt.shape[0], plan.block
        if prompt.shape[1] == 0:
            prompt = prompt.new_full((rows, 1), self.eos_id or 0)
        start, end = prompt.shape[1], prompt.shape[1] + request.length
        canvas = F.pad(prompt, (0, request.length + k + 1))
        with observer.forward("target", "prefill", rows, start, start, rows, "causal"):
            logits = self._prefill(prompt)
        canvas[:, start] = first = _first(logits, settings, draws)
        observer.write(None, canvas[:, start : start + 1].clone(), 0, offset=0)

        # Row b knows its first at[b] columns, and is complete at stop[b]; `known` and `stops` are the host's copies.
        at, stop = canvas.new_full((rows, 1), start + 1), canvas.new_full((rows, 1), end)
        known, stops = [start + 1] * rows, [end] * rows
        eos = self.eos_id if settings.length_policy == "natural" else None
        if eos is not None:
            stop = torch.where(first[:, None] == eos, at, stop)
            stops = stop[:, 0].tolist()
        offsets = torch.arange(k + 1, device=canvas.device)
        replayed = None if plan.replayed is None else torch.tensor(plan.replayed, device=canvas.device)
        index = 0
        while known != stops:
            draft, proposal = self.drafter.propose(canvas, at, known, index == 0, settings, draws, observer)
            positions, kv_len = at - 1 + offsets, max(known) + k
            with observer.forward("target", "verify", rows, k + 1, kv_len, rows * (k + 1), "causal"):
                hidden = self._verify(canvas.gather(1, positions), positions, positions + 1, kv_len)
                logits = self.target.logits(hidden.flatten(0, 1))
            outcome = None if replayed is None else replayed[:, index] - 1
            tokens, advance = _judge(logits, draft, proposal, outcome, settings, draws)
            canvas.scatter_(1, at + offsets, tokens)
            if eos is not None:
                ends = torch.where((tokens == eos) & (offsets < advance), at + offsets + 1, end)
                stop = torch.minimum(stop, ends.amin(dim=1, keepdim=True))
            before, at = at, torch.minimum(at + advance, stop)
            low = min(n for n, last in zip(known, stops, strict=True) if n < last)
            # Also where a schedule could tell the host beforehand: real acceptance could not.
            known, stops = torch.cat((at, stop), dim=1).t().tolist()
            index += 1
            high = max(known)
            columns = torch.arange(low, high, device=canvas.device)
            written = (columns >= before) & (columns < at)
            observer.write(written, canvas[:, low:high].clone(), index, offset=low - start)
        return canvas[:, start:end]

    def promised_nfe(self, shape: Shape, settings: Settings) -> int | None:
        """Forwards of the target under the policy `fixed`: known from a commit schedule, else None (L = 1: one)."""
        plan = DraftPlan.of(shape, settings)
        if shape.length == 1:
            return 1
        return None if plan.replayed is None else 1 + len(plan.replayed[0])

    def held(self) -> Held:
        """Target and drafter, which may be one network, and the caches of both."""
        target, drafter = self.target.held(self._cache), self.drafter.network.held(self.drafter.cache)
        return Held(target.weights + drafter.weights, target.kv + drafter.kv, target.logits_b)

    def forward_cost(self, network: str, rows: int, q_len: int, kv_len: int, logit_rows: int, mask: str) -> Cost:
        """Analytic work of one announced forward, of the target or the draft."""
        if network == "draft":
            return self.drafter.forward_cost(rows, q_len, kv_len, logit_rows, mask)
        kv_dtype = str(self.kv_dtype).removeprefix("torch.")
        return self.target.forward_cost(network, rows, q_len, kv_len, logit_rows, mask, kv_dtype)


def _built_for(plan: DraftPlan) -> tuple[Shape, int, int, bool]:
    """What of a plan the forwards are built for: shape, k, draft steps, whether the drafter keeps its prefix."""
    return plan.shape, plan.block, plan.steps, plan.cached


def _first(logits: Tensor, settings: Settings, draws: Draws) -> Tensor:
    """The token after the prompt, [B], of logits [B, V]."""
    if settings.temperature == 0:
        return logits.argmax(dim=-1)
    rows = logits.shape[0]
    return draws.tokens(distribution(logits, settings), torch.arange(rows, device=logits.device), (rows, 1))


def _judge(
    logits: Tensor, draft: Tensor, proposal: Tensor | None, outcome: Tensor | None, settings: Settings, draws: Draws
) -> tuple[Tensor, Tensor]:
    """Tokens [B, k + 1] whose first `advance` [B, 1] this round adds: the accepted drafts, then one of the target's.

    `logits` [B (k + 1), V] are those after the last known token and after each drafted one; `proposal` [B, k, V] is
    None for greedy; `outcome` [B] replaces the number of accepted drafts.
    """
    rows, k = draft.shape
    if proposal is None:
        best = logits.argmax(dim=-1).view(rows, k + 1)
        accepted = agreeing_drafts(best[:, :k], draft)
        accepted = accepted if outcome is None else outcome
        last = best.gather(1, accepted[:, None])
    else:
        target = distribution(logits, settings).view(rows, k + 1, -1)
        accepted = accepted_drafts(target[:, :k], proposal, draft, draws.uniform(rows, k))
        accepted = accepted if outcome is None else outcome
        where = torch.arange(rows, device=draft.device)
        last = draws.tokens(residual(target, proposal, accepted), where, (rows, 1))[:, None]
    return F.pad(draft, (0, 1)).scatter_(1, accepted[:, None], last), accepted[:, None] + 1
