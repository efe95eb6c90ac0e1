"""The forwards of block diffusion on one shape: prefill whole blocks, denoise one, store it when it is finished.

A position sees its own block and all earlier ones, never a later one. So the keys and values of a finished block never
change: the cache is exact, unlike those that bidirectional models approximate. While a block is denoised its slots
hold the keys and values of the last forward; the store pass, which is a forward of its own, leaves the final ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import InputError
from .cache import KVCache
from .costs import block_causal
from .engines import block_step
from .generator import Observer
from .network import Network


@dataclass(frozen=True, slots=True)
class Blocks:
    """How `prompt` known positions and `length` new ones fall into blocks of `size`, counted from position 0.

    A prompt that ends inside a block shares it with the first new tokens; the last block is computed whole, also where
    it reaches past the last token that was asked for.

    >>> list(Blocks(prompt=6, length=12, size=4).starts)
    [4, 8, 12, 16]
    """

    prompt: int
    length: int
    size: int

    @property
    def starts(self) -> range:
        """First positions of the blocks that hold new tokens."""
        return range(self.prompt // self.size * self.size, self.prompt + self.length, self.size)

    @property
    def end(self) -> int:
        """Where the last block ends."""
        return -(-(self.prompt + self.length) // self.size) * self.size

    def known(self, start: int) -> int:
        """How many of a block's positions are the prompt's."""
        return max(self.prompt - start, 0)

    def new(self, start: int) -> int:
        """How many of a block's positions are new."""
        return self.size - self.known(start)


class BlockForwards:
    """Forwards over `rows` canvases [B, end], each announced to an observer.

    With `cached`, a denoising forward feeds one block and sees the cache; without, it feeds the block and all before
    it under a block-causal mask: the same numbers for more work.
    """

    def __init__(
        self, network: Network, engine: str, blocks: Blocks, rows: int, kv_dtype: torch.dtype, *, cached: bool
    ) -> None:
        if not cached and engine != "eager":
            raise InputError(
                f"cache none with engine {engine}: each block's forward has another length; "
                "choose cache kv, or engine eager"
            )
        self._network = network
        self._blocks = blocks
        self.cache: KVCache | None = None
        self._before: Tensor | None = None
        network.rotary(blocks.end)
        with torch.inference_mode():
            self._condition = network.conditioning(None)
        self._step: Callable[[Tensor, int, int, Tensor | None], Tensor]
        if cached:
            self.cache = KVCache(network.config, rows, blocks.end, kv_dtype, network.device)
            self._step = block_step(engine, network, self.cache, rows, blocks.starts, blocks.size)

    def prefill(self, canvas: Tensor, observer: Observer) -> None:
        """Store the keys and values of the prompt's whole blocks, if it has any, in one forward."""
        first = self._blocks.starts.start
        self._before = None
        if self.cache is None or first == 0:
            return
        size = self._blocks.size
        with observer.forward("target", "prefill", canvas.shape[0], first, first, 0, block_causal(size)):
            hidden = self._network.trunk(
                canvas[:, :first],
                mask="block_causal",
                block_length=size,
                cache=self.cache,
                condition=self._condition,
            )
        self._keep(hidden)

    def denoise(self, canvas: Tensor, start: int, where: Tensor, observer: Observer) -> Tensor:
        """Logits [n, V] at the places `where` [n] (row * size + column) of the block at `start`."""
        rows, end = canvas.shape[0], start + self._blocks.size
        if self.cache is None:
            mask, length = block_causal(self._blocks.size), end
        else:
            mask, length = "bidirectional", self._blocks.size
        with observer.forward("target", "denoise", rows, length, end, where.shape[0], mask):
            hidden = self._shifted(self._hidden(canvas, start, end), start)
            return self._network.logits(hidden.flatten(0, 1)[where])

    def store(self, canvas: Tensor, start: int, observer: Observer) -> None:
        """Leave the finished block's keys and values in the cache: a forward without logits."""
        if self.cache is None:
            return
        end = start + self._blocks.size
        with observer.forward("target", "cache_refresh", canvas.shape[0], self._blocks.size, end, 0, "bidirectional"):
            hidden = self._step(canvas[:, start:end], start, end, self._condition)
        self._keep(hidden)

    def _hidden(self, canvas: Tensor, start: int, end: int) -> Tensor:
        """Hidden states [B, size, d] of the block; without a cache one position more in front, if there is one."""
        if self.cache is not None:
            return self._step(canvas[:, start:end], start, end, self._condition)
        hidden = self._network.trunk(
            canvas[:, :end], mask="block_causal", block_length=self._blocks.size, condition=self._condition
        )
        if start > 0:
            self._keep(hidden[:, :start])
        return hidden[:, start:]

    def _shifted(self, hidden: Tensor, start: int) -> Tensor:
        """The hidden states [B, size, d] that predict the block's positions.

        A network with shifted logits (Dream) predicts a position from the one before it; position 0 has none, and is
        predicted from itself, as in Dream.
        """
        if not getattr(self._network.config, "shifted_logits", False):
            return hidden
        before = hidden[:, :1] if start == 0 else self._before
        assert before is not None
        return torch.cat((before, hidden[:, :-1]), dim=1)

    def _keep(self, hidden: Tensor) -> None:
        """Keep the last state before the next block, for shifted logits: an engine's own output does not last."""
        if getattr(self._network.config, "shifted_logits", False):
            self._before = hidden[:, -1:].clone()
