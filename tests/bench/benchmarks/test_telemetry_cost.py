"""What reading the counters costs a cell that runs meanwhile, at the rate of timed samples and at that of replays.

The reader is a process of its own that is stopped and woken by signals. It reads a fake NVML, so that this runs
anywhere: what is measured is a second process that wakes several times a second, on the processors and in their caches.
A driver's own time to answer comes on top, on a processor that the cell does not use.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import torch

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

    def generated(reader: TelemetryProcess | None) -> None:
        """One generation, some of the reader's periods long."""
        if reader is not None:
            os.kill(reader.pid, signal.SIGCONT)
        recorder.start()
        generator.generate(request, recorder)
        recorder.stop()
        if reader is not None:
            os.kill(reader.pid, signal.SIGSTOP)

    with ExitStack() as ending:
        readers = {}
        for name in ("as timed", "as replayed"):
            readers[name] = TelemetryProcess.start(uuid=None, nvml="fake_nvml:steady")
            ending.callback(readers[name].close)
        ending.enter_context(readers["as replayed"].closely())
        for reader in readers.values():
            ending.callback(os.kill, reader.pid, signal.SIGCONT)
            os.kill(reader.pid, signal.SIGSTOP)
        before = {name: _cpu_s(reader) for name, reader in readers.items()}
        variants = {"alone": lambda: generated(None)}
        variants |= {name: lambda reader=reader: generated(reader) for name, reader in readers.items()}
        taken = interleave(variants, rounds=120)
        used = {name: _cpu_s(reader) - before[name] for name, reader in readers.items()}

    for name in readers:
        where = f"telemetry {name}, AR small, {length} tokens"
        share = used[name] / sum(taken.times[name])
        tell(f"{where}: reader's share of a core", quartiles([share] * 3), "%")
        pairs = zip(taken.times[name], taken.times["alone"], strict=True)
        tell(
            f"{where}: watched / alone − 1", quartiles(watched / alone - 1 for watched, alone in pairs), "%", "≤ 0.5 %"
        )


def _cpu_s(reader: TelemetryProcess) -> float:
    return sum(psutil.Process(reader.pid).cpu_times()[:2])
