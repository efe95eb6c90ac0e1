"""The optimiser's steps. Each draws from a generator of its own, seeded by its number: a training that stopped after
any step goes on to the same bits, with no generator's state to keep."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ... import InputError
from ..network import Network
from .data import Batches, seed_of
from .objectives import Objective
from .recipe import Recipe
from .shapes import Model

CURVE_POINTS = 100


@dataclass(frozen=True, slots=True)
class Progress:
    """What is known of a training apart from its weights.

    `curve`: (step, mean training loss since the point before); `pending`: losses since the last point; `seconds`: spent
    training. Losses in nats per token.
    """

    step: int = 0
    curve: tuple[tuple[int, float], ...] = ()
    pending: tuple[float, ...] = ()
    seconds: float = 0.0

    def after(self, loss: float, steps: int, seconds: float) -> Progress:
        """Progress one step on, of `steps` in all."""
        step, pending, curve = self.step + 1, (*self.pending, loss), self.curve
        if step % max(1, steps // CURVE_POINTS) == 0 or step == steps:
            curve, pending = (*curve, (step, sum(pending) / len(pending))), ()
        return Progress(step, curve, pending, self.seconds + seconds)


@dataclass
class Training:
    """A network in training: `advance` is one step of the optimiser."""

    model: Model
    network: Network
    objective: Objective
    recipe: Recipe
    data: Batches
    progress: Progress = field(default_factory=Progress)
    optimiser: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        recipe = self.recipe
        self.network.rotary(recipe.length)
        matrices = [p for p in self.network.parameters() if p.dim() > 1]
        vectors = [p for p in self.network.parameters() if p.dim() == 1]
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(
            groups, lr=recipe.lr, betas=(recipe.beta1, recipe.beta2), weight_decay=recipe.weight_decay, fused=True
        )

    @property
    def finished(self) -> bool:
        return self.progress.step >= self.recipe.steps

    def advance(self) -> float:
        """Train one step; the batch's loss in nats per token. The caller says how long it took (see `Progress.after`).

        Raises InputError where the loss is no longer a number: what was saved before is left as it is.
        """
        step, recipe = self.progress.step, self.recipe
        random = torch.Generator().manual_seed(seed_of(recipe.seed, self.model, step))
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.lr_at(step)
        self.optimiser.zero_grad(set_to_none=True)
        mean = self.objective.training(self.network, self.data.batches(step), random).per_token
        mean.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip)
        loss = mean.item()
        if not math.isfinite(loss):
            raise InputError(
                f"{self.model}: the loss is {loss} at step {step + 1}, expected a number; "
                f"train again with --lr below {recipe.lr:g}"
            )
        self.optimiser.step()
        return loss
