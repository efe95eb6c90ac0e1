"""BD3LM: masked diffusion inside blocks (Arriola et al. 2025, "Block Diffusion: Interpolating Between Autoregressive
and Diffusion Language Models").

Each block is denoised as MDLM denoises a canvas: p(x0) is SUBS, a position leaves the mask once, at a time that the
network has no say in. Two ways to go through those times:

- `first_hitting` (default): from one leaving to the next (Zheng et al. 2024, "Masked diffusion models are secretly
  time-agnostic…"). One token a forward, in random order: as many forwards as positions.
- `ddpm`: a grid of times, several positions may leave at one of them, and the network's output is used again until
  something does. The forwards are as many as there are different leaving times.

A request without a prompt starts from EOS (or id 0), as the published sampler starts from its beginning of text: it is
the first position of the first block, and no output.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import InputError
from .bd3lm_loops import ddpm, ddpm_whole, first_hitting, first_hitting_whole
from .block_diffusion import BlockDiffusion, Decoding, Denoise
from .block_forwards import Blocks
from .block_plan import steps_of_each_block
from .generator import Settings, Shape
from .network import Network
from .nucleus import Crossing

SAMPLERS = ("first_hitting", "ddpm")
STEPS = 5000  # published default of ddpm, a block


class BD3LM(BlockDiffusion):
    """BD3LM's samplers on any network with a mask token that does not see the time. Rows of a batch are independent.

    - `steps`: T of `ddpm`, of all blocks together (default 5000 for each block). `first_hitting` has no T but L.
    - `temperature`: of p(x0), so of the tokens; when positions leave stays random. 1 is the published law, 0 takes the
      likeliest token. `top_p`: the nucleus; `crossing` says whether the token that crosses p belongs to it. The
      published one *drops* it (the default here), transformers and every other sampler of ours keeps it.
    - `draw` gumbel64 and gumbel32 race over all open positions as the published loop does, with float64 weights. They
      have its law, not its seeds (it draws positions and times from other streams), and its grid: see `bd3lm_loops`.
    """

    name = "BD3LM"

    def __init__(
        self,
        network: Network,
        *,
        engine: str = "eager",
        kv_dtype: torch.dtype | None = None,
        crossing: Crossing = "drop",
    ) -> None:
        super().__init__(network, engine=engine, kv_dtype=kv_dtype)
        self.crossing = crossing

    def blocks(self, shape: Shape, settings: Settings) -> Blocks:
        settings.refuse(self.name, "sampler", "cache", "draw", "idle_steps")
        prompt = max(shape.prompt_length, 1)
        size = settings.block_length or self.network.config.block_size or prompt + shape.length
        found = Blocks(prompt, shape.length, size)
        if self._sampler(settings) == "ddpm":
            steps_of_each_block(found, settings.steps, STEPS)
        elif settings.steps not in (None, shape.length):
            raise InputError(
                f"steps: T={settings.steps}, but first_hitting takes a forward for each of L={shape.length} tokens; "
                "leave steps out, or choose sampler ddpm"
            )
        return found

    def denoising_steps(self, shape: Shape, settings: Settings) -> int | None:
        blocks = self.blocks(shape, settings)
        return blocks.end - blocks.prompt if self._sampler(settings) == "first_hitting" else None

    def _started(self, prompt: Tensor) -> Tensor:
        return prompt if prompt.shape[1] else prompt.new_full((prompt.shape[0], 1), self.eos_id or 0)

    def _denoising(self, run: Decoding) -> Denoise:
        if self._sampler(run.settings) == "first_hitting":
            return (first_hitting_whole if run.draws.whole else first_hitting)(run, self.mask_id, self.crossing)
        steps = steps_of_each_block(run.blocks, run.settings.steps, STEPS)
        return (ddpm_whole if run.draws.whole else ddpm)(run, self.mask_id, self.crossing, steps)

    @staticmethod
    def _sampler(settings: Settings) -> str:
        sampler = settings.sampler or SAMPLERS[0]
        if sampler not in SAMPLERS:
            raise InputError(f"sampler {sampler!r} is not BD3LM's; choose {' or '.join(SAMPLERS)}")
        return sampler
