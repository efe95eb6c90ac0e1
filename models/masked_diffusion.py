"""Masked diffusion with a bidirectional network and no cache: the sampler of LLaDA, in blocks.

LLaDA (Nie et al. 2025, section 2.4 and Algorithms 4-5): the canvas starts as masks; each of T steps runs the network on
prompt and canvas, predicts every masked position up to the current block's end, and commits the most confident ones
("low confidence" remasking) or a random choice. How many are committed at a step depends on T alone, never on the data,
so no step waits for the host. Logits are computed only for positions that the step may commit; with random remasking
those are the positions that it will commit, and the distribution is the same.

Where this sampler departs from the published loop by default, a setting brings the loop back: `draw` gumbel64 (its
race, on noise for every position), `suppress_mask` False (a position that predicts the mask stays masked, and may do so
for good), `idle_steps` "run" (T > L, whose surplus steps commit nothing). Masks in a prompt are always left alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import InputError
from .block_canvas import BlockCanvas
from .candidates import planned_steps
from .commit_plan import commit_plan
from .costs import Cost
from .engines import Denoiser, denoiser
from .generator import Held, Observer, Request, Settings, Shape, Side
from .guidance import guided, with_unconditional
from .network import Network
from .predict import check_draw, drawing

_KNOWN = ("commit_schedule", "cfg_scale", "draw", "suppress_mask", "idle_steps")


class MaskedDiffusion:
    """The diffusion side of a pair, on the pair's network with bidirectional attention and no cache.

    Under the policy `natural`, generation ends with the block after which every row holds an EOS; a row pays for its
    canvas up to there. Under `fixed` every block is denoised. There is no cache that `kv_dtype` could apply to.
    """

    side: Side = "diffusion"

    def __init__(self, network: Network, *, engine: str = "eager", kv_dtype: torch.dtype | None = None) -> None:
        self.network = network
        self.engine = engine
        self.mask_id = mask_of(network)
        self.eos_id = network.config.eos_token_id
        self._shape: Shape | None = None
        self._rows = 0
        self._denoise: Denoiser
        self._condition: tuple[Tensor, ...]

    def prepare(self, shape: Shape, settings: Settings) -> None:
        """Check the settings and T against the blocks; compile or capture the forward over P + L positions."""
        self._check(shape, settings)
        rows = shape.batch * (2 if settings.cfg_scale else 1)
        if (shape, rows) == (self._shape, self._rows):
            return
        self._shape = None
        positions = shape.prompt_length + shape.length
        self.network.rotary(positions)
        self._condition = conditioning(self.network)
        self._denoise = denoiser(self.engine, self.network, rows, positions)
        self._shape, self._rows = shape, rows

    def promised_nfe(self, shape: Shape, settings: Settings) -> int:
        """Forwards of a run under the policy `fixed`: T, or the length of the commit schedule."""
        self._check(shape, settings)
        return sum(len(steps) for steps in commit_plan(shape, settings))

    @torch.inference_mode()
    def generate(self, request: Request, observer: Observer) -> Tensor:
        """Tokens [B, L]."""
        settings = request.settings
        check_request(request, self._shape)
        self._check(request.shape, settings)
        block = settings.block_length or request.length
        canvas = BlockCanvas(self.network, self.mask_id, request, drawing(request), observer)
        positions = canvas.ids.shape[1]
        plan = planned_steps(commit_plan(request.shape, settings), canvas.ids.device)
        if self._rows != canvas.rows * (2 if settings.cfg_scale else 1):
            raise InputError(f"cfg_scale {settings.cfg_scale:g}: prepare() was called for {self._rows} rows a forward")
        for number, steps in enumerate(plan):
            canvas.enter(number * block, block)
            for counts, rule in steps:
                wanted = canvas.wanted(counts, rule)
                logit_rows = self._rows * wanted.columns.shape[1]
                with observer.forward(
                    "target", "denoise", self._rows, positions, positions, logit_rows, "bidirectional"
                ):
                    ids = canvas.ids
                    if settings.cfg_scale:
                        ids = with_unconditional(ids, canvas.start, self.mask_id)
                    logits = canvas.logits(self._denoise(ids, *self._condition), wanted)
                if settings.cfg_scale:
                    logits = guided(logits, settings.cfg_scale)
                canvas.commit(wanted, logits, counts, rule)
                del logits  # or the next forward would run beside them, the largest tensor of all
            if settings.length_policy == "natural" and canvas.ended(self.eos_id):
                break
        return canvas.ids[:, canvas.start :]

    @staticmethod
    def _check(shape: Shape, settings: Settings) -> None:
        settings.refuse("LLaDA", *_KNOWN)
        check_draw(settings)
        commit_plan(shape, settings)

    def held(self) -> Held:
        """The weights: there is no cache."""
        return self.network.held()

    def forward_cost(self, network: str, rows: int, q_len: int, kv_len: int, logit_rows: int, mask: str) -> Cost:
        """Analytic work of one announced forward."""
        return self.network.forward_cost(network, rows, q_len, kv_len, logit_rows, mask)


def mask_of(network: Network) -> int:
    """The mask token's id; raises InputError for a network that LLaDA's loop has no use for."""
    config = network.config
    mask_id = config.mask_id
    if mask_id is None:
        raise InputError("masked diffusion needs a mask token, and this network's uniform graph has none")
    if getattr(config, "time_conditioning", False):
        raise InputError(
            "masked diffusion in blocks has no noise level to give a network with time conditioning; "
            "choose the sampler of its own system"
        )
    return mask_id


def conditioning(network: Network) -> tuple[Tensor, ...]:
    """What the network's forwards are given beside ids: nothing, or a DiT's modulations at its one noise level."""
    with torch.inference_mode():
        condition = network.conditioning(None)
    return () if condition is None else (condition,)


def check_request(request: Request, prepared: Shape | None) -> None:
    """Raise InputError for a request of another shape than prepared for, or with padded prompts."""
    if request.shape != prepared:
        raise InputError(f"generate() got {request.shape}, but prepare() was called for {prepared}")
    if request.prompt_mask is not None:
        raise InputError("prompt_mask: padded prompts are not known to LLaDA's loop; give prompts of one length")
