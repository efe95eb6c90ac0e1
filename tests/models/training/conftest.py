"""Tiny trainings, and networks whose predictions are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from dlmbench.models.network import Network
from dlmbench.models.training.loop import Training
from dlmbench.models.training.objectives import objective
from dlmbench.models.training.recipe import Recipe
from dlmbench.models.training.shapes import Model, Size, Vocabulary, initial_network, network_config

SIZE = Size(hidden=32, layers=2)
VOCABULARY = Vocabulary(size=12, eos_id=9, mask_id=10)
RECIPE = Recipe(steps=6, batch=4, length=8, warmup=2, block_size=4, save_every=2, held_out_rows=4, held_out_passes=3)


@dataclass(frozen=True)
class Drawn:
    """Ids drawn from a generator seeded by the step."""

    rows: int = RECIPE.batch
    length: int = RECIPE.length

    def batches(self, step: int) -> Tensor:
        return torch.randint(9, (self.rows, self.length), generator=torch.Generator().manual_seed(step))

    def held_out(self, rows: int) -> Tensor:
        return torch.randint(9, (rows, self.length), generator=torch.Generator().manual_seed(1 << 40))


@pytest.fixture
def network() -> Callable[[Model], Network]:
    """`network("ar")`: a fresh tiny network of the model's shape, in float64, a DiT's zeros replaced by noise."""

    def make(model: Model) -> Network:
        made = initial_network(network_config(model, SIZE, VOCABULARY, RECIPE.block_size), 3).double()
        random = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.1)
        made.rotary(64)
        return made

    return make


@pytest.fixture
def training() -> Callable[[Model], Training]:
    """`training("ar")`: a tiny training at its beginning."""

    def make(model: Model) -> Training:
        start = initial_network(network_config(model, SIZE, VOCABULARY, RECIPE.block_size), RECIPE.seed)
        return Training(model, start, objective(model, VOCABULARY, RECIPE.block_size), RECIPE, Drawn())

    return make
