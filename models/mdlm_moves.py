"""When positions leave the mask under MDLM's samplers: it never depends on the network, so it is drawn beforehand.

Going from time t to s < t, a masked position takes a token with weight `leave` in all, shared among the tokens by
p(x0), and remains masked with weight `stay` (Sahoo et al. 2024, section 3.2.2). Neither depends on the network:

    ddpm         m(t) - m(s) and m(s), with the schedule's move chance m: ancestral sampling
    ddpm_cache   t - s and s: the same with m(t) = t, as the published code has it; for loglinear, the same odds
    analytic     r and 1 - r, r = expm1(sigma(t) - sigma(s)) / expm1(sigma(t)): the step by scores (SEDD's) with the
                 score p(x0) / expm1(sigma) that SUBS implies; again the same odds

So one law says at which step each position leaves, and the host can know it: every size, and which steps need the
network at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import InputError
from .noise import LogLinear, NoiseSchedule, time_grid

SAMPLERS = ("ddpm_cache", "ddpm", "analytic")
EPSILON = 1e-5


@dataclass(frozen=True, slots=True)
class Moves:
    """Weights of leaving the mask and of staying, for each of T steps; noise `sigmas` [T + 1] float32 at their starts.

    The last sigma is that of the time at which the remaining masks are removed.
    """

    sigmas: Tensor
    leave: list[float]
    stay: list[float]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One run of the network: before step `step`, for the `count` positions, in leaving order from `first`, that leave
    at step `leaving` >= step."""

    step: int
    leaving: int
    first: int
    count: int


def check_sampler(name: str, noise: NoiseSchedule) -> None:
    """Raise InputError for a sampler that does not exist, or that does not fit the noise."""
    if name not in SAMPLERS:
        raise InputError(f"sampler {name!r}: MDLM does not know it; choose one of {', '.join(SAMPLERS)}")
    if name == "ddpm_cache" and not isinstance(noise, LogLinear):
        kind = type(noise).__name__.lower()
        raise InputError(
            f"sampler ddpm_cache: move chances t are loglinear noise's, this model's is {kind}; choose ddpm"
        )


def moves(sampler: str, noise: NoiseSchedule, steps: int, epsilon: float = EPSILON) -> Moves:
    """The weights of a sampler's T = `steps` steps from time 1 to `epsilon`, in float32 as the samplers have them."""
    if not epsilon < 1:
        raise InputError(f"epsilon {epsilon:g}: the time grid ends there and starts at 1; choose one below 1")
    grid = time_grid(steps, epsilon)
    start = grid[:-1]
    # Not the grid's next entry: the published step subtracts, which may differ in the last bit.
    end = (start - (1 - epsilon) / steps).clamp(min=0)
    if sampler == "ddpm_cache":
        leave, stay = start - end, end
    elif sampler == "ddpm":
        stay = noise.move_chance(end)
        leave = noise.move_chance(start) - stay
    else:
        sigma = noise.sigma(start)
        leave = torch.expm1(sigma - noise.sigma(end)) / torch.expm1(sigma)
        stay = 1 - leave
    return Moves(noise.sigma(grid), leave.tolist(), stay.tolist())


def leaving_steps(odds: Moves, uniforms: Tensor) -> Tensor:
    """The step at which each position leaves the mask, T for those left to the end; uniforms float64 in [0, 1).

    A position is masked after step i with the product of stay / (leave + stay) up to i: one uniform finds its step.
    """
    leave, stay = (torch.tensor(values, dtype=torch.float64) for values in (odds.leave, odds.stay))
    gone = 1 - (stay / (leave + stay)).cumprod(dim=0)
    return torch.searchsorted(gone, uniforms, right=True)


def evaluations(counts: list[int], *, every: bool, idle: bool) -> list[Evaluation]:
    """Where the network runs, if `counts[i]` positions leave at step i (the last entry: those left to the end).

    `every` step (no cache); or only for the steps at which some leave: between them nothing changes, so the output
    would be the same. `idle` runs it where the published cache does, which is not that thrifty: at the first step, and
    after every step that changed something, whether or not a position leaves next.
    """
    steps = len(counts) - 1
    found: list[Evaluation] = []
    first = step = 0
    while step < steps:
        leaving = step
        if not every:
            while leaving < steps and not counts[leaving]:
                leaving += 1
        if leaving < steps:
            found.append(Evaluation(step if idle else leaving, leaving, first, counts[leaving]))
            first += counts[leaving]
        elif idle:
            found.append(Evaluation(step, steps - 1, first, 0))
        step = leaving + 1
    return found
