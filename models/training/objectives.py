"""The four losses. Each gives every row's nats: what it costs to say the row, or a bound on that.

    ar               -log p(row), exact; a row follows an EOS, as generation from nothing does
    mdlm             the bound of SUBS: -1/t log p(x0) at hidden positions (Sahoo et al. 2024, section 3.4)
    sedd             the bound of score entropy on the absorbing graph (Lou et al. 2024, section 3)
    block-diffusion  the bound of every block given the clean ones before it (Arriola et al. 2025, section 3)

Tokens are hidden with chance t at time t. MDLM's and SEDD's loglinear schedule has 0.999 t; the difference is of the
parametrisation of time, and with t the bounds hold as they stand, with no rest term at t = 1. Vocabulary logits are
computed for the positions that enter the loss only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..block_diffusion import training_mask
from ..network import Network
from ..noise import LogLinear
from ..parameterisations import IMPOSSIBLE
from .masking import Hidden, hide_by_count, hide_by_time
from .shapes import Model, Vocabulary


@dataclass(frozen=True, slots=True)
class Cost:
    """`nats` [B] of each row, and how many `tokens` they are for."""

    nats: Tensor
    tokens: int

    @property
    def per_token(self) -> Tensor:
        """Mean nats per token, a scalar to minimise."""
        return self.nats.sum() / self.tokens


class Objective(Protocol):
    """A loss. `exact`: the held-out nats have no Monte Carlo error."""

    @property
    def exact(self) -> bool: ...

    def training(self, network: Network, ids: Tensor, random: torch.Generator) -> Cost:
        """What a step minimises on ids [B, S]."""

    def held_out(self, network: Network, ids: Tensor, random: torch.Generator) -> Cost:
        """An unbiased estimate of all rows' nats, of less variance where there is one."""


@dataclass(frozen=True, slots=True)
class NextToken:
    """Autoregression. Every other row of a batch is trained without the EOS before it: a prompt comes without, too."""

    eos_id: int
    exact: bool = True

    def training(self, network: Network, ids: Tensor, random: torch.Generator) -> Cost:
        inputs = _after(self.eos_id, ids)
        inputs[1::2] = ids[1::2]
        targets = ids.clone()
        targets[1::2] = F.pad(ids[1::2, 1:], (0, 1), value=-100)  # cross_entropy leaves -100 out
        return self._cost(network, inputs, targets)

    def held_out(self, network: Network, ids: Tensor, random: torch.Generator) -> Cost:
        return self._cost(network, _after(self.eos_id, ids), ids)

    def _cost(self, network: Network, inputs: Tensor, targets: Tensor) -> Cost:
        hidden = network.trunk(inputs, mask="causal")
        logits = F.linear(hidden.flatten(0, 1), network.head.weight)
        nats = F.cross_entropy(logits, targets.flatten(), reduction="none").view_as(targets)
        return Cost(nats.sum(dim=1), int((targets >= 0).sum()))


@dataclass(frozen=True, slots=True)
class Masked:
    """MDLM on a network that does not see the time: the clean tokens at hidden positions, all seen at once."""

    mask_id: int
    exact: bool = False

    def training(self, network: Network, ids: Tensor, random: torch.Generator) -> Cost:
        return self._cost(network, ids, hide_by_time(ids.shape[0], ids.shape[1], random))

    def held_out(self, network: Network, ids: Tensor, random: torch.Generator) -> Cost:
        return self._cost(network, ids, hide_by_count(ids.shape[0], ids.shape[1], ids.shape[1], random))

    def _cost(self, network: Network, ids: Tensor, hidden: Hidden) -> Cost:
        states = network.trunk(hidden.noisy(ids, self.mask_id), mask="bidirectional")
        return _subs(network, states, ids, hidden, self.mask_id)


@dataclass(frozen=True, slots=True)
class BlockMasked:
    """Block diffusion: noisy blocks and the clean text behind them in one forward (see `training_mask`)."""

    mask_id: int
    block_size: int
    exact: bool = False

    def training(self, network: Network, ids: Tensor, random: torch.Generator) -> Cost:
        rows, length = ids.shape
        hidden = hide_by_count(rows, length, self.block_size, random)
        both = torch.cat((hidden.noisy(ids, self.mask_id), ids), dim=1)
        mask, positions = training_mask(length, self.block_size), torch.arange(length).repeat(2)
        states = network.trunk(both, mask=mask, positions=positions)[:, :length]
        return _subs(network, states, ids, hidden, self.mask_id)

    def held_out(self, network: Network, ids: Tensor, random: torch.Generator) -> Cost:
        return self.training(network, ids, random)


@dataclass(frozen=True, slots=True)
class Scores:
    """SEDD. With the noise's scale taken off, the scores at a hidden position are weights q_y = e^output_y / (V - 1)
    of the clean tokens, of any sum; score entropy times dsigma is then (sum q - log q_x0 - 1) / t there, else 0.

    That is at least -log p / t of the normalised weights, and equal to it where they sum to 1 (`losses.score_entropy`
    is the general form). The network is told sigma of its schedule at t.
    """

    mask_id: int
    exact: bool = False

    def training(self, network: Network, ids: Tensor, random: torch.Generator) -> Cost:
        return self._cost(network, ids, hide_by_time(ids.shape[0], ids.shape[1], random))

    def held_out(self, network: Network, ids: Tensor, random: torch.Generator) -> Cost:
        return self._cost(network, ids, hide_by_count(ids.shape[0], ids.shape[1], ids.shape[1], random))

    def _cost(self, network: Network, ids: Tensor, hidden: Hidden) -> Cost:
        rows, length = ids.shape
        condition = network.conditioning(LogLinear().sigma(hidden.time))
        states = network.trunk(hidden.noisy(ids, self.mask_id), mask="bidirectional", condition=condition)
        tokens = slice(0, self.mask_id)  # the mask, last, has no score at a mask
        bias = None if network.head.bias is None else network.head.bias[tokens]
        chosen = states.flatten(0, 1).index_select(0, hidden.places)
        log_q = F.linear(chosen, network.head.weight[tokens], bias) - math.log(self.mask_id)
        right = log_q.gather(1, ids.flatten()[hidden.places, None])[:, 0]
        nats = log_q.logsumexp(dim=1).exp() - right - 1
        return Cost(hidden.row_sums(nats, rows, length), ids.numel())


def objective(model: Model, vocabulary: Vocabulary, block_size: int) -> Objective:
    """The loss that `model` is trained by."""
    if model == "ar":
        return NextToken(vocabulary.eos_id)
    if model == "mdlm":
        return Masked(vocabulary.mask_id)
    if model == "sedd":
        return Scores(vocabulary.mask_id)
    return BlockMasked(vocabulary.mask_id, block_size)


def _after(eos_id: int, ids: Tensor) -> Tensor:
    """ids [B, S] moved by one, an EOS in front."""
    return F.pad(ids[:, :-1], (1, 0), value=eos_id)


def _subs(network: Network, states: Tensor, ids: Tensor, hidden: Hidden, mask_id: int) -> Cost:
    """Weighted cross-entropy at the hidden places, the mask excluded from what may be there."""
    rows, length = ids.shape
    weight = network.head.weight
    no_mask = weight.new_zeros(weight.shape[0]).index_fill_(0, torch.tensor([mask_id]), IMPOSSIBLE)
    logits = F.linear(states.flatten(0, 1).index_select(0, hidden.places), weight, no_mask)
    nats = F.cross_entropy(logits, ids.flatten()[hidden.places], reduction="none")
    return Cost(hidden.row_sums(nats, rows, length), ids.numel())
