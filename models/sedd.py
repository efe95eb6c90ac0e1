"""SEDD: score entropy discrete diffusion (Lou et al. 2024, "Discrete Diffusion Modeling by Estimating the Ratios of the
Data Distribution").

The network gives, for every position, how much likelier the sequence would be with another token there. A step from
time t to s jumps at rates that follow from these scores: `euler` to first order, `analytic` by solving each position's
noise exactly (Tweedie tau-leaping). After T steps one more draw removes all noise that is left: T + 1 forwards.

On the absorbing graph positions start as masks and jump once, so only masks need logits; how many are left is up to the
scores, and the host waits for their number once a step. On the uniform graph positions start as random tokens, any may
jump at any step, and nothing is committed before the last draw.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import InputError
from .canvas import Canvas, Conditions, schedule_of
from .costs import Cost
from .dit_config import DiTConfig
from .draws import Draws
from .engines import Denoiser, denoiser
from .generator import Held, Observer, Request, Settings, Shape, Side
from .graphs import graph
from .network import Network
from .noise import NoiseSchedule, time_grid
from .sedd_weights import Kind, absorbing_weights, draw_in_rows, tempered, uniform_weights

EPSILON = 1e-5
SAMPLERS: dict[str, Kind] = {"analytic": "analytic", "euler": "euler"}


class SEDD:
    """SEDD's samplers on a DiT that gives scores. A prompt stands in front of the canvas and is clamped, as published.

    - `sampler`: `analytic` (default: that of the published scripts) or `euler`.
    - `steps`: T, default L. Every step is run: whether one changes anything is known only after its forward.
    - `temperature`: of where a position jumps to; when it jumps stays as the scores have it. 1 is the published law,
      0 takes the likeliest jump. In the last draw it applies to all tokens.
    - `epsilon`: where the time grid ends, default 1e-5.
    """

    side: Side = "diffusion"

    def __init__(self, network: Network, *, engine: str = "eager", kv_dtype: torch.dtype | None = None) -> None:
        """`kv_dtype` is taken as every generator takes it; there is no cache of keys and values here."""
        config = network.config
        if not isinstance(config, DiTConfig) or config.parameterization != "score":
            found = "log-probabilities" if isinstance(config, DiTConfig) else f"a {type(network).__name__}"
            raise InputError(
                f"SEDD needs a time-conditioned DiT that gives scores (parameterization score), and this is {found}; "
                "choose the generator mdlm, or a SEDD checkpoint"
            )
        self.network = network
        self.engine = engine
        self.scale_by_sigma = config.scale_by_sigma
        self.graph = graph(config.graph, config.vocab_size)
        self.noise = schedule_of(network)
        self._shape: Shape | None = None
        self._denoise: Denoiser

    def prepare(self, shape: Shape, settings: Settings) -> None:
        """Check the settings and the model's length; compile or capture the forward over P + L positions."""
        self.promised_nfe(shape, settings)
        positions = shape.prompt_length + shape.length
        if shape == self._shape:
            return
        self._shape = None
        self.network.rotary(positions)
        self._denoise = denoiser(self.engine, self.network, shape.batch, positions)
        self._shape = shape

    def promised_nfe(self, shape: Shape, settings: Settings) -> int | None:
        """Forwards of a run: T + 1. Raises InputError for settings or a length that SEDD cannot run."""
        self._check(shape.length, settings)
        most = self.network.config.max_position_embeddings
        if shape.prompt_length + shape.length > most:
            raise InputError(
                f"prompt {shape.prompt_length} + length {shape.length}: SEDD denoises one canvas of at most the "
                f"model's {most} positions; choose a length of at most {max(0, most - shape.prompt_length)}"
            )
        return (settings.steps or shape.length) + 1

    @torch.inference_mode()
    def generate(self, request: Request, observer: Observer) -> Tensor:
        """Tokens [B, L]."""
        if request.shape != self._shape:
            raise InputError(f"generate() got {request.shape}, but prepare() was called for {self._shape}")
        if request.prompt_mask is not None:
            raise InputError("SEDD takes no padded prompts; choose prompts of one length")
        settings, prompt, draws = request.settings, request.prompt_ids, request.drawing()
        self._check(request.length, settings)
        kind = SAMPLERS[settings.sampler or "analytic"]
        steps = settings.steps or request.length
        sigmas, changes = noise_steps(kind, self.noise, steps, settings.epsilon or EPSILON)
        ids = torch.cat((prompt, self._start(prompt.shape[0], request.length, prompt, draws)), dim=1)
        canvas = Canvas(self.network, self._denoise, observer, ids, prompt.shape[1], 0)
        conditions = Conditions(self.network, sigmas)
        for step, (sigma, change) in enumerate(zip(sigmas.tolist(), changes.tolist(), strict=True)):
            now: Kind = kind if step < steps else "denoise"
            self._step(canvas, conditions[step], now, step, sigma, change, settings.temperature, draws)
        return canvas.new

    def _start(self, rows: int, length: int, like: Tensor, draws: Draws) -> Tensor:
        """All noise [B, L]: masks, or tokens drawn uniformly from the vocabulary."""
        if self.graph.mask_id is not None:
            return like.new_full((rows, length), self.graph.mask_id)
        places = (draws.uniform(rows, length) * self.graph.dim).long()
        return places.clamp_(max=self.graph.dim - 1)

    def _step(
        self,
        canvas: Canvas,
        condition: Tensor | None,
        kind: Kind,
        step: int,
        sigma: float,
        change: float,
        temperature: float,
        draws: Draws,
    ) -> None:
        """One forward, and a draw at every position that may jump."""
        mask_id = self.graph.mask_id
        where = canvas.places(mask_id)
        before = canvas.new.flatten().index_select(0, where)
        output = canvas.logits(where, condition)

        def weigh(part: slice) -> Tensor:
            raw = output[part].float()
            if mask_id is None:
                weights = uniform_weights(raw, before[part], kind, change)
            else:
                weights = absorbing_weights(raw, kind, sigma, change, scale_by_sigma=self.scale_by_sigma)
            if temperature == 1:
                return weights
            return tempered(weights, None if kind == "denoise" else before[part], temperature)

        tokens = draw_in_rows(weigh, where, self.graph.dim, draws, canvas.window)
        changed = None if kind == "denoise" else tokens != before
        canvas.put(where, tokens, step, changed=changed, committed=mask_id is not None or kind == "denoise")

    def _check(self, length: int, settings: Settings) -> None:
        settings.refuse("SEDD", "sampler", "epsilon", "draw", "idle_steps")
        if settings.sampler not in (None, *SAMPLERS):
            raise InputError(f"sampler {settings.sampler!r}: SEDD does not know it; choose {' or '.join(SAMPLERS)}")
        if settings.epsilon is not None and settings.epsilon >= 1:
            raise InputError(
                f"epsilon {settings.epsilon:g}: the time grid ends there and starts at 1; choose one below 1"
            )
        if settings.top_k or settings.top_p < 1:
            raise InputError("top_k, top_p: SEDD draws jumps, which have neither; choose a temperature")
        if settings.block_length is not None and settings.block_length < length:
            raise InputError(
                f"block length {settings.block_length}: SEDD denoises L={length} whole; leave block_length out"
            )

    def held(self) -> Held:
        """The weights: there is no cache."""
        return self.network.held()

    def forward_cost(self, network: str, rows: int, q_len: int, kv_len: int, logit_rows: int, mask: str) -> Cost:
        """Analytic work of one announced forward."""
        return self.network.forward_cost(network, rows, q_len, kv_len, logit_rows, mask)


def noise_steps(kind: Kind, noise: NoiseSchedule, steps: int, epsilon: float = EPSILON) -> tuple[Tensor, Tensor]:
    """Noise at the start of each of T steps and how much of it the step removes, [T + 1] float32 each; the last entry
    is the draw that removes all."""
    grid, size = time_grid(steps, epsilon), (1 - epsilon) / steps
    sigmas, start = noise.sigma(grid), grid[:-1]
    changes = size * noise.dsigma(start) if kind == "euler" else sigmas[:-1] - noise.sigma((start - size).clamp(min=0))
    return sigmas, torch.cat((changes, sigmas[-1:]))
