"""LLaDA's published loop, written out plainly from its description: a second implementation for tests and benchmarks.

It does what the published code does and ours avoids: logits at every position, float64 noise and products over the
whole vocabulary, a softmax of it all, and a loop over rows that waits for the device. The mask may be predicted.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Config(Protocol):
    @property
    def mask_id(self) -> int: ...


class Trunk(Protocol):
    """What it needs of a network."""

    @property
    def config(self) -> Config: ...

    def rotary(self, positions: int) -> None: ...

    def trunk(self, ids: Tensor, *, mask: str) -> Tensor: ...

    def logits(self, hidden: Tensor) -> Tensor: ...


@torch.inference_mode()
def published_llada(
    network: Trunk,
    prompt_ids: Tensor,
    length: int,
    steps: int,
    block_length: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    *,
    remasking: str = "low_confidence",
    cfg_scale: float = 0.0,
    suppress_mask: bool = False,
) -> Tensor:
    """New tokens [B, L] for prompt_ids [B, P]. `suppress_mask` is not LLaDA's: the mask's logit is -inf.

    `generator` draws the noise, float64, and then random remasking's float32 scores, for all positions at each step.
    """
    mask_id, start, device = network.config.mask_id, prompt_ids.shape[1], prompt_ids.device
    network.rotary(start + length)
    canvas = torch.full((prompt_ids.shape[0], start + length), mask_id, dtype=torch.int64, device=device)
    canvas[:, :start] = prompt_ids
    given = canvas != mask_id
    assert length % block_length == 0
    blocks = length // block_length
    assert steps % blocks == 0
    for block in range(blocks):
        begin, end = start + block * block_length, start + (block + 1) * block_length
        counts = _counts((canvas[:, begin:end] == mask_id).sum(dim=1), steps // blocks)
        for step in range(steps // blocks):
            masked = canvas == mask_id
            logits = _logits(network, canvas, given, mask_id, cfg_scale)
            if suppress_mask:
                logits[:, :, mask_id] = -torch.inf
            noisy = logits
            if temperature > 0:
                uniforms = torch.rand(logits.shape, dtype=torch.float64, device=device, generator=generator)
                noisy = logits.to(torch.float64).exp() / (-torch.log(uniforms)) ** temperature
            predicted = noisy.argmax(dim=-1)
            if remasking == "random":
                confidence = torch.rand(predicted.shape, device=device, generator=generator)
            else:
                confidence = logits.softmax(dim=-1).gather(2, predicted.unsqueeze(-1)).squeeze(-1)
            confidence[:, end:] = -torch.inf
            predicted = torch.where(masked, predicted, canvas)
            confidence = torch.where(masked, confidence, -torch.inf)
            for row in range(canvas.shape[0]):
                chosen = confidence[row].topk(int(counts[row, step])).indices
                canvas[row, chosen] = predicted[row, chosen]
    return canvas[:, start:]


def _logits(network: Trunk, canvas: Tensor, given: Tensor, mask_id: int, cfg_scale: float) -> Tensor:
    """Logits [B, S, V] of every position; with guidance, of conditional and unconditional rows in one forward."""
    if not cfg_scale:
        return network.logits(network.trunk(canvas, mask="bidirectional"))
    unconditional = torch.where(given, mask_id, canvas)
    both = network.logits(network.trunk(torch.cat((canvas, unconditional)), mask="bidirectional"))
    with_prompt, without = both.chunk(2)
    return without + (cfg_scale + 1) * (with_prompt - without)


def _counts(masks: Tensor, steps: int) -> Tensor:
    """How many each step commits [B, steps]: evenly, the larger ones first."""
    base, extra = masks // steps, masks % steps
    return base[:, None] + (torch.arange(steps, device=masks.device)[None] < extra[:, None])
