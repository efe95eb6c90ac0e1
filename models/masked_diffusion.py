"""Masked diffusion with a bidirectional backbone: semi-autoregressive blocks, low-confidence or random remasking.

The sampler of LLaDA (Nie et al. 2025, section 2.4 and Algorithms 4-5), without a cache: the canvas starts as masks;
each of T steps runs the network on prompt and canvas, predicts every masked position of the current block and commits
the most confident ones (or a random choice). How many are committed at a step depends on T alone, never on the data,
so no step waits for the host. Logits are computed only for positions that the step may commit; with random remasking
those are the positions that it will commit, and the distribution is the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import InputError
from .backbone import Backbone
from .costs import Cost
from .engines import Denoiser, denoiser
from .generator import Observer, Request, Settings, Shape, Side
from .sampling import choose
from .schedule import steps_per_block, transfer_counts


class MaskedDiffusion:
    """The diffusion side of a pair, on the pair's backbone with bidirectional attention and no cache.

    Under the policy `natural`, generation ends with the block after which every row holds an EOS; a row pays for its
    canvas up to there. Under `fixed` every block is denoised.
    """

    side: Side = "diffusion"

    def __init__(self, network: Backbone, *, engine: str = "eager") -> None:
        self.network = network
        self.engine = engine
        self.mask_id = network.config.mask_id
        self.eos_id = network.config.eos_token_id
        self._shape: Shape | None = None
        self._denoise: Denoiser

    def prepare(self, shape: Shape, settings: Settings) -> None:
        """Check T against the blocks; compile or capture the forward over P + L positions."""
        self._blocks(shape.length, settings)
        if shape == self._shape:
            return
        self._shape = None
        positions = shape.prompt_length + shape.length
        self.network.rotary(positions)
        self._denoise = denoiser(self.engine, self.network, shape.batch, positions)
        self._shape = shape

    @torch.inference_mode()
    def generate(self, request: Request, observer: Observer) -> Tensor:
        """Tokens [B, L]."""
        if request.shape != self._shape:
            raise InputError(f"generate() got {request.shape}, but prepare() was called for {self._shape}")
        settings, random, prompt = request.settings, request.random(), request.prompt_ids
        block, steps = self._blocks(request.length, settings)
        rows, start = prompt.shape
        canvas = prompt.new_full((rows, start + request.length), self.mask_id)
        canvas[:, :start] = prompt
        step = 0
        for offset in range(0, request.length, block):
            window = canvas[:, start + offset : start + offset + block]
            masked = torch.arange(start + offset, start + offset + block, device=prompt.device).expand(rows, block)
            if settings.remasking == "random":
                # One random order a block commits the same random sets as a fresh choice at every step.
                order = torch.rand(rows, block, device=prompt.device, generator=random).argsort(dim=1)
                masked = masked.gather(1, order)
            open_before = torch.ones_like(window, dtype=torch.bool)
            for count in transfer_counts(block, steps):
                masked = self._step(canvas, masked, count, settings, random, observer)
                ids = window.clone()
                open_now = ids == self.mask_id
                observer.write(open_before ^ open_now, ids, step, offset=offset)
                open_before = open_now
                step += 1
            if settings.length_policy == "natural" and self._all_ended(canvas[:, start : start + offset + block]):
                break
        return canvas[:, start:]

    @staticmethod
    def _blocks(length: int, settings: Settings) -> tuple[int, int]:
        """(block length, steps of each block); T defaults to L, the block to the whole canvas."""
        block = settings.block_length or length
        return block, steps_per_block(length, settings.steps or length, block)

    def _step(
        self,
        canvas: Tensor,
        masked: Tensor,
        count: int,
        settings: Settings,
        random: torch.Generator,
        observer: Observer,
    ) -> Tensor:
        """One forward and its sampling: commit `count` of the `masked` positions [B, n]; return the rest [B, n - k]."""
        rows, remaining = masked.shape
        select = settings.remasking == "low_confidence" and count < remaining
        candidates = masked if select else masked[:, :count]
        width = candidates.shape[1]
        positions = canvas.shape[1]
        with observer.forward("target", "denoise", rows, positions, positions, rows * width, "bidirectional"):
            hidden = self._denoise(canvas)
            wanted = hidden.gather(1, candidates[:, :, None].expand(-1, -1, hidden.shape[-1]))
            logits = self.network.logits(wanted.reshape(rows * width, -1))
        ids, confidence = choose(logits, settings, random, suppress=self.mask_id, confidence=select)
        ids = ids.view(rows, width)
        if confidence is None:
            canvas.scatter_(1, candidates, ids)
            return masked[:, count:]
        order = confidence.view(rows, width).argsort(dim=1, descending=True)
        chosen, rest = order[:, :count], order[:, count:]
        canvas.scatter_(1, candidates.gather(1, chosen), ids.gather(1, chosen))
        return candidates.gather(1, rest)

    def _all_ended(self, tokens: Tensor) -> bool:
        """Whether every row [B, n] holds an EOS. The one host synchronisation of a block, only under `natural`."""
        return self.eos_id is not None and bool((tokens == self.eos_id).any(dim=1).all())

    def forward_cost(self, network: str, rows: int, q_len: int, kv_len: int, logit_rows: int, mask: str) -> Cost:
        """Analytic work of one announced forward."""
        return self.network.forward_cost(network, rows, q_len, kv_len, logit_rows, mask)
