"""A recorded Gumbel race of block diffusion, replayed: every uniform and every choice of a position, in their order."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import InputError
from ...models.draws import RaceDraws
from .race import recorded_uniforms


class BlockRace:
    """`Draws` for one row from recorded `uniforms` [D, 1, size, V], block after block; keeps what they lead to.

    A sampler draws at open positions alone, the recording at all: the weights of the others follow from the token that
    they hold. `first` are the ids [size] that the first block starts with. With `choices` [D] a draw keeps the token at
    one open position, the one of that number; with `stays`, a probability for each step of a block, it keeps all, and
    the mask is drawn with that probability.
    """

    whole = True

    def __init__(
        self, uniforms: Tensor, first: Tensor, mask_id: int, *, choices: Tensor | None, stays: list[float] | None
    ) -> None:
        self.uniforms, self.mask_id, self.choices, self.stays = list(uniforms), mask_id, choices, stays
        self.ids = first.clone()
        self.step = 0
        self.chosen = 0
        self.weights: list[Tensor] = []
        self.draws: list[Tensor] = []

    def tokens(self, weights: Tensor, where: Tensor, window: tuple[int, int]) -> Tensor:
        draw = len(self.draws)
        shape = (*window, weights.shape[1])
        uniforms = recorded_uniforms(self.uniforms, draw, shape)
        if not bool((self.ids == self.mask_id).any()):
            self.ids, self.step = torch.full_like(self.ids, self.mask_id), 0
        opened = (self.ids == self.mask_id).nonzero()[:, 0]
        if not torch.equal(opened, where):
            raise InputError(f"draw {draw} is at {where.tolist()}, but open are {opened.tolist()}")
        full = self._closed(shape[2])
        full[where] = weights
        race = RaceDraws(lambda _: uniforms)
        drawn = race.tokens(full, torch.arange(shape[1]), window)
        kept = opened if self.choices is None else opened[int(self.choices[draw]) :][:1]
        self.ids[kept] = drawn[kept]
        self.weights.append(full)
        self.draws.append(drawn)
        self.step += 1
        return drawn[where]

    def uniform(self, rows: int, columns: int) -> Tensor:
        raise InputError(f"uniforms [{rows}, {columns}] are not recorded")

    def positions(self, weights: Tensor, count: int) -> Tensor:
        """The recorded choice [1, 1] among the open positions of the draw just made."""
        if self.choices is None or (weights.shape[0], count, self.chosen) != (1, 1, len(self.draws) - 1):
            raise InputError(f"a choice of {count} among {list(weights.shape)} positions is not recorded")
        choice = int(self.choices[self.chosen])
        if not 0 <= choice < weights.shape[1]:
            raise InputError(f"choice {self.chosen} is open position {choice}, but {weights.shape[1]} are open")
        self.chosen += 1
        return torch.tensor([[choice]])

    @property
    def unused(self) -> int:
        """Recorded draws and choices that the sampler did not ask for."""
        choices = 0 if self.choices is None else len(self.choices) - self.chosen
        return len(self.uniforms) - len(self.draws) + choices

    def _closed(self, vocabulary: int) -> Tensor:
        """Weights [size, V] of positions that hold their token: all on it, but what the mask gets."""
        full = torch.zeros(self.ids.shape[0], vocabulary, dtype=torch.float64).scatter_(1, self.ids[:, None], 1.0)
        if self.stays is None:
            return full
        if self.step == len(self.stays):
            raise InputError(f"a block takes more than its {self.step} steps")
        full *= 1 - self.stays[self.step]
        full[:, self.mask_id] = self.stays[self.step]
        return full
