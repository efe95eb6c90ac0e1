"""Dream's published loop, written out plainly from its description: a second implementation for tests and benchmarks.

It does what the published code does and ours avoids: logits at every position, a softmax over the whole vocabulary at
every masked one, boolean indexing and counts of masks that wait for the device, and steps that commit nothing. The mask
may be predicted.
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
def published_dream(
    network: Trunk,
    prompt_ids: Tensor,
    length: int,
    steps: int,
    algorithm: str = "origin",
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    *,
    epsilon: float = 1e-3,
    alg_temp: float = 0.0,
    top_p: float = 1.0,
    shifted: bool = True,
    suppress_mask: bool = False,
) -> Tensor:
    """New tokens [B, L] for prompt_ids [B, P]. `algorithm` is origin, maskgit_plus, topk_margin or entropy.

    `generator` draws, in this order at each step: origin's uniforms, float32; tokens; positions. `suppress_mask` is not
    Dream's: the mask's logit is -inf; `shifted` False is for networks whose row i predicts token i.
    """
    mask_id, start, device = network.config.mask_id, prompt_ids.shape[1], prompt_ids.device
    rows = prompt_ids.shape[0]
    network.rotary(start + length)
    canvas = torch.cat((prompt_ids, prompt_ids.new_full((rows, length), mask_id)), dim=1)
    times = torch.linspace(1, epsilon, steps + 1, device=device)
    for step in range(steps):
        masked = canvas == mask_id
        logits = network.logits(network.trunk(canvas, mask="bidirectional"))
        if shifted:
            logits = torch.cat((logits[:, :1], logits[:, :-1]), dim=1)
        open_logits = logits[masked]
        if suppress_mask:
            open_logits[:, mask_id] = -torch.inf
        t, s = times[step], times[step + 1]
        last = step == steps - 1
        if algorithm == "origin":
            chance = 1.0 if last else 1 - s / t
            tokens = torch.full_like(canvas[masked], mask_id)
            moved = torch.rand(tokens.shape, device=device, generator=generator) < chance
            tokens[moved], _ = _sampled(open_logits[moved], temperature, top_p, generator)
            canvas[masked] = tokens
            continue
        tokens, probabilities = _sampled(open_logits, temperature, top_p, generator)
        if algorithm == "maskgit_plus":
            sure = probabilities.gather(1, tokens[:, None])[:, 0]
        elif algorithm == "topk_margin":
            best = probabilities.sort(dim=-1, descending=True).values
            sure = best[:, 0] - best[:, 1]
        else:
            sure = (probabilities * (probabilities + 1e-10).log()).sum(dim=-1)
        mean = masked.sum() / rows
        count = int(mean) if last else int(mean * (1 - s / t))
        if count == 0:
            continue
        scores = torch.full(canvas.shape, -torch.inf, device=device)
        scores[masked] = sure.float()
        if alg_temp:
            chosen = torch.multinomial((scores / alg_temp).softmax(dim=-1), count, generator=generator)
        else:
            chosen = scores.topk(count).indices
        proposed = canvas.clone()
        proposed[masked] = tokens
        canvas.scatter_(1, chosen, proposed.gather(1, chosen))
    return canvas[:, start:]


def _sampled(
    logits: Tensor, temperature: float, top_p: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """A token for each row of logits [n, V], and the probabilities that it was chosen by."""
    if temperature:
        logits = logits / temperature
    if top_p < 1:
        ordered, order = logits.sort(descending=True)
        outside = ordered.softmax(dim=-1).cumsum(dim=-1) > top_p
        outside[:, 1:] = outside[:, :-1].clone()
        outside[:, 0] = False
        mask = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, order, outside)
        logits = logits.masked_fill(mask, torch.finfo(logits.dtype).min)
    probabilities = logits.softmax(dim=-1)
    if not temperature:
        return probabilities.argmax(dim=-1), probabilities
    if not len(logits):
        return torch.empty(0, dtype=torch.int64, device=logits.device), probabilities
    # The published code draws through this class, which normalises once more and checks that rows are distributions.
    law = torch.distributions.Categorical(probs=probabilities)
    return torch.multinomial(law.probs, 1, replacement=True, generator=generator)[:, 0], probabilities
