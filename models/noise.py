"""The forward process: how much noise a token has met by time t, and what that does to it.

A schedule says how the total noise sigma(t) grows over t in [0, 1]. A token has been hit with probability
1 - exp(-sigma(t)), the *move chance*; what a hit does is the graph's business: the token becomes the mask
(`mask_tokens`) or any token at all (`replace_tokens`). The continuous-time bound weighs a token's negative log
likelihood by dsigma / expm1(sigma), the chance per time of leaving the state for one that has left (Sahoo et al. 2024,
"Simple and Effective Masked Diffusion Language Models", section 3.4).

BD3LM describes the same thing by the pair (loss scaling, move chance) and has curves of its own (`block_noise`). They
share names with the others, but not formulas: BD3LM's loglinear is move chance t, MDLM's and SEDD's is 0.999 t.

Times may have any shape and any float dtype; every result has that shape and dtype.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .. import InputError

HALF_PI = math.pi / 2


@dataclass(frozen=True)
class NoiseSchedule(ABC):
    """Total noise as a function of time, and what follows from it."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Total noise at time t, in units of expected hits per token."""

    @abstractmethod
    def dsigma(self, t: Tensor) -> Tensor:
        """Time derivative of `sigma`: the rate of hits at time t."""

    def move_chance(self, t: Tensor) -> Tensor:
        """Probability that a token has been hit by time t: 1 - exp(-sigma)."""
        return -torch.expm1(-self.sigma(t))

    def nelbo_weight(self, t: Tensor) -> Tensor:
        """Weight of a masked token's -log p in the continuous-time bound: dsigma / expm1(sigma), for sigma > 0."""
        return self.dsigma(t) / torch.expm1(self.sigma(t))


@dataclass(frozen=True)
class Geometric(NoiseSchedule):
    """sigma = sigma_min^(1-t) sigma_max^t (Lou et al. 2024, "Discrete Diffusion Modeling by Estimating the Ratios of
    the Data Distribution", section 5)."""

    sigma_min: float = 1e-4
    sigma_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise InputError(
                f"noise schedule geometric: sigma_min {self.sigma_min} and sigma_max {self.sigma_max} do not fit; "
                "choose 0 < sigma_min < sigma_max"
            )

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min ** (1 - t) * self.sigma_max**t

    def dsigma(self, t: Tensor) -> Tensor:
        return self.sigma(t) * math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class Linear(NoiseSchedule):
    """sigma = sigma_min + t (sigma_max - sigma_min)."""

    sigma_min: float = 1e-3
    sigma_max: float = 7.0

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_min < self.sigma_max < math.inf:
            raise InputError(
                f"noise schedule linear: sigma_min {self.sigma_min} and sigma_max {self.sigma_max} do not fit; "
                "choose 0 <= sigma_min < sigma_max"
            )

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min + t * (self.sigma_max - self.sigma_min)

    def dsigma(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.sigma_max - self.sigma_min)


@dataclass(frozen=True)
class ShapedMasking(NoiseSchedule):
    """Schedules given by their move chance, (1 - epsilon) f(t) with f rising from 0 to 1.

    sigma = -log(1 - (1 - epsilon) f). epsilon keeps sigma finite at t = 1. It cancels from the weight of the bound,
    which is f' / f (Sahoo et al. 2024, section 3.4, alpha' / (1 - alpha)).
    """

    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < 1:
            raise InputError(f"noise schedule: epsilon {self.epsilon} is outside (0, 1); choose one such as 0.001")

    @abstractmethod
    def fraction(self, t: Tensor) -> Tensor:
        """f(t)."""

    @abstractmethod
    def dfraction(self, t: Tensor) -> Tensor:
        """f'(t)."""

    def move_chance(self, t: Tensor) -> Tensor:
        return (1 - self.epsilon) * self.fraction(t)

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.log1p(-self.move_chance(t))

    def dsigma(self, t: Tensor) -> Tensor:
        return (1 - self.epsilon) * self.dfraction(t) / (1 - self.move_chance(t))

    def nelbo_weight(self, t: Tensor) -> Tensor:
        return self.dfraction(t) / self.fraction(t)


@dataclass(frozen=True)
class LogLinear(ShapedMasking):
    """f = t: every token is masked with probability (1 - epsilon) t, and the bound's weight is 1 / t."""

    def fraction(self, t: Tensor) -> Tensor:
        return t

    def dfraction(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    # The two ends are float32 numbers in MDLM and enter `importance_sampling_t` as such: at t = 1, where sigma is
    # -log of a small difference, float32 gives 6.907768 and float64 6.907755.
    @property
    def sigma_min(self) -> float:
        """sigma(0) + epsilon: zero noise would have no importance."""
        return float(self.sigma(torch.tensor(0.0)) + self.epsilon)

    @property
    def sigma_max(self) -> float:
        """sigma(1)."""
        return float(self.sigma(torch.tensor(1.0)))

    def importance_sampling_t(self, u: Tensor) -> Tensor:
        """Times whose density is that of the bound's weight, from u uniform in [0, 1].

        The density is 1/t, so the logarithm of the move chance is uniform between its ends at `sigma_min` and
        `sigma_max`; the time is where the move chance is what came out.
        """
        least, most = (math.log(-math.expm1(-sigma)) for sigma in (self.sigma_min, self.sigma_max))
        return torch.exp(least + u * (most - least)) / (1 - self.epsilon)


@dataclass(frozen=True)
class Cosine(ShapedMasking):
    """f = 1 - cos(pi t / 2)."""

    def fraction(self, t: Tensor) -> Tensor:
        # The same as the docstring's, without the cancellation near t = 0.
        return 2 * torch.sin(HALF_PI / 2 * t) ** 2

    def dfraction(self, t: Tensor) -> Tensor:
        return HALF_PI * torch.sin(HALF_PI * t)


@dataclass(frozen=True)
class CosineSquared(ShapedMasking):
    """f = 1 - cos(pi t / 2)^2."""

    def fraction(self, t: Tensor) -> Tensor:
        return torch.sin(HALF_PI * t) ** 2

    def dfraction(self, t: Tensor) -> Tensor:
        return HALF_PI * torch.sin(math.pi * t)


SCHEDULES: dict[str, type[NoiseSchedule]] = {
    "loglinear": LogLinear,
    "geometric": Geometric,
    "cosine": Cosine,
    "cosinesqr": CosineSquared,
    "linear": Linear,
}


def noise_schedule(name: str, **parameters: float) -> NoiseSchedule:
    """The schedule of MDLM or SEDD called `name`; raises InputError for an unknown name, parameter or a bad value.

    loglinear, cosine and cosinesqr take `epsilon`, geometric and linear `sigma_min` and `sigma_max`. (MDLM's and
    SEDD's configs carry sigma_min and sigma_max for loglinear too; it has no use for them.)
    """
    if name not in SCHEDULES:
        raise InputError(f"noise schedule: {name!r} is not known; choose one of {', '.join(SCHEDULES)}")
    kind = SCHEDULES[name]
    known = [field.name for field in fields(kind)]
    for parameter in parameters:
        if parameter not in known:
            raise InputError(f"noise schedule {name}: no parameter {parameter!r}; it has {', '.join(known)}")
    return kind(**parameters)


@dataclass(frozen=True)
class BlockNoise:
    """A masking schedule of BD3LM (Arriola et al. 2025, "Block Diffusion", on noise schedules): functions of t.

    `move_chance` is m(t), `dmove_chance` its derivative; `offset` is added to m where the bound divides by it.
    """

    name: str
    move_chance: Callable[[Tensor], Tensor]
    dmove_chance: Callable[[Tensor], Tensor]
    offset: float = 0.0

    def loss_scaling(self, t: Tensor) -> Tensor:
        """Factor of log p of a masked token in the bound: -m' / m, so -1/t for loglinear. Minus infinity at m = 0."""
        return -self.dmove_chance(t) / (self.move_chance(t) + self.offset)

    def nelbo_weight(self, t: Tensor) -> Tensor:
        """Weight of -log p, positive, as the other schedules have it."""
        return -self.loss_scaling(t)


_LEAST = 1e-3

# As BD3LM's code has them, which is not always a curve with its own derivative: the powers of t are kept at or above
# 0.001 but keep the plain power's derivative, and the cosine is divided by m + 0.001 though m itself starts at 0.001.
BLOCK_NOISE: dict[str, BlockNoise] = {
    noise.name: noise
    for noise in (
        BlockNoise("loglinear", lambda t: t, torch.ones_like),
        BlockNoise("square", lambda t: (t**2).clamp(min=_LEAST), lambda t: 2 * t),
        BlockNoise("square_root", lambda t: (t**0.5).clamp(min=_LEAST), lambda t: 0.5 * t**-0.5),
        BlockNoise("log", lambda t: torch.log1p(t) / math.log(2), lambda t: 1 / ((1 + t) * math.log(2))),
        BlockNoise(
            "cosine",
            lambda t: 1 - (1 - _LEAST) * torch.cos(HALF_PI * t),
            lambda t: (1 - _LEAST) * HALF_PI * torch.sin(HALF_PI * t),
            _LEAST,
        ),
    )
}


def block_noise(name: str) -> BlockNoise:
    """The schedule of BD3LM called `name`; raises InputError for an unknown name."""
    if name not in BLOCK_NOISE:
        raise InputError(f"block noise schedule: {name!r} is not known; choose one of {', '.join(BLOCK_NOISE)}")
    return BLOCK_NOISE[name]


def time_grid(steps: int, epsilon: float = 1e-5) -> Tensor:
    """Times from 1 down to epsilon between which `steps` equal steps lie. [steps + 1] float32.

    float32 because the samplers' grids are: times decide move chances, and in Dream token counts. BD3LM's ancestral
    sampler counts points, not steps: T points from 1 to 0 are time_grid(T - 1, 0).
    """
    if steps < 1:
        raise InputError(f"steps: T={steps} leaves no step; choose T >= 1")
    return torch.linspace(1, epsilon, steps + 1, dtype=torch.float32)


def mask_tokens(x0: Tensor, move_chance: Tensor, uniforms: Tensor, mask_id: int) -> Tensor:
    """Tokens after absorbing noise: the mask wherever uniforms < move_chance (Sahoo et al. 2024, section 3.2.1).

    x0: [B, L] clean ids; move_chance: [] or [B], or [B, L] for a time per token (BD3LM); uniforms: [B, L] in [0, 1).
    Returns [B, L].
    """
    return torch.where(uniforms < align(move_chance, x0), mask_id, x0)


def replace_tokens(x0: Tensor, move_chance: Tensor, uniforms: Tensor, replacements: Tensor) -> Tensor:
    """Tokens after uniform noise: the replacement wherever uniforms < move_chance (Lou et al. 2024, section 3).

    replacements: [B, L] ids drawn uniformly from the whole vocabulary, so a token that is hit may stay what it was;
    the rest as in `mask_tokens`.
    """
    return torch.where(uniforms < align(move_chance, x0), replacements, x0)


def align(values: Tensor, like: Tensor) -> Tensor:
    """`values` ([], [B] or [B, L]) with axes of length 1 added behind, to broadcast against the first of `like`."""
    return values.reshape(values.shape + (1,) * (like.dim() - values.dim()))
