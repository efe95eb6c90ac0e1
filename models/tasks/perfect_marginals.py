"""A network that is never wrong: its logits are the log marginals of a task's right answers, given the canvas.

Whatever a sampler loses on it is lost to drawing positions independently, none of it to a model's error.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ... import InputError
from ..cache import KVCache
from ..config import Attention, BackboneConfig
from ..costs import Cost
from ..network import AttendFn, Network, Padding
from .task import Task


class PerfectMarginals(Network):
    """Stands in for a network in the project's own samplers, eagerly, for prompts of one task.

    Bidirectional over prompt and canvas, each position is predicted in place; causal, with or without a cache, each
    predicts the next. "Hidden states" are the log marginals themselves (d = V). Positions of the prompt, and a canvas
    that no right answer agrees with, are predicted evenly over the symbols: the answer is lost, but sampling goes on.
    """

    def __init__(self, task: Task, device: str = "cpu") -> None:
        super().__init__()
        if not task.exact:
            raise InputError(f"{task.name}: its marginals are not known, only its scorer; choose a grid up to 4x4")
        self.task = task
        # The smallest cache there is: its keys hold the ids that were read (see `_remembered`).
        self.config = BackboneConfig(
            vocab_size=task.vocab_size, hidden_size=1, intermediate_size=1, num_hidden_layers=1, num_attention_heads=1,
            num_key_value_heads=1, head_dim=2, mask_token_id=task.mask_id,
        )  # fmt: skip
        self.embedding = nn.Parameter(torch.zeros(1, device=device), requires_grad=False)

    def trunk(
        self,
        ids: Tensor,
        *,
        mask: Attention | Tensor,
        cache: KVCache | None = None,
        start: int = 0,
        live: int | None = None,
        block_length: int = 1,
        padding: Padding | None = None,
        condition: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Log marginals [B, q, V] float32 of ids [B, q]; InputError for what a whole canvas or a prefix is not."""
        if padding is not None or positions is not None:
            raise InputError("perfect marginals know neither padded prompts nor positions of one's own; leave them out")
        if isinstance(mask, str) and mask == "causal":
            return self._next(ids if cache is None else _remembered(cache, ids, start), start)
        if not isinstance(mask, str) or mask != "bidirectional" or cache is not None:
            raise InputError("perfect marginals are bidirectional without a cache, or causal; choose such a sampler")
        prompt, canvas = self.task.prompt_length, self.task.length
        if ids.shape[1] != prompt + canvas:
            raise InputError(
                f"{ids.shape[1]} positions: {self.task.name} has a prompt of {prompt} and an answer of {canvas}"
            )
        marginals = self.task.batch_marginals(ids[:, :prompt], ids[:, prompt:])
        return self._logs(nn.functional.pad(marginals, (0, 0, prompt, 0)))

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden

    def rotary(self, positions: int) -> None:
        """No angles: positions are read as they stand."""
        self.cos = self.sin = self.embedding.new_zeros((positions, 1))

    def forward_cost(
        self, network: str, rows: int, q_len: int, kv_len: int, logit_rows: int, mask: str, kv_dtype: str | None = None
    ) -> Cost:
        """Nothing: there are no weights, and counting answers is no matrix product of a network."""
        return Cost(0.0, 0.0)

    def _next(self, ids: Tensor, start: int) -> Tensor:
        """Log marginals of the token after each position from `start` on, given ids [B, S] up to it."""
        prompt, length = self.task.prompt_length, self.task.length
        rows, end = ids.shape
        found = torch.zeros((rows, end - start, self.task.vocab_size), dtype=torch.float64, device=ids.device)
        for position in range(max(start, prompt - 1), min(end, prompt + length - 1)):
            done = position + 1 - prompt
            canvas = ids.new_full((rows, length), self.task.mask_id)
            canvas[:, :done] = ids[:, prompt : position + 1]
            found[:, position - start] = self.task.batch_marginals(ids[:, :prompt], canvas)[:, done]
        return self._logs(found)

    def _logs(self, marginals: Tensor) -> Tensor:
        """Logarithms, and an even choice of symbols where there is no marginal."""
        symbols = torch.arange(self.task.vocab_size, device=marginals.device) < self.task.symbols
        lost = marginals.sum(dim=-1, keepdim=True) == 0
        return torch.where(lost, symbols.double(), marginals).log().float()

    def _run(
        self, ids: Tensor, cos: Tensor, sin: Tensor, attend_fn: AttendFn, condition: Tensor | None = None
    ) -> Tensor:
        raise InputError("perfect marginals run eagerly, without static steps; choose the engine eager")


def _remembered(cache: KVCache, ids: Tensor, start: int) -> Tensor:
    """Write ids [B, q] into the cache from `start` on; all ids [B, start + q] read so far. Ids up to 256 are exact in
    every dtype that a cache may have."""
    key = ids[:, None, :, None].expand(-1, -1, -1, 2).float()
    keys, _ = cache.append(0, start, key, key)
    return keys[:, 0, :, 0].long()
