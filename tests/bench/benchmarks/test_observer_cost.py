"""What being watched costs: counted (events times the cost of one) and measured (recorded against not recorded)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from dlmbench.models.autoregressive import Autoregressive
from dlmbench.models.backbone import Backbone
from dlmbench.models.generator import Generator, Request, Settings
from dlmbench.models.masked_diffusion import MaskedDiffusion
from dlmbench.profiles.clocks import HostClock
from dlmbench.profiles.observer import Recorder, unit_cost_s

if TYPE_CHECKING:
    from .interleave import Quartiles, Rounds


class Nobody:
    """An observer that does nothing."""

    _SPAN = nullcontext()

    def forward(self, *announced: object) -> AbstractContextManager[object]:
        return self._SPAN

    def write(self, row_mask: Tensor | None, token_ids: Tensor, step: int, **_: object) -> None:
        return None


@pytest.mark.parametrize(
    ("pair", "side", "length", "rounds", "target"),
    [
        ("gpt2-size", "ar", 24, 8, "≤ 0.5 %"),
        ("gpt2-size", "diffusion", 64, 12, "≤ 0.5 %"),
        ("small", "ar", 64, 80, "≤ 2 %"),
        ("small", "diffusion", 64, 80, "≤ 2 %"),
    ],
    ids=["gpt2-size-ar", "gpt2-size-diffusion", "small-ar", "small-diffusion"],
)
def test_observer_cost(
    pair: str,
    side: str,
    length: int,
    rounds: int,
    target: str,
    network: Callable[[str], Backbone],
    interleave: Callable[..., Rounds],
    quartiles: Callable[..., Quartiles],
    tell: Callable[..., None],
) -> None:
    backbone = network(pair)
    generator: Generator
    if side == "ar":
        # The faster engine: a share is largest where everything else is small.
        generator, settings = Autoregressive(backbone, engine="compile"), Settings()
    else:
        generator, settings = MaskedDiffusion(backbone), Settings(steps=2)
    ids = torch.randint(backbone.config.vocab_size - 2, (1, 16), generator=torch.Generator().manual_seed(1))
    request = Request(ids, length, settings, 0)
    generator.prepare(request.shape, request.settings)
    recorder = Recorder(HostClock())

    def recorded() -> Tensor:
        recorder.start()
        tokens = generator.generate(request, recorder)
        recorder.stop()
        return tokens

    def unrecorded() -> Tensor:
        return generator.generate(request, Nobody())

    assert recorded().tolist() == unrecorded().tolist()
    events = recorder.trace().events
    taken = interleave({"unrecorded": unrecorded, "recorded": recorded}, rounds=rounds)

    unit = unit_cost_s(HostClock())
    where = f"{'AR' if side == 'ar' else side} {pair}, {length} tokens"
    counted = quartiles(events * unit / seconds for seconds in taken.times["recorded"])
    tell(f"observer, {where}: events × unit cost", counted, "%", target)
    pairs = zip(taken.times["recorded"], taken.times["unrecorded"], strict=True)
    measured = quartiles(seen / unseen - 1 for seen, unseen in pairs)
    tell(f"observer, {where}: recorded / unrecorded − 1", measured, "%", target)
