"""A generation of Dream's under way: a canvas, the forwards over it or a part of it, and what they predict.

Places are flat: row * S + column of the canvas [B, S]. Logits are computed at the places asked for and no others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .confidence import Measure, predict
from .draws import Draws
from .dream_plan import measure_of
from .generator import Observer, Phase, Request, Settings
from .network import Network


@dataclass(frozen=True, slots=True)
class Forward:
    """A forward that feeds the columns begin … end: `run` takes the whole canvas [B, S] to their hidden states."""

    run: Callable[[Tensor], Tensor]
    phase: Phase
    begin: int
    end: int


@dataclass(slots=True)
class Denoising:
    """A generation under way. The canvas `ids` [B, S] holds the prompt in its first `start` columns.

    `step` counts steps, those left out included. `listen`, if given, hears of the forward, the places and their logits.
    """

    network: Network
    ids: Tensor
    start: int
    mask_id: int
    settings: Settings
    draws: Draws
    observer: Observer
    measure: Measure | None
    listen: Callable[[Forward, Tensor, Tensor], None] | None = None
    step: int = 0

    def predict(self, forward: Forward, places: Tensor, *, ranked: bool = True) -> tuple[Tensor, Tensor | None]:
        """One forward: ids [n] for `places` [n] and, if `ranked`, their confidences [n]."""
        rows, width = self.ids.shape
        # Row i of Dream's logits predicts token i + 1. The first row fed predicts the first token, too.
        shift = int(getattr(self.network.config, "shifted_logits", False))
        fed = forward.end - forward.begin
        source = places // width * fed + (places % width - forward.begin - shift).clamp_(min=0)
        with self.observer.forward("target", forward.phase, rows, fed, width, len(places), "bidirectional"):
            hidden = forward.run(self.ids)
            logits = self.network.logits(hidden.flatten(0, 1)[source])
        if self.listen is not None:
            self.listen(forward, places, logits)
        suppress = self.mask_id if self.settings.suppress_mask else None
        measure = self.measure if ranked else None
        return predict(logits, self.settings, self.draws, places, (rows, width), measure=measure, suppress=suppress)

    def write(self, places: Tensor, ids: Tensor, chosen: Tensor) -> None:
        """Put `ids` where `chosen`, all [n]; no place occurs twice."""
        flat = self.ids.view(-1)
        flat[places] = torch.where(chosen, ids, flat[places])

    def announce(self, before: Tensor, begin: int, end: int) -> None:
        """Tell the observer which masks of `before` [B, S] are tokens now, in the columns begin … end."""
        ids = self.ids[:, begin:end].clone()
        committed = (before[:, begin:end] == self.mask_id) & (ids != self.mask_id)
        self.observer.write(committed, ids, self.step, offset=begin - self.start)

    def masked(self, begin: int, end: int) -> Tensor:
        """Places still masked between two columns, in row-major order [n]. The host waits for their number."""
        row, column = (self.ids[:, begin:end] == self.mask_id).nonzero(as_tuple=True)
        return row * self.ids.shape[1] + column + begin

    def spread(self, forward: Forward, places: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """`values` [n] of `places` over the fed columns [B, q], -inf elsewhere; and where each lies in it, flat [n]."""
        rows, width = self.ids.shape
        fed = forward.end - forward.begin
        at = places // width * fed + places % width - forward.begin
        spread = values.new_full((rows * fed,), -torch.inf)
        spread[at] = values
        return spread.view(rows, fed), at


def started(network: Network, mask_id: int, request: Request, observer: Observer) -> Denoising:
    """The request's prompts, followed by masks."""
    prompt, settings = request.prompt_ids, request.settings
    ids = torch.cat((prompt, prompt.new_full((prompt.shape[0], request.length), mask_id)), dim=1)
    measure = measure_of(settings)
    return Denoising(network, ids, prompt.shape[1], mask_id, settings, request.drawing(), observer, measure)
