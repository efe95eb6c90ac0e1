"""A masked diffusion network as a drafter: k tokens a round, denoised left to right in s steps.

The order is what makes the proposal usable (see `speculative`): every step commits the next positions from the left, so
that the marginal a token was drawn from depends on nothing to its right. The network sees the known prefix and k masks.

Two ways to run it. `none`: every step is a forward over prefix and draft. `prefix`: keys and values of the prefix are
kept from round to round, and a round's first forward runs only what is new, the k + 1 last known tokens (a round adds
no more) before the k masks; later steps run the draft alone. For a bidirectional network that is an approximation, as
in Fast-dLLM (Wu et al. 2025: a kept key has not seen the tokens that came later). It costs acceptance,
never exactness: the rule is exact for whatever proposal the tokens were really drawn from.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import InputError
from .cache import KVCache
from .costs import Cost, block_causal
from .draws import Draws
from .engines import built
from .generator import Observer, Settings
from .network import Network, Padding
from .ragged import RaggedBlock, ragged_block
from .rejection import distribution
from .schedule import transfer_counts


class Drafter:
    """Proposals from a bidirectional network, or a block-causal one (its config's `block_size`), with a mask token."""

    def __init__(self, network: Network, *, engine: str = "eager", kv_dtype: torch.dtype | None = None) -> None:
        config = network.config
        if config.mask_id is None:
            raise InputError("the drafter needs a mask token, and this network's uniform graph has none")
        if getattr(config, "parameterization", "subs") != "subs":
            raise InputError("the drafter's head gives scores; choose one whose head gives token logits")
        self.network = network
        self.engine = engine
        self.kv_dtype = kv_dtype or network.dtype
        self.mask_id: int = config.mask_id
        # Row i of Dream's logits predicts token i + 1.
        self._shift = int(getattr(config, "shifted_logits", False))
        self._block = config.block_size
        self._mask = "bidirectional" if self._block is None else block_causal(self._block)
        self.cache: KVCache | None = None
        self._whole: Callable[..., Tensor]
        self._opening: Callable[..., Tensor]
        self._window: RaggedBlock
        self._draft: RaggedBlock

    def prepare(self, rows: int, opening: int, capacity: int, block: int, steps: int, cached: bool) -> None:
        """Build the forwards for drafts of `block` tokens in `steps` steps, on canvases [rows, capacity].

        `opening` columns are known before the first draft; `cached`: keep the prefix from round to round.
        """
        network = self.network
        network.rotary(capacity)
        self._block_length, self._counts, self._capacity = block, transfer_counts(block, steps), capacity
        self._cached = cached
        with torch.inference_mode():
            self._condition = network.conditioning(None)
        ids = network.embedding.new_zeros((rows, capacity), dtype=torch.int64)
        if not cached:
            self._whole = self._trunk
            if self.engine != "eager":
                valid = torch.ones_like(ids, dtype=torch.bool)
                self._whole = built(self.engine, lambda ids, valid: self._trunk(ids, valid), ids, valid)
            return
        self.cache = cache = KVCache(network.config, rows, capacity, self.kv_dtype, network.device)
        # Compiling does not speed up a prefill on a CPU.
        engine = "eager" if self.engine == "compile" and not ids.is_cuda else self.engine
        self._opening = built(engine, lambda ids: self._trunk(ids, None, cache), ids[:, : opening + block])
        ends = 1 if self._block is None else None
        width = 2 * block + 1
        self._window = ragged_block(self.engine, network, cache, rows, width, ends or width)
        if steps > 1:
            width = block + self._shift
            self._draft = ragged_block(self.engine, network, cache, rows, width, ends or width)

    def propose(
        self, canvas: Tensor, at: Tensor, known: list[int], opening: bool, settings: Settings, draws: Draws,
        observer: Observer,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Draft k tokens [B, k] for each row, and the probabilities [B, k, V] each was drawn from (greedy: None).

        Row b of `canvas` [B, S] is known in its first `at[b]` columns, at [B, 1] (`known` on the host); the k after
        them are overwritten with the draft. `opening`: the first round, in which every row knows equally much.
        """
        rows, k = canvas.shape[0], self._block_length
        columns = at + torch.arange(k, device=canvas.device)
        canvas.scatter_(1, columns, self.mask_id)
        proposals, done = [], 0
        for step, count in enumerate(self._counts):
            hidden, begin, announced = self._forward(canvas, at, known, opening, step)
            wanted = at + torch.arange(done, done + count, device=canvas.device) - self._shift - begin
            with observer.forward("draft", "cache_refresh" if self._cached and opening and not step else "draft", rows,
                                  *announced, rows * count, self._mask):  # fmt: skip
                states = hidden()
                picked = states.gather(1, wanted[:, :, None].expand(-1, -1, states.shape[-1])).flatten(0, 1)
                logits = self.network.logits(picked)
            logits[:, self.mask_id] = -torch.inf
            if settings.temperature == 0:
                ids = logits.argmax(dim=-1)
            else:
                probabilities = distribution(logits, settings)
                places = torch.arange(rows * k, device=canvas.device).view(rows, k)[:, done : done + count]
                ids = draws.tokens(probabilities, places.flatten(), (rows, k))
                proposals.append(probabilities.view(rows, count, -1))
            canvas.scatter_(1, columns[:, done : done + count], ids.view(rows, count))
            done += count
        return canvas.gather(1, columns), torch.cat(proposals, dim=1) if proposals else None

    def forward_cost(self, rows: int, q_len: int, kv_len: int, logit_rows: int, mask: str) -> Cost:
        """Analytic work of one announced forward."""
        kv_dtype = str(self.kv_dtype).removeprefix("torch.")
        return self.network.forward_cost("draft", rows, q_len, kv_len, logit_rows, mask, kv_dtype)

    def _forward(
        self, canvas: Tensor, at: Tensor, known: list[int], opening: bool, step: int
    ) -> tuple[Callable[[], Tensor], int | Tensor, tuple[int, int]]:
        """A step's forward, not yet run: hidden states, the first position that they are of (per row), (q, kv)."""
        k = self._block_length
        live = max(known) + k
        if not self._cached:
            if self.engine == "eager":
                ids = canvas[:, :live]
                # A row that knows less ends earlier; without such rows attention needs no mask.
                valid = None if min(known) == max(known) else torch.arange(live, device=at.device) < at + k
                return lambda: self._whole(ids, valid), 0, (live, live)
            valid = torch.arange(self._capacity, device=at.device) < at + k
            return lambda: self._whole(canvas, valid), 0, (self._capacity, self._capacity)
        if opening and not step:
            return lambda: self._opening(canvas[:, :live]), 0, (live, live)
        if not step:
            begin, run, width = (at - k - 1).clamp(min=0), self._window, 2 * k + 1
        else:
            begin, run, width = at - self._shift, self._draft, k + self._shift
        positions = begin + torch.arange(width, device=at.device)
        ends = at + k
        if self._block is not None:
            ends = torch.minimum((positions // self._block + 1) * self._block, ends)
        return lambda: run(canvas.gather(1, positions), positions, ends, live), begin, (width, live)

    def _trunk(self, ids: Tensor, valid: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """Hidden states of whole rows: known tokens, draft, and columns that are not `valid`."""
        padding = None if valid is None else Padding(valid)
        return self.network.trunk(
            ids, mask="block_causal" if self._block else "bidirectional", block_length=self._block or 1, cache=cache,
            padding=padding, condition=self._condition,
        )  # fmt: skip
