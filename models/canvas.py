"""A canvas of the continuous-time samplers, MDLM's and SEDD's: given ids, then new positions that it is denoised at.

Places are flat, row * width + column, among the new positions alone; the given ids before them never change. Logits
are computed at the places asked for, so that a sampler pays the vocabulary head only where it draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .dit_config import DiTConfig
from .engines import Denoiser
from .generator import Observer
from .network import Network
from .noise import NoiseSchedule, noise_schedule

# Conditionings made at a time: one small matrix product for many steps, a few megabytes.
_AHEAD = 64


@dataclass(frozen=True, slots=True)
class Canvas:
    """`ids` [B, S] on the device, of which the first `given` are context; its new ones are output columns `offset`….

    `denoise` runs the network on [B, S] (see `engines.denoiser`).
    """

    network: Network
    denoise: Denoiser
    observer: Observer
    ids: Tensor
    given: int
    offset: int

    @property
    def window(self) -> tuple[int, int]:
        """Rows and new positions of each."""
        return self.ids.shape[0], self.ids.shape[1] - self.given

    @property
    def new(self) -> Tensor:
        """The new positions' ids [B, n], a view."""
        return self.ids[:, self.given :]

    def places(self, token: int | None) -> Tensor:
        """Where the new positions hold `token`, [n]; None: all. How many hold it is the data's: the host waits."""
        if token is None:
            return torch.arange(self.new.numel(), device=self.ids.device)
        return (self.new == token).flatten().nonzero()[:, 0]

    def logits(self, where: Tensor, condition: Tensor | None) -> Tensor:
        """One announced forward; logits [n, V] of what belongs at the places `where` [n], in the network's dtype."""
        rows, size = self.ids.shape
        count = where.shape[0]
        with self.observer.forward("target", "denoise", rows, size, size, count, "bidirectional"):
            hidden = self.denoise(self.ids) if condition is None else self.denoise(self.ids, condition)
            if not count:
                return hidden.new_empty(0, self.network.config.vocab_size)
            index = self._index(where)
            if getattr(self.network.config, "shifted_logits", False):
                # Each row's first position has none before it and is predicted from itself.
                index = torch.where(index % size == 0, index, index - 1)
            return self.network.logits(hidden.flatten(0, 1).index_select(0, index))

    def put(
        self, where: Tensor, tokens: Tensor, step: int, *, changed: Tensor | None = None, committed: bool = True
    ) -> None:
        """Write `tokens` [n] at the places `where` [n], and announce those that have `changed` [n] (None: all)."""
        rows, width = self.window
        self.ids.view(-1).index_copy_(0, self._index(where), tokens)
        written = torch.zeros(rows * width, dtype=torch.bool, device=where.device)
        if changed is None:
            written.index_fill_(0, where, True)
        else:
            written.index_copy_(0, where, changed)
        self.observer.write(written.view(rows, width), self.new.clone(), step, offset=self.offset, committed=committed)

    def _index(self, where: Tensor) -> Tensor:
        """Flat places in `ids`: each row has `given` more, so row r's are (r + 1) times as many further."""
        return where + (where.div(self.window[1], rounding_mode="floor") + 1) * self.given


class Conditions:
    """The network's conditioning at each noise level of `sigmas` [n]; constant where it does not look at the level."""

    def __init__(self, network: Network, sigmas: Tensor) -> None:
        self.network = network
        # Moved as a whole: a copy for every chunk would make the host wait for the device.
        self.sigmas = sigmas.to(network.device) if timed(network) else None
        self._made = network.conditioning(None) if self.sigmas is None else None
        self._first = -_AHEAD

    def __getitem__(self, step: int) -> Tensor | None:
        """What the forward at step `step` is given, [1, …]; None for a network without conditioning."""
        if self.sigmas is None:
            return self._made
        if self._made is None or not self._first <= step < self._first + _AHEAD:
            self._first = step
            self._made = self.network.conditioning(self.sigmas[step : step + _AHEAD])
        return None if self._made is None else self._made[step - self._first][None]


def timed(network: Network) -> bool:
    """Whether the network's output depends on the noise level, not on its ids alone."""
    config = network.config
    return isinstance(config, DiTConfig) and config.adaln and config.time_conditioning


def schedule_of(network: Network) -> NoiseSchedule:
    """The noise schedule that the network was trained with: its config's, loglinear for a network that names none."""
    config = network.config
    if not isinstance(config, DiTConfig):
        return noise_schedule("loglinear")
    sized = config.noise in ("geometric", "linear")
    limits = {"sigma_min": config.sigma_min, "sigma_max": config.sigma_max} if sized else {}
    return noise_schedule(config.noise, **limits)
