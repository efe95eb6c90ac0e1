"""What reading the counters costs a cell that runs meanwhile: the process that reads them at its full rate, or stopped.

It reads a fake NVML, so that this runs anywhere: what is measured is a second process that wakes 20 times a second, on
the processor and in its caches. A driver's own time to answer comes on top, on a processor that the cell does not use.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import torch
from torch import Tensor

from dlmbench.models.autoregressive import Autoregressive
from dlmbench.models.backbone import Backbone
from dlmbench.models.generator import Request, Settings
from dlmbench.profiles.clocks import HostClock
from dlmbench.profiles.observer import Recorder
from dlmbench.profiles.telemetry_client import TelemetryProcess

if TYPE_CHECKING:
    from .interleave import Quartiles, Rounds


def test_telemetry_cost(
    network: Callable[[str], Backbone],
    interleave: Callable[..., Rounds],
    quartiles: Callable[..., Quartiles],
    tell: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = network("small")
    generator, settings, length = Autoregressive(backbone, engine="compile"), Settings(), 224
    ids = torch.randint(backbone.config.vocab_size - 2, (1, 16), generator=torch.Generator().manual_seed(1))
    request = Request(ids, length, settings, 0)
    generator.prepare(request.shape, request.settings)
    recorder = Recorder(HostClock())

    fakes = Path(__file__).parents[2] / "profiles"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(fakes), os.environ.get("PYTHONPATH")))))
    process = TelemetryProcess.start(uuid=None, nvml="fake_nvml:steady")

    def generated(state: signal.Signals) -> Tensor:
        """One generation: some periods of the reader's, which would meet a shorter one by chance."""
        os.kill(process.pid, state)
        recorder.start()
        tokens = generator.generate(request, recorder)
        recorder.stop()
        return tokens

    try:
        with process.closely():
            before = sum(psutil.Process(process.pid).cpu_times()[:2])
            taken = interleave(
                {"alone": lambda: generated(signal.SIGSTOP), "watched": lambda: generated(signal.SIGCONT)}, rounds=150
            )
            used = sum(psutil.Process(process.pid).cpu_times()[:2]) - before
            os.kill(process.pid, signal.SIGCONT)
    finally:
        process.close()
    where = f"telemetry, AR small, {length} tokens"
    share = used / sum(taken.times["watched"])
    tell(f"{where}: reader's share of a processor", quartiles([share] * 3), "%")
    pairs = zip(taken.times["watched"], taken.times["alone"], strict=True)
    measured = quartiles(watched / alone - 1 for watched, alone in pairs)
    tell(f"{where}: watched / alone − 1", measured, "%", "≤ 0.5 %")
