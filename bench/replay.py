"""Replays of an open cell: once under the torch profiler, then back to back while the device's counters watch.

Nothing here is a timed sample: replays have prompts and seeds of their own, and what they show is kept apart.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from ..models.catalog import NetworkSource
from ..profiles.annotated import Annotated
from ..profiles.hardware import Hardware, KernelProfile, MemorySplit, Stack, Telemetry
from ..profiles.kernels import Profiled, kernel_profile, profiled
from ..profiles.memory import MemoryMeter
from ..profiles.observer import Trace
from ..profiles.perfetto import perfetto_trace
from ..profiles.rapl import Rapl, rapl_telemetry
from ..profiles.record import Timeline
from ..profiles.reduction import timeline
from .measured_memory import measured_memory
from .memory_plan import Shapes, predicted_memory
from .opened import OpenCell

# Replays take prompts from a range that neither timed samples nor warm-up use.
_PROMPT = 1 << 25
# An eager forward is some twenty operators a layer; beyond this many layers the profile takes minutes to read.
_MOST_LAYERS = 20_000
_STACKS = 80
_REQUESTS = 32


@dataclass(frozen=True, slots=True)
class Window:
    """Replays back to back: [begin_s, end_s) on the system's monotonic clock, and what was generated meanwhile."""

    begin_s: float
    end_s: float
    generations: int
    output_tokens: int


def fill_window(opened: OpenCell, seconds: float) -> Window:
    """Generate for at least `seconds`, one generation at least, with nothing between that is not the generator's.

    Prompts are made beforehand and nobody observes: the host's work for them would leave the device idle, and weigh
    most on the shortest generations.
    """
    requests = [opened.request(_PROMPT + number, seed=number) for number in range(_REQUESTS)]
    outs: list[torch.Tensor] = []
    begin = end = time.monotonic()
    while not outs or end - begin < seconds:
        outs.append(opened.run(requests[len(outs) % _REQUESTS]))
        end = time.monotonic()
    return Window(begin, end, len(outs), sum(map(opened.emitted, outs)))


@dataclass(slots=True)
class EnergyMeter:
    """The processor's own energy counters (RAPL), or `why` they cannot be read."""

    why: str | None
    _rapl: Rapl | None = None
    _idle_w: float | None = None

    @classmethod
    def open(cls) -> EnergyMeter:
        """The counters of this machine."""
        found = Rapl.open()
        return cls(why=found) if isinstance(found, str) else cls(why=None, _rapl=found)

    def watch(self, opened: OpenCell, seconds: float) -> Telemetry:
        """Fill a window between two readings; before the first one, read what the idle machine draws."""
        rapl = self._rapl
        assert rapl is not None
        if self._idle_w is None:
            self._idle_w = _idle_power_w(rapl, min(seconds, 1.0))
        before = rapl.read()
        window = fill_window(opened, seconds)
        return rapl_telemetry(
            rapl.joules(before, rapl.read()),
            window.end_s - window.begin_s,
            generations=window.generations,
            output_tokens=window.output_tokens,
            idle_power_w=self._idle_w,
        )


def _idle_power_w(rapl: Rapl, seconds: float) -> float | None:
    """Power with nothing of ours running, in watts; None where the counter did not move."""
    before, begin = rapl.read(), time.monotonic()
    time.sleep(seconds)
    joules = rapl.joules(before, rapl.read())
    return joules / (time.monotonic() - begin) if joules else None


@dataclass(frozen=True, slots=True)
class Replay:
    """One generation under the profiler: what ran, what was announced, and how many tokens came out."""

    profiled: Profiled
    trace: Trace
    timeline: Timeline
    output_tokens: int


def replay_profiled(opened: OpenCell) -> Replay:
    """Generate once under the torch profiler, with forwards and writes as regions of the profile."""
    observer = Annotated(opened.recorder)
    # The profiler's own first use costs milliseconds that belong to no generation.
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        pass
    (trace, tokens), seen = profiled(lambda: opened.generate(_PROMPT, 0, observer), opened.context.device)
    return Replay(seen, trace, timeline(trace, -1, opened.cell.length), int(tokens.numel()))


@dataclass(frozen=True, slots=True)
class Profile:
    """A replay under the profiler beside the timed median that it is compared with."""

    replay: Replay
    latency_s: float
    overhead: float | None

    @property
    def span(self) -> dict[str, float]:
        """When the generation ran, on the monotonic clock."""
        profiled = self.replay.profiled
        return {"begin_s": profiled.began_s, "end_s": profiled.began_s + profiled.wall_s}

    def write(self, file: Path, key: str, telemetry: Telemetry | None, telemetry_begin_s: float) -> None:
        """The Perfetto trace of cell `key`, with readings that begin at `telemetry_begin_s` on the same clock."""
        file.parent.mkdir(parents=True, exist_ok=True)
        perfetto_trace(
            file,
            profiled=self.replay.profiled,
            timeline=self.replay.timeline,
            telemetry=telemetry,
            telemetry_offset_s=telemetry_begin_s - self.replay.profiled.began_s,
            title=key,
            metadata={"cell": key, "latency_s": self.latency_s, "overhead": self.overhead},
        )


def observe(opened: OpenCell, cells: Collection[OpenCell], counted: Collection[int]) -> tuple[Hardware, Profile | None]:
    """Memory and kernels of one of the open `cells`, whose samples `counted` are taken, and the profile that the
    kernels come from, if one was made."""
    missing: dict[str, str] = {}
    meter = MemoryMeter(opened.context.device)
    # Before the profiler, which keeps much of what it has seen.
    split = measured_memory(opened, cells, meter, lambda: opened.generate(_PROMPT, 0)[0])
    if isinstance(split, str):
        missing["memory"] = split
    kernels = profile = None
    typical = opened.typical(counted)
    layers = opened.context.config.num_hidden_layers
    if typical is None:
        missing["kernels"] = "no timed sample to compare a profiled one with"
    elif typical[0].nfe * layers > _MOST_LAYERS:
        missing["kernels"] = (
            f"{typical[0].nfe} forwards of {layers} layers are too many launches for one profile; "
            "`dlmbench profile` with a shorter L shows them"
        )
    else:
        latency_s = typical[0].latency_s
        replay = replay_profiled(opened)
        kernels = _kernels(opened, replay, latency_s)
        profile = Profile(replay, latency_s, kernels.overhead)
    memory = None if isinstance(split, str) else split
    found = Hardware(kernels=kernels, memory=memory, memory_predicted=_predicted(opened), missing=missing)
    return found, profile


def _predicted(opened: OpenCell) -> MemorySplit:
    """The cell's memory from shapes, less what the device's allocator would not see of it."""
    context = opened.context
    partner = context.partner or NetworkSource(context.config, context.weights)
    shared = (partner.config, partner.weights) == (context.config, context.weights)
    found = predicted_memory(opened.cell, Shapes(context.config, partner.config, shared), context.device)
    return found.model_copy(update={"rest_b": 0.0}) if context.device.startswith("cuda") else found


def _kernels(opened: OpenCell, replay: Replay, latency_s: float) -> KernelProfile:
    found = kernel_profile(
        replay.profiled,
        device="cuda" if opened.context.device.startswith("cuda") else "cpu",
        output_tokens=replay.output_tokens,
        forwards=len(replay.trace.forwards),
        median_latency_s=latency_s,
    )
    stacks = sorted(replay.profiled.stacks(), key=lambda stack: -stack[1])[:_STACKS]
    return found.model_copy(update={"stacks": tuple(Stack(path=path, seconds=seconds) for path, seconds in stacks)})
