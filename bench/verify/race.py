"""Recorded Gumbel races, replayed: the uniforms that a published sampler drew, fed to ours in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ... import InputError
from ...models.draws import RaceDraws
from ...models.generator import Request, Settings
from ...models.mdlm import MDLM
from ...models.sedd import SEDD
from .folder import RUNS, Folder
from .runs import generated


class Replay:
    """`Draws` from recorded uniforms, each [B, L, V]; keeps the weights and ids of every draw, at all positions.

    A sampler need not draw where a token is fixed, but the recording has draws there too. Their weights are known:
    `closed` gives, for each draw, those of the position's own token and of the mask. `start` [B, L] are the ids at
    first; `mask_id` None: every position is always drawn.
    """

    whole = True

    def __init__(
        self,
        uniforms: Sequence[Tensor],
        start: Tensor,
        mask_id: int | None,
        closed: Sequence[tuple[float, float]] = (),
        vocabulary: int = 0,
    ) -> None:
        self.uniforms = list(uniforms)
        self.ids = start
        self.mask_id = mask_id
        self.closed = list(closed)
        self.vocabulary = vocabulary
        self.weights: list[Tensor] = []
        self.draws: list[Tensor] = []

    def tokens(self, weights: Tensor, where: Tensor, window: tuple[int, int]) -> Tensor:
        draw = len(self.draws)
        shape = (*window, weights.shape[1])
        uniforms = recorded_uniforms(self.uniforms, draw, shape)
        full = torch.zeros(shape)
        if self.mask_id is not None:
            own, mask = self.closed[draw]
            if self.mask_id < shape[-1]:
                full[..., self.mask_id] = mask
            # Rows that still hold the mask are overwritten below.
            full.scatter_(-1, self.ids.clamp(max=shape[-1] - 1)[..., None], own)
        full.flatten(0, 1)[where] = weights
        race = RaceDraws(lambda _: uniforms)
        drawn = race.tokens(full.flatten(0, 1), torch.arange(self.ids.numel()), window).view(window)
        self.weights.append(full)
        self.draws.append(drawn)
        self.ids = drawn if self.mask_id is None else torch.where(self.ids == self.mask_id, drawn, self.ids)
        return drawn.flatten()[where]

    def uniform(self, rows: int, columns: int) -> Tensor:
        """Uniforms whose place among `vocabulary` equal parts is the recorded start."""
        if (rows, columns) != tuple(self.ids.shape) or self.draws or not self.vocabulary:
            raise InputError(f"uniforms [{rows}, {columns}] are not recorded")
        return (self.ids.double() + 0.5) / self.vocabulary

    def positions(self, weights: Tensor, count: int) -> Tensor:
        raise InputError("no choice of positions is recorded")

    @property
    def unused(self) -> int:
        """Recorded draws that the sampler did not ask for."""
        return len(self.uniforms) - len(self.draws)


def recorded_uniforms(uniforms: Sequence[Tensor], draw: int, shape: tuple[int, ...]) -> Tensor:
    """The uniforms of a draw, which must be recorded for all positions and tokens, [B, L, V]. Raises InputError."""
    if draw == len(uniforms):
        raise InputError(f"the sampler draws more often than the {draw} times that are recorded")
    if uniforms[draw].shape != shape:
        raise InputError(f"draw {draw} needs uniforms {list(shape)}, recorded are {list(uniforms[draw].shape)}")
    return uniforms[draw]


def replay(
    folder: Folder, name: str, run: dict[str, Any], generator: MDLM | SEDD, settings: Settings, draws: Replay
) -> bool:
    """Repeat a run without a prompt: draws, tokens and forwards. False, and a miss, where draws were left over."""
    start, recorded = draws.ids, len(draws.uniforms)
    request = Request(start[:, :0], start.shape[1], settings, run.get("seed", 0), draws=draws)
    tokens, tally = generated(generator, request)
    if draws.unused:
        folder.fail(f"{name}.uniforms", f"{draws.unused} of {recorded} recorded draws were not asked for")
        return False
    folder.exact(f"{name}.draws", torch.stack(draws.draws), file=RUNS)
    folder.exact(f"{name}.x_final", tokens, file=RUNS)
    folder.exact(f"{name}.nfe", tally.nfe, expected=run["nfe"])
    promised = generator.promised_nfe(request.shape, settings)
    if promised is not None:
        folder.exact(f"{name}.nfe, promised", promised, expected=run["nfe"])
    return True
