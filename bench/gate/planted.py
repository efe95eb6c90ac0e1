"""A slowdown of known size: a built-in generator that busy-waits for a share of its own time after each generation.

It is a plug-in like a user's (`dlmbench.bench.gate.planted:ar`), for `dlmbench doctor --self-test`, the study and
demonstrations. The share comes from the environment of the worker, so that both sides of a gate measure the same cell
under the same name, and only one of them is slower.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...models.catalog import Context, build
from ...models.generator import Costed, Generator, Observer, Promising, Request, Settings, Shape, Side
from ...models.names import AR, MASKED_DIFFUSION

SLOWDOWN = "DLMBENCH_PLANTED_SLOWDOWN"
WHERE = "DLMBENCH_PLANTED_IN"
"""The one generator that gets it, by its built-in name; all where this is not set."""
PLANTED = {AR: f"{__name__}:ar", MASKED_DIFFUSION: f"{__name__}:masked_diffusion"}
"""The names under which a suite takes the generators of this file, by those that they wrap."""


@dataclass(frozen=True, slots=True)
class Planted:
    """What is planted at head: a share of a generation's time (0.05: 5 %), in one built-in generator; 0.0 in none."""

    slowdown: float = 0.0
    where: str | None = None

    @property
    def variables(self) -> dict[str, str]:
        """The environment of head's workers."""
        return {} if self.where is None else {SLOWDOWN: str(self.slowdown), WHERE: self.where}

    def is_in(self, key: str) -> bool:
        """Whether the cell of this key is the slower one."""
        return self.where is not None and f"/{PLANTED[self.where]}/" in key


class Slowed:
    """`inner`, slower by `share` of the time of each generation.

    The wait spins: a sleeping process would let the clock drop and wake up late.
    """

    def __init__(self, inner: Generator, share: float) -> None:
        self._inner, self._share = inner, share
        self.side: Side = inner.side

    def prepare(self, shape: Shape, settings: Settings) -> None:
        self._inner.prepare(shape, settings)

    def generate(self, request: Request, observer: Observer) -> Tensor:
        begin = time.perf_counter()
        tokens = self._inner.generate(request, observer)
        if self._share:
            if tokens.is_cuda:
                torch.cuda.synchronize()
            spent = time.perf_counter() - begin
            end = time.perf_counter() + self._share * spent
            while time.perf_counter() < end:
                pass
        return tokens

    def forward_cost(self, *announced: Any) -> Any:
        assert isinstance(self._inner, Costed)
        return self._inner.forward_cost(*announced)

    def promised_nfe(self, shape: Shape, settings: Settings) -> int | None:
        """As of the inner generator."""
        return self._inner.promised_nfe(shape, settings) if isinstance(self._inner, Promising) else None


def ar(context: Context) -> Slowed:
    """The AR generator, slowed."""
    return _slowed(AR, context)


def masked_diffusion(context: Context) -> Slowed:
    """LLaDA's sampler, slowed."""
    return _slowed(MASKED_DIFFUSION, context)


# A factory's side is known before it is called.
ar.side = "ar"  # type: ignore[attr-defined]
masked_diffusion.side = "diffusion"  # type: ignore[attr-defined]


def _slowed(name: str, context: Context) -> Slowed:
    share = float(os.environ.get(SLOWDOWN, "0")) if os.environ.get(WHERE, name) == name else 0.0
    return Slowed(build(name, context), share)
