"""Where a token may jump: SEDD's two noise processes, and their reversal by scores.

Forward in time, tokens jump independently at the rates of a matrix Q. On the *absorbing* graph every token turns into
the mask, at rate 1, and stays; on the *uniform* graph it turns into any of the N tokens, at rate 1/N each. Noise sigma
is the time these rates have acted for. Backward, jumps from x to y have the forward rate of y to x times the score
p_t(y) / p_t(x) (Lou et al. 2024, "Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution",
section 3 for the graphs, section 4.1 for the samplers).

Shapes: tokens [B, L] ids; score [B, L, N], 1 for a position's own token; noise and its changes [], [B] or [B, L].
What a sampler draws from is [B, L, N], in proportion: rows need not sum to 1, and Euler's may hold negatives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import InputError
from .noise import align


@dataclass(frozen=True)
class Graph(ABC):
    """A noise process on `dim` tokens, and samplers' steps on it. `mask_id` is None where no token is the mask."""

    dim: int

    @property
    @abstractmethod
    def mask_id(self) -> int | None:
        """The id that noise leads to, if it leads to one."""

    @abstractmethod
    def transposed_rate(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """Forward rates of y -> x for every y, x the given tokens; 0 for y = x. [B, L, N] of `dtype`."""

    @abstractmethod
    def transition(self, tokens: Tensor, sigma: Tensor) -> Tensor:
        """Probability that noise sigma leads from x to y for every y, x the given tokens. [B, L, N], rows sum to 1."""

    @abstractmethod
    def transposed_transition(self, tokens: Tensor, sigma: Tensor) -> Tensor:
        """Probability that noise sigma leads from y to x for every y, x the given tokens. [B, L, N]."""

    @abstractmethod
    def staggered_score(self, score: Tensor, dsigma: Tensor) -> Tensor:
        """p(y) with dsigma less noise over p(x) with all of it: exp(-dsigma Q) applied to the score. [B, L, N]."""

    def true_score(self, tokens: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
        """The score where the clean token is known: p(y | x0) / p(x | x0) at noise sigma > 0. [B, L, N].

        NaN where the token x cannot come from x0.
        """
        probabilities = self.transition(x0, sigma)
        return probabilities / probabilities.gather(-1, tokens[..., None])

    def reverse_rate(self, tokens: Tensor, score: Tensor) -> Tensor:
        """Rates of the reversed jumps x -> y, and minus their sum for y = x. [B, L, N]."""
        rates = self.transposed_rate(tokens, score.dtype) * score
        return rates.scatter(-1, tokens[..., None], -rates.sum(dim=-1, keepdim=True))

    def analytic_probs(self, tokens: Tensor, score: Tensor, dsigma: Tensor) -> Tensor:
        """Weights of the tokens with dsigma less noise: Tweedie tau-leaping (Lou et al. 2024, section 4.1). With the
        true score of a position these are exactly its reversed probabilities. [B, L, N]."""
        return self.staggered_score(score, dsigma) * self.transposed_transition(tokens, dsigma)

    def euler_probs(self, tokens: Tensor, score: Tensor, dsigma: Tensor) -> Tensor:
        """Weights after an Euler step: one-hot + dsigma times the reverse rate, dsigma = step size times the noise's
        time derivative (Lou et al. 2024, section 4.1). Long steps make weights negative. [B, L, N]."""
        rates = self.reverse_rate(tokens, score)
        return F.one_hot(tokens, self.dim) + align(dsigma, score) * rates

    def denoiser_probs(self, tokens: Tensor, score: Tensor, sigma: Tensor) -> Tensor:
        """Weights of the clean tokens: the analytic step over all remaining noise sigma, without the mask. It is the
        last id, so the other ids keep their places. [B, L, N - 1], or [B, L, N] where there is no mask."""
        weights = self.analytic_probs(tokens, score, sigma)
        return weights if self.mask_id is None else weights[..., : self.mask_id]


class AbsorbingGraph(Graph):
    """Every token turns into the mask, which is the last of the `dim` ids."""

    @property
    def mask_id(self) -> int:
        return self.dim - 1

    def transposed_rate(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        rates = torch.zeros(*tokens.shape, self.dim, dtype=dtype, device=tokens.device)
        rates[..., : self.mask_id] = (tokens == self.mask_id)[..., None]
        return rates

    def transition(self, tokens: Tensor, sigma: Tensor) -> Tensor:
        sigma = align(sigma, tokens)[..., None]
        probabilities = (-sigma).exp() * F.one_hot(tokens, self.dim)
        probabilities[..., self.mask_id] -= torch.expm1(-sigma)[..., 0]
        return probabilities

    def transposed_transition(self, tokens: Tensor, sigma: Tensor) -> Tensor:
        sigma = align(sigma, tokens)[..., None]
        masked = (tokens == self.mask_id)[..., None]
        return (-sigma).exp() * F.one_hot(tokens, self.dim) - torch.expm1(-sigma) * masked

    def staggered_score(self, score: Tensor, dsigma: Tensor) -> Tensor:
        # What was hit in between is again what it was: others grow by e^dsigma at the expense of the mask.
        growth = align(dsigma, score)
        staggered = growth.exp() * score
        staggered[..., self.mask_id] -= (torch.expm1(growth) * score.sum(dim=-1, keepdim=True))[..., 0]
        return staggered


class UniformGraph(Graph):
    """Every token turns into any of the `dim` tokens, itself included. Q is symmetric: transposing changes nothing."""

    @property
    def mask_id(self) -> None:
        return None

    def transposed_rate(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        return (1 - F.one_hot(tokens, self.dim)).to(dtype) / self.dim

    def transition(self, tokens: Tensor, sigma: Tensor) -> Tensor:
        sigma = align(sigma, tokens)[..., None]
        return (-sigma).exp() * F.one_hot(tokens, self.dim) - torch.expm1(-sigma) / self.dim

    def transposed_transition(self, tokens: Tensor, sigma: Tensor) -> Tensor:
        return self.transition(tokens, sigma)

    def staggered_score(self, score: Tensor, dsigma: Tensor) -> Tensor:
        growth = align(dsigma, score)
        return growth.exp() * score - torch.expm1(growth) / self.dim * score.sum(dim=-1, keepdim=True)


GRAPHS: dict[str, type[Graph]] = {"absorb": AbsorbingGraph, "uniform": UniformGraph}


def graph(name: str, dim: int) -> Graph:
    """The graph that SEDD's configs call `name`, on `dim` ids (the mask included); InputError for an unknown name."""
    if name not in GRAPHS:
        raise InputError(f"graph: {name!r} is not known; choose one of {', '.join(GRAPHS)}")
    return GRAPHS[name](dim)
