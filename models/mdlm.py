"""MDLM: masked diffusion in continuous time (Sahoo et al. 2024, "Simple and Effective Masked Diffusion Language
Models").

Every new position starts as the mask and leaves it at a random one of T steps, all independently; its token is drawn
from the network's p(x0) at that step and stays. The published samplers differ in bookkeeping alone: `ddpm` and
`analytic` run the network at every step, T + 1 forwards with the last one that removes what is still masked;
`ddpm_cache` keeps its output while nothing changes, which leaves T (1 - (1 - 1/T)^(B L)) + 1 forwards on average: all
of them where B L is well above T, at most B L + 1 however large T is.

The published samplers have no prompt. Here the prompt's ids stand in front of the canvas and are never masked, which
with SUBS, where given tokens are copied, is exactly what a clean token means to the network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import InputError
from .canvas import Canvas, schedule_of, timed
from .costs import Cost
from .dit_config import DiTConfig
from .draws import ExactDraws
from .engines import Denoiser, denoiser
from .generator import Held, Observer, Request, Settings, Shape, Side
from .mdlm_loops import planned, whole
from .mdlm_moves import EPSILON, Moves, check_sampler, moves
from .network import Network
from .semi_ar import Window, windows

# Sets the stream that says when positions leave apart from the one that draws their tokens, of the same seed.
_HOST_STREAM = 0x6D646C6D


class MDLM:
    """MDLM's samplers on any network with a mask token whose head gives log-probabilities: DiT (SUBS) or Llama-like.

    - `sampler`: `ddpm_cache` (default, as published), `ddpm` or `analytic`. With a time-conditioned network the cache
      saves nothing: its output changes with the time.
    - `steps`: T, of each window; default L. T may exceed L.
    - `temperature`: of p(x0), so of the tokens; when positions leave stays random. 1 is the published law, 0 takes the
      likeliest token. `top_k` and `top_p` likewise; they need exact draws.
    - `epsilon`: where the time grid ends, default 1e-5.
    - `idle_steps`: `run` evaluates where the published cache does, on average (1 - 1/T)^(B L) < 1 forwards more than
      there are steps at which something leaves. `ddpm` and `analytic` run every step either way: a sampler that left
      idle steps out would be `ddpm_cache`. Races run as published in any case.
    - `block_length`: the stride where prompt and output exceed the model's length (see `semi_ar`).

    Under the policy `natural`, generation ends with the window after which every row holds an EOS.
    """

    side: Side = "diffusion"

    def __init__(self, network: Network, *, engine: str = "eager", kv_dtype: torch.dtype | None = None) -> None:
        """`kv_dtype` is taken as every generator takes it; there is no cache of keys and values here."""
        config = network.config
        if isinstance(config, DiTConfig) and config.parameterization != "subs":
            raise InputError(
                f"MDLM needs log-probabilities of clean tokens (parameterization subs), but this network gives "
                f"{config.parameterization}s; choose the generator sedd"
            )
        if config.mask_id is None:
            raise InputError("MDLM needs a mask token, and this network has none; choose an absorbing one")
        self.network = network
        self.engine = engine
        self.mask_id: int = config.mask_id
        self.eos_id = config.eos_token_id
        self.noise = schedule_of(network)
        self._shape: Shape | None = None
        self._denoise: Denoiser

    def prepare(self, shape: Shape, settings: Settings) -> None:
        """Check the settings; compile or capture the forward over one window."""
        self._check(settings)
        self._moves(shape.length, settings)
        first = self._windows(shape, settings)[0]
        if shape == self._shape:
            return
        self._shape = None
        self.network.rotary(first.given + first.new)
        self._denoise = denoiser(self.engine, self.network, shape.batch, first.given + first.new)
        self._shape = shape

    def promised_nfe(self, shape: Shape, settings: Settings) -> int | None:
        """Forwards of a run: T + 1 for each window; None where the cache makes them depend on the draws."""
        self._check(settings)
        self._moves(shape.length, settings)
        windows = self._windows(shape, settings)
        if not self._every(settings):
            return None
        return len(windows) * ((settings.steps or shape.length) + 1)

    @torch.inference_mode()
    def generate(self, request: Request, observer: Observer) -> Tensor:
        """Tokens [B, L]."""
        if request.shape != self._shape:
            raise InputError(f"generate() got {request.shape}, but prepare() was called for {self._shape}")
        if request.prompt_mask is not None:
            raise InputError("MDLM takes no padded prompts; choose prompts of one length")
        settings, prompt = request.settings, request.prompt_ids
        self._check(settings)
        rows, start = prompt.shape
        tokens = prompt.new_full((rows, start + request.length), self.mask_id)
        tokens[:, :start] = prompt
        odds = self._moves(request.length, settings)
        every, draws = self._every(settings), request.drawing()
        host = torch.Generator().manual_seed(request.seed ^ _HOST_STREAM)
        for window in self._windows(request.shape, settings):
            columns = slice(window.start, window.start + window.given + window.new)
            offset = window.start + window.given - start
            canvas = Canvas(
                self.network, self._denoise, observer, tokens[:, columns].contiguous(), window.given, offset
            )
            # A race, or a recording, has a draw at every open position.
            if isinstance(draws, ExactDraws):
                planned(canvas, odds, settings, draws.random, host, every=every)
            else:
                whole(canvas, odds, settings, draws, every=every)
            tokens[:, columns] = canvas.ids
            if settings.length_policy == "natural" and self._all_ended(tokens[:, start : columns.stop]):
                break
        return tokens[:, start:]

    def _windows(self, shape: Shape, settings: Settings) -> list[Window]:
        model_length = self.network.config.max_position_embeddings
        return windows(shape.prompt_length, shape.length, model_length, settings.block_length)

    def _moves(self, length: int, settings: Settings) -> Moves:
        return moves(_sampler(settings), self.noise, settings.steps or length, settings.epsilon or EPSILON)

    def _every(self, settings: Settings) -> bool:
        """Whether the network runs at every step."""
        return _sampler(settings) != "ddpm_cache" or timed(self.network)

    def _check(self, settings: Settings) -> None:
        settings.refuse("MDLM", "sampler", "epsilon", "draw", "idle_steps")
        check_sampler(_sampler(settings), self.noise)
        if settings.draw != "exact" and (settings.top_k or settings.top_p < 1):
            raise InputError(
                f"draw {settings.draw}: the published race has no top_k or top_p; choose draw exact, or leave them out"
            )

    def _all_ended(self, tokens: Tensor) -> bool:
        """Whether every row [B, n] holds an EOS. A host synchronisation a window, only under `natural`."""
        return self.eos_id is not None and bool((tokens == self.eos_id).any(dim=1).all())

    def held(self) -> Held:
        """The weights: there is no cache."""
        return self.network.held()

    def forward_cost(self, network: str, rows: int, q_len: int, kv_len: int, logit_rows: int, mask: str) -> Cost:
        """Analytic work of one announced forward."""
        return self.network.forward_cost(network, rows, q_len, kv_len, logit_rows, mask)


def _sampler(settings: Settings) -> str:
    return settings.sampler or "ddpm_cache"
