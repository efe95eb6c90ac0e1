"""MDLM's and SEDD's published loops, written down plainly: every position, every token, one race per step.

A second implementation for tests and a straw man for benchmarks. Nothing is saved: the head runs on the whole canvas,
uniforms are drawn for the whole vocabulary, and the samplers' formulae stand as in the notes on the recorded runs. It
shares with the package only the network, the noise schedules and the graphs (each tested on its own).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlmbench.models.graphs import Graph
from dlmbench.models.network import Network
from dlmbench.models.noise import NoiseSchedule, noise_schedule


def race(weights: Tensor, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    """argmax of weights / exponentials, one draw for every position of [B, L, V]."""
    uniforms = torch.rand(weights.shape, dtype=dtype, device=weights.device, generator=generator)
    return (weights / (1e-10 - (uniforms + 1e-10).log())).argmax(dim=-1)


def output(network: Network, ids: Tensor, sigma: Tensor) -> Tensor:
    """Raw output of the head at every position [B, S, V], at one noise level []."""
    return network.logits(network.trunk(ids, mask="bidirectional", condition=network.conditioning(sigma)))


def subs(logits: Tensor, ids: Tensor, mask_id: int) -> Tensor:
    """p(x0): softmax without the mask, and given tokens as they are."""
    logits = logits.clone()
    logits[..., mask_id] -= 1e6
    given = torch.nn.functional.one_hot(ids, logits.shape[-1]).to(logits.dtype)
    return torch.where((ids == mask_id)[..., None], logits.softmax(dim=-1), given)


@torch.inference_mode()
def published_mdlm(
    network: Network,
    prompt: Tensor,
    length: int,
    steps: int,
    generator: torch.Generator,
    *,
    sampler: str,
    dtype: torch.dtype = torch.float32,
    eps: float = 1e-5,
) -> tuple[Tensor, int]:
    """Tokens [B, L] and the number of forwards; `sampler` ddpm, ddpm_cache or analytic. Loglinear noise."""
    noise, mask_id, rows = noise_schedule("loglinear"), network.config.mask_id, prompt.shape[0]
    assert mask_id is not None
    timed = bool(getattr(network.config, "time_conditioning", False))
    x = prompt.new_full((rows, length), mask_id)
    grid, dt = torch.linspace(1, eps, steps + 1), (1 - eps) / steps
    forwards, cache = 0, None

    def p_x0(t: Tensor) -> Tensor:
        ids = torch.cat((prompt, x), dim=1)
        logits = output(network, ids, noise.sigma(t))[:, prompt.shape[1] :]
        return subs(logits.float(), x, mask_id)

    def score_step(p: Tensor, sigma: Tensor, change: Tensor) -> Tensor:
        """Analytic: staggered score x transposed transition, at every position."""
        ratio = torch.expm1(sigma)
        score = p / ratio
        score[..., mask_id] = 1
        given = torch.zeros_like(p).scatter_(-1, x[..., None], 1.0)
        given[..., mask_id] = ratio
        masked = (x == mask_id)[..., None]
        score = torch.where(masked, score, given)
        staggered = score * change.exp()
        staggered[..., mask_id] += (1 - change.exp()) * score.sum(dim=-1)
        own = torch.nn.functional.one_hot(x, p.shape[-1])
        return staggered * (own * (-change).exp() + masked * (1 - (-change).exp()))

    for t in grid[:-1]:
        s = t - dt
        if cache is None:
            cache = p_x0(t)
            forwards += 1
        if sampler == "analytic":
            weights = score_step(cache, noise.sigma(t), noise.sigma(t) - noise.sigma(s))
        else:
            most, least = (t, s) if sampler == "ddpm_cache" else (noise.move_chance(t), noise.move_chance(s))
            weights = cache * (most - least)
            weights[..., mask_id] = least
        drawn = race(weights, generator, dtype)
        after = drawn if sampler == "analytic" else torch.where(x == mask_id, drawn, x)
        if sampler != "ddpm_cache" or timed or not torch.equal(after, x):
            cache = None
        x = after
    last = p_x0(grid[-1])
    if sampler == "analytic":
        weights = score_step(last, noise.sigma(grid[-1]), noise.sigma(grid[-1]))
        weights[..., mask_id] = 0
        return race(weights, generator, dtype), forwards + 1
    return last.argmax(dim=-1), forwards + 1


def published_ddpm_cache(
    network: Network,
    prompt: Tensor,
    length: int,
    steps: int,
    generator: torch.Generator,
    *,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, int]:
    """MDLM's default sampler on a canvas behind `prompt` [B, P]: tokens [B, L] and the number of forwards."""
    return published_mdlm(network, prompt, length, steps, generator, sampler="ddpm_cache", dtype=dtype)


@torch.inference_mode()
def published_sedd(
    network: Network,
    graph: Graph,
    noise: NoiseSchedule,
    prompt: Tensor,
    start: Tensor,
    steps: int,
    generator: torch.Generator,
    *,
    predictor: str,
    scale_by_sigma: bool,
    eps: float = 1e-5,
) -> tuple[Tensor, int]:
    """SEDD's loop from the noise `start` [B, L], prompt clamped: tokens [B, L] and the number of forwards."""
    x, grid, dt = start, torch.linspace(1, eps, steps + 1), (1 - eps) / steps

    def score(t: Tensor) -> Tensor:
        sigma = noise.sigma(t)
        raw = output(network, torch.cat((prompt, x), dim=1), sigma)[:, prompt.shape[1] :].float()
        if scale_by_sigma:
            raw = raw - torch.expm1(sigma).log() - torch.tensor(raw.shape[-1] - 1.0).log()
        return raw.scatter(-1, x[..., None], 0.0).exp()

    for t in grid[:-1]:
        if predictor == "euler":
            weights = graph.euler_probs(x, score(t), dt * noise.dsigma(t))
        else:
            weights = graph.analytic_probs(x, score(t), noise.sigma(t) - noise.sigma(t - dt))
        x = race(weights, generator)
    weights = graph.denoiser_probs(x, score(grid[-1]), noise.sigma(grid[-1]))
    return race(weights, generator), steps + 1
