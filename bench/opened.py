"""A cell open in a worker: prepared, warmed up, sampled, and finally asked for its counters and timeline."""

from __future__ import annotations

import gc
import itertools
import math
import os
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol

import torch

from ..models.architecture import Config
from ..models.attention import attention_backend
from ..models.catalog import Context, build
from ..models.gemma_config import GemmaConfig
from ..models.generator import Audited, Costed, Generator, Observer, Promising, Request, Settings, Shape, Silent
from ..models.names import BUILT_IN, SPECULATIVE
from ..models.prompts import PromptSource
from ..profiles.clocks import Clock
from ..profiles.disturbance import CpuWindow, kept_waiting_s
from ..profiles.host import usable_cpus
from ..profiles.memory import MemoryMeter, PoolId
from ..profiles.observer import Recorder, Trace
from ..profiles.record import Cell, Sample, Timeline, Warmup
from ..profiles.reduction import Emission, reduce_trace, timeline
from .schedules import Frame
from .steady import windows_agree

_KEPT_TRACES = 32
# Warm-up prompts come from a range that no timed sample uses.
_WARMUP_PROMPT = 1 << 24


class ClocksDisagreeError(Exception):
    """The device's clock says that a generation took longer than the host's does: one of the two is wrong."""


class WorkDiffersError(Exception):
    """The generator did other work than its cell promised: the sample would be invalid, not slow."""


def agree(device_s: float, wall_s: float) -> None:
    """Raise ClocksDisagreeError where events on the device span more than the host saw go by around them."""
    if device_s > 1.01 * wall_s + 1e-4:
        raise ClocksDisagreeError(
            f"{device_s:.6f} s by the device's events, but only {wall_s:.6f} s by the host's clock"
        )


def settings_of(cell: Cell) -> Settings:
    """The decode settings of a cell, as its generator takes them."""
    decode = cell.decode.model_dump(exclude={"commit_schedule"})
    schedule = cell.decode.commit_schedule
    return Settings(
        **decode,
        commit_schedule=None if schedule is None else schedule.rows,
        steps=cell.steps,
        block_length=cell.block_length,
        cache=cell.cache,
        length_policy=cell.length_policy,
    )


def generator_of(cell: Cell, context: Context) -> Generator:
    """The cell's generator. Cells of one shape that differ in T alone share one, with its caches and graphs (but for a
    drafter, whose steps are shapes)."""
    steps = cell.steps if cell.generator == SPECULATIVE else None
    kind = (
        cell.generator,
        cell.engine,
        cell.attention,
        cell.kv_dtype,
        cell.block_length,
        cell.cache,
        cell.decode,
        steps,
    )
    if kind not in context.built:
        context.built[kind] = build(cell.generator, context.for_cell(cell.engine, cell.kv_dtype))
    return context.built[kind]


def check_cell(cell: Cell, context: Context) -> None:
    """Raise InputError where the cell's generator says beforehand that it cannot run its shape and settings."""
    generator = generator_of(cell, context)
    if isinstance(generator, Promising):
        generator.promised_nfe(shape_of(cell), settings_of(cell))


def _block_ends(cell: Cell, config: Config) -> list[int] | None:
    """New tokens at the end of each block, where blocks are not simply the cell's block length from the first token."""
    if cell.generator == SPECULATIVE:
        return []  # a round commits as many tokens as are accepted
    entry = BUILT_IN.get(cell.generator)
    if entry is not None and entry.native_block and cell.block_length is not None:
        sizes = Frame(cell.prompt_length, cell.length, cell.block_length).blocks
    elif isinstance(config, GemmaConfig) and cell.side == "diffusion":
        sizes = Frame(0, cell.length, config.canvas_length).blocks
    else:
        return None
    return list(itertools.accumulate(sizes))


def shape_of(cell: Cell) -> Shape:
    return Shape(cell.batch, cell.prompt_length, cell.length)


class Recording(Observer, Protocol):
    """An observer that brackets a generation and can be read back (see `observer.Recorder`)."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def trace(self) -> Trace: ...


@dataclass(slots=True)
class OpenCell:
    """One cell with its generator. Times in seconds. `pools` are those of the graphs that it captured."""

    cell: Cell
    context: Context
    prompts: PromptSource
    clock: Clock
    unit_cost_s: float
    memory_peak_b: int | None = None
    pools: frozenset[PoolId] = frozenset()
    _recorder: Recorder = field(init=False)
    _generator: Generator = field(init=False)
    _settings: Settings = field(init=False)
    _kept: list[tuple[Sample, Trace]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._recorder = Recorder(self.clock)
        self._generator = generator_of(self.cell, self.context)
        self._settings = settings_of(self.cell)

    @property
    def recorder(self) -> Recorder:
        """The recorder of this cell's samples."""
        return self._recorder

    @property
    def generator(self) -> Generator:
        """The generator that this cell is measured on, with its caches."""
        return self._generator

    def prepare(self) -> float:
        """Prepare the generator for this shape; returns the time that took."""
        cell, meter = self.cell, MemoryMeter(self.context.device)
        known = meter.pools().keys()
        begin = time.perf_counter()
        with attention_backend(cell.attention):
            self._generator.prepare(shape_of(cell), self._settings)
        self.clock.settle()
        elapsed = time.perf_counter() - begin
        self.pools = frozenset(meter.pools().keys() - known)
        return elapsed

    def warm_up(self, limit_s: float, hard_limit_s: float) -> Warmup:
        """Generate until the medians of two consecutive windows agree; the first generation never counts.

        Gives up after `limit_s` and three generations, the fewest that can agree, or after `hard_limit_s`.
        """
        begin = time.perf_counter()
        latencies: list[float] = []
        steady, made, window = False, 0, 1
        while not steady:
            trace, _ = self.generate(_WARMUP_PROMPT + made, seed=made)
            made += 1
            if made > 1:
                latencies.append(trace.latency_s)
                # Short generations are judged in windows of up to five, so that one hiccup does not decide.
                window = max(1, min(5, int(0.05 / max(trace.latency_s, 1e-9)))) if made == 2 else window
                steady = windows_agree(latencies, window)
            spent = time.perf_counter() - begin
            if spent > hard_limit_s or (spent > limit_s and made >= 3):
                break
        # What lives by now (libraries, model, caches) is left out of the collection before each sample, which would
        # otherwise take longer than many a sample.
        gc.collect()
        gc.freeze()
        return Warmup(samples=made, seconds=time.perf_counter() - begin, steady=steady)

    def sample(self, *, order: int, round_index: int, prompt: int, seed: int, started_s: float) -> Sample:
        """One timed generation, checked against the work that the cell promises."""
        window = CpuWindow()
        gc.collect()
        gc.disable()
        try:
            window.start()
            kept_waiting, begin = kept_waiting_s(), time.perf_counter()
            trace, tokens = self.generate(prompt, seed)
            elapsed, kept_waiting = time.perf_counter() - begin, kept_waiting_s() - kept_waiting
            disturbance = window.stop()
        finally:
            gc.enable()
        cell = self.cell
        sample, out = reduce_trace(
            trace,
            tokens.numpy(),
            side=cell.side,
            policy=cell.length_policy,
            eos_id=self.context.config.eos_token_id,
            block_length=(cell.block_length or cell.length) if cell.side == "diffusion" else 1,
            order=order,
            round_index=round_index,
            prompt=prompt,
            seed=seed,
            started_s=started_s,
            block_ends=_block_ends(cell, self.context.config),
        )
        self._check(sample, out, tokens)
        if self.context.device == "cpu":
            threads = torch.get_num_threads()
            excess = disturbance.excess(threads, len(usable_cpus() or ()) or os.cpu_count() or 1)
            # How long our threads stood in line for a processor is known for a sample of any length; what others used
            # can be read in steps of 10 ms only.
            known = [value for value in (excess, kept_waiting / elapsed) if not math.isnan(value)]
            sample = sample.model_copy(update={"foreign_cores": max(known) if known else None})
        else:
            sample = sample.model_copy(update={"wall_s": trace.wall_s})
            agree(sample.latency_s, trace.wall_s)
        if len(self._kept) < _KEPT_TRACES:
            self._kept.append((sample, trace))
        return sample

    def generate(self, prompt: int, seed: int, recorder: Recording | None = None) -> tuple[Trace, torch.Tensor]:
        """Generate once for prompts number `prompt` x batch …; returns the trace and the tokens [B, L] on the host."""
        request = self.request(prompt, seed)
        recorder = recorder or self._recorder
        with attention_backend(self.cell.attention):
            self.clock.settle()
            recorder.start()
            tokens = self._generator.generate(request, recorder).cpu()
            recorder.stop()
        return recorder.trace(), tokens

    def run(self, request: Request) -> torch.Tensor:
        """Generate once, unobserved; the tokens [B, L] on the host."""
        with attention_backend(self.cell.attention):
            return self._generator.generate(request, Silent()).cpu()

    def emitted(self, tokens: torch.Tensor) -> int:
        """How many of `tokens` [B, L] count: all, or under `natural` those up to and with each row's first EOS."""
        eos = self.context.config.eos_token_id
        if self.cell.length_policy == "fixed" or eos is None:
            return tokens.numel()
        before = (tokens == eos).cumsum(1) - (tokens == eos).long()
        return int((before == 0).sum())

    def request(self, prompt: int, seed: int) -> Request:
        """The request for prompts number `prompt` x batch …, its ids on the device."""
        cell = self.cell
        ids = self.prompts.batch(prompt * cell.batch, cell.batch, cell.prompt_length)
        prompt_ids = torch.tensor(ids, dtype=torch.int64, device=self.context.device).view(cell.batch, -1)
        return Request(prompt_ids, cell.length, self._settings, seed)

    def _check(self, sample: Sample, out: Emission, tokens: torch.Tensor) -> None:
        cell = self.cell
        if tuple(tokens.shape) != (cell.batch, cell.length):
            raise WorkDiffersError(f"returned tokens {tuple(tokens.shape)}, expected {(cell.batch, cell.length)}")
        if cell.length_policy == "natural":
            return
        if sample.canvas_tokens < cell.batch * cell.length:
            raise WorkDiffersError(f"announced {sample.canvas_tokens} of {cell.batch * cell.length} tokens")
        mask_id = self.context.config.mask_id
        # Speculative decoding keeps the AR model's law, under which the mask's id is a token like any other.
        masked = cell.side == "diffusion" and cell.generator != SPECULATIVE
        if masked and mask_id is not None and bool((tokens == mask_id).any()):
            raise WorkDiffersError("left masked positions in its output")
        if not isinstance(self._generator, Promising):
            return
        promised = self._generator.promised_nfe(shape_of(cell), self._settings)
        if promised is not None and sample.nfe != promised:
            raise WorkDiffersError(f"ran {sample.nfe} forwards, expected {promised}")

    def counters(self, counted: Collection[int], flop_s: float, byte_s: float) -> dict[str, float | int | str | None]:
        """What no clock enters, from the typical sample, and the roofline's floor time at the peaks given."""
        counters: dict[str, float | int | str | None] = {
            "memory_peak_b": self.memory_peak_b,
            "observer_unit_cost_s": self.unit_cost_s,
        }
        typical = self.typical(counted)
        if typical is None:
            return counters
        sample, trace = typical
        counters |= {"nfe": sample.nfe, "forward_tokens": sample.forward_tokens, "canvas_tokens": sample.canvas_tokens}
        if isinstance(self._generator, Audited) and self._settings.cache in ("prefix", "dual"):
            counters |= self._generator.audit(self.request(_WARMUP_PROMPT, sample.seed))
        if not isinstance(self._generator, Costed):
            return counters
        costs = [
            self._generator.forward_cost(f.network, f.rows, f.q_len, f.kv_len, f.logit_rows, f.mask)
            for f in trace.forwards
        ]
        return counters | {
            "model_flops": sum(cost.flops for cost in costs),
            "model_bytes": sum(cost.bytes for cost in costs),
            "floor_s": sum(cost.floor_s(flop_s, byte_s) for cost in costs),
        }

    def timeline(self, counted: Collection[int]) -> Timeline | None:
        """What the typical sample did."""
        typical = self.typical(counted)
        return None if typical is None else timeline(typical[1], typical[0].order, self.cell.length)

    def typical(self, counted: Collection[int]) -> tuple[Sample, Trace] | None:
        """The sample nearest the median latency, of those kept whose `order` is `counted`."""
        ordered = sorted((kept for kept in self._kept if kept[0].order in counted), key=lambda kept: kept[0].latency_s)
        return ordered[len(ordered) // 2] if ordered else None
