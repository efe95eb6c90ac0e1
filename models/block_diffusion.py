"""Block diffusion: a canvas decoded block by block, each denoised in parallel, on an exact key-value cache.

Between autoregression and diffusion (Arriola et al. 2025, "Block Diffusion"): blocks follow each other from left to
right, the positions of one block are denoised together. Blocks are counted from position 0, so a prompt that ends
inside a block shares it with the first new tokens; the prompt's own positions are never masked nor changed. What the
systems share is here: the loop over blocks, what is announced, and the mask that such networks are trained under.
`bd3lm` and `sdar` say how one block is denoised.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import InputError
from .block_forwards import BlockForwards, Blocks
from .costs import Cost
from .draws import Draws
from .generator import Held, Observer, Request, Settings, Shape, Side
from .network import Network

# Denoises the block at a position: yields after every step that may have committed something.
Denoise = Callable[[int], Iterator[None]]


@dataclass(frozen=True, slots=True)
class Decoding:
    """One generation under way: `canvas` [B, end], which the steps write to, and what they need beside it."""

    canvas: Tensor
    blocks: Blocks
    forwards: BlockForwards
    observer: Observer
    settings: Settings
    draws: Draws

    def window(self, start: int) -> Tensor:
        """The block at `start`, [B, size]: a view of the canvas."""
        return self.canvas[:, start : start + self.blocks.size]

    def masked(self, start: int) -> Tensor:
        """Columns [B, n] of the block that are not the prompt's, in order."""
        columns = torch.arange(self.blocks.known(start), self.blocks.size, device=self.canvas.device)
        return columns.expand(self.canvas.shape[0], -1)

    def places(self, columns: Tensor) -> Tensor:
        """Flat places [B n] in the window of columns [B, n]."""
        rows = torch.arange(0, self.canvas.shape[0] * self.blocks.size, self.blocks.size, device=columns.device)
        return (rows[:, None] + columns).flatten()

    def logits(self, start: int, where: Tensor) -> Tensor:
        """One denoising forward: logits [n, V] at the places `where` [n] of the block."""
        return self.forwards.denoise(self.canvas, start, where, self.observer)


class BlockDiffusion(ABC):
    """The loop over blocks. A subclass says how many forwards a block takes, and denoises it.

    Settings `cache`: `kv` (default) or `none`, which feeds everything before the block again at each step, to the same
    tokens. `idle_steps` run stores the keys and values of the last block too, as the published loops do, though
    nothing will read them; skip leaves that forward out. Under the policy `natural`, generation ends with the block
    after which every row holds an EOS.
    """

    side: Side = "diffusion"
    name: str  # in messages

    def __init__(self, network: Network, *, engine: str = "eager", kv_dtype: torch.dtype | None = None) -> None:
        self.network = network
        self.engine = engine
        self.kv_dtype = kv_dtype or network.dtype
        mask_id = network.config.mask_id
        if mask_id is None:
            raise InputError(f"{self.name} needs a mask token, and this network's uniform graph has none")
        if getattr(network.config, "time_conditioning", False):
            raise InputError(
                f"{self.name} needs a network that does not see the time, and this one has time_conditioning; "
                "choose an MDLM or BD3LM checkpoint without"
            )
        self.mask_id: int = mask_id
        self.eos_id = network.config.eos_token_id
        self._prepared: tuple[Shape, int, bool] | None = None
        self._forwards: BlockForwards

    @abstractmethod
    def blocks(self, shape: Shape, settings: Settings) -> Blocks:
        """How the positions of `shape` fall into blocks; raises InputError for settings that do not fit."""

    @abstractmethod
    def denoising_steps(self, shape: Shape, settings: Settings) -> int | None:
        """Denoising forwards of a generation of fixed length; None where data or draws decide."""

    @abstractmethod
    def _denoising(self, run: Decoding) -> Denoise:
        """What denoises the blocks of one generation, with everything that can be drawn up front already drawn."""

    def prepare(self, shape: Shape, settings: Settings) -> None:
        """Check the settings; allocate the cache, compile or capture the forward of a block."""
        self._check_cache(settings)
        blocks = self.blocks(shape, settings)
        wanted = shape, blocks.size, settings.cache != "none"
        if wanted == self._prepared:
            return
        self._prepared = None
        if shape.batch * blocks.size == 1 and self.engine == "eager":
            self.network.favour_single_rows(True)
        self._forwards = BlockForwards(
            self.network, self.engine, blocks, shape.batch, self.kv_dtype, cached=settings.cache != "none"
        )
        self._prepared = wanted

    def _check_cache(self, settings: Settings) -> None:
        if settings.cache not in (None, "none", "kv"):
            raise InputError(f"cache {settings.cache!r}: {self.name} knows kv (exact; the default) and none")
        if settings.cache == "none" and self.engine != "eager":
            raise InputError(
                f"cache none with engine {self.engine}: each block's forward has another length; "
                "choose cache kv, or engine eager"
            )

    @torch.inference_mode()
    def generate(self, request: Request, observer: Observer) -> Tensor:
        """Tokens [B, L]."""
        settings, shape = request.settings, request.shape
        blocks = self.blocks(shape, settings)
        if (shape, blocks.size, settings.cache != "none") != self._prepared:
            raise InputError(f"generate() got {shape}, blocks of {blocks.size}, but prepare() was called for others")
        if request.prompt_mask is not None and not bool(request.prompt_mask.all()):
            raise InputError(f"{self.name} counts blocks from position 0: prompts of one batch must have equal length")
        prompt = self._started(request.prompt_ids)
        canvas = prompt.new_full((prompt.shape[0], blocks.end), self.mask_id)
        canvas[:, : blocks.prompt] = prompt
        run = Decoding(canvas, blocks, self._forwards, observer, settings, request.drawing())
        denoise = self._denoising(run)
        self._forwards.prefill(canvas, observer)
        new = slice(blocks.prompt, blocks.prompt + blocks.length)
        step = 0
        for start in blocks.starts:
            # The columns of this block that were asked for.
            columns = slice(max(start, new.start), min(start + blocks.size, new.stop))
            open_before = torch.ones_like(canvas[:, columns], dtype=torch.bool)
            for _ in denoise(start):
                ids = canvas[:, columns].clone()
                open_now = ids == self.mask_id
                observer.write(open_before ^ open_now, ids, step, offset=columns.start - new.start)
                open_before = open_now
                step += 1
            ended = settings.length_policy == "natural" and self._all_ended(canvas[:, new.start : columns.stop])
            if settings.idle_steps == "run" or not (ended or start == blocks.starts[-1]):
                self._forwards.store(canvas, start, observer)
            if ended:
                break
        return canvas[:, new]

    def promised_nfe(self, shape: Shape, settings: Settings) -> int | None:
        """Forwards of a generation of fixed length: prefill, denoising, stores. None where data or draws decide."""
        self._check_cache(settings)
        steps = self.denoising_steps(shape, settings)
        if steps is None or settings.cache == "none":
            return steps
        starts = self.blocks(shape, settings).starts
        return (starts[0] > 0) + steps + len(starts) - (settings.idle_steps == "skip")

    def _started(self, prompt: Tensor) -> Tensor:
        """The prompt ids that the canvas begins with."""
        return prompt

    def _all_ended(self, tokens: Tensor) -> bool:
        """Whether every row [B, n] holds an EOS. The one host synchronisation of a block, only under `natural`."""
        return self.eos_id is not None and bool((tokens == self.eos_id).any(dim=1).all())

    def held(self) -> Held:
        """Weights, and the cache of whole blocks up to the last one's end."""
        return self.network.held(self._forwards.cache if self._prepared else None)

    def forward_cost(self, network: str, rows: int, q_len: int, kv_len: int, logit_rows: int, mask: str) -> Cost:
        """Analytic work of one announced forward."""
        kv_dtype = str(self.kv_dtype).removeprefix("torch.")
        return self.network.forward_cost(network, rows, q_len, kv_len, logit_rows, mask, kv_dtype)


def training_mask(length: int, block_length: int, device: torch.device | str = "cpu") -> Tensor:
    """The mask [2n, 2n] bool that block diffusion is trained under, on n noisy tokens followed by the n clean ones.

    A noisy token sees its own noisy block and the clean blocks before it; a clean one sees the clean blocks up to its
    own. So one forward gives every block the past that it will have when it is decoded (Arriola et al. 2025, on
    efficient training). Positions restart with the clean copy.
    """
    block = torch.arange(length, device=device) // block_length
    own = block[:, None] == block
    earlier = block[:, None] > block
    return torch.cat((torch.cat((own, earlier), dim=1), torch.cat((torch.zeros_like(own), own | earlier), dim=1)))
