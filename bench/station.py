"""What a worker process does: load one generator, keep it, and take one sample at a time when told to."""

from __future__ import annotations

import gc
import os
import platform
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import InputError, __version__
from ..models.architecture import network_config
from ..models.catalog import Context, NetworkSource
from ..models.gemma_config import GemmaConfig
from ..models.prompts import PromptSource, default_prompts, load_prompts
from ..models.source import Source
from ..profiles.calibration import Calibrator
from ..profiles.clocks import clock_for
from ..profiles.environment import read_variables
from ..profiles.hardware import Peak, Telemetry
from ..profiles.host import usable_cpus
from ..profiles.known_peaks import device_peaks
from ..profiles.memory import MemoryMeter
from ..profiles.observer import unit_cost_s
from ..profiles.provenance import loaded_origins
from ..profiles.record import Cell, TextQuality, Value, WorkerInfo
from .judge import Judge
from .likelihood import held_out_metrics
from .measured_memory import watch
from .opened import ClocksDisagreeError, OpenCell, WorkDiffersError, check_cell
from .quality import source_of, text_quality
from .studies import pair_studies
from .tokenizers import tokenizer_of
from .worker import PROTOCOL

if TYPE_CHECKING:
    from .replay import EnergyMeter, Profile

_PACKAGE = Path(__file__).resolve().parent.parent


class Worker:
    """Answers requests; each method named after an operation takes the request's fields and returns the reply's."""

    def __init__(self) -> None:
        self._usable = usable_cpus()  # before the parent has it share some of them with its peers
        self._forget()

    def _forget(self) -> None:
        """Begin anew: a worker may load one generator after another."""
        self._cells: dict[str, OpenCell] = {}
        self._calibrators: dict[str, Calibrator] = {}
        self._context: Context
        self._prompts: PromptSource
        self._source: Source | None = None
        self._judge_reference: str | None = None
        self._judge: Judge | None = None
        self._held_out: dict[str, Value] | None = None
        self._judged: dict[str, TextQuality] = {}
        self._meter: EnergyMeter | None = None
        self._profile: Profile | None = None

    def load(
        self,
        *,
        config: dict[str, Any],
        weights: str,
        seed: int,
        dtype: str,
        device: str,
        threads: int,
        prompts: str | None,
        tokenizer: str,
        judge: str | None = None,
        partner: dict[str, Any] | None = None,
        cells: Sequence[dict[str, Any]] = (),
    ) -> dict[str, Any]:
        """Load the model and the prompts; reply who is measuring. `partner` is the pair's other side.

        Refuses at once any of `cells`, all that it will be asked to open, that its generator cannot run.
        """
        self._forget()
        _take(device, threads)
        self._device = device
        self._clock = clock_for(device)
        shape = network_config(config)
        other = None if partner is None else NetworkSource(network_config(partner["config"]), partner["weights"])
        self._context = Context(shape, weights, getattr(torch, dtype), device, seed, partner=other)
        chosen = tokenizer_of(tokenizer)
        if chosen.vocab_size > shape.vocab_size:
            raise InputError(
                f"tokenizer {chosen.name} has {chosen.vocab_size} ids, the model only {shape.vocab_size}; "
                f"give --tokenizer one that fits the checkpoint"
            )
        self._prompts = default_prompts(chosen) if prompts is None else load_prompts(Path(prompts), chosen)
        self._source = source_of(chosen, weights)
        self._judge_reference = judge
        for cell in cells:
            check_cell(Cell.model_validate(cell), self._context)
        self._unit_cost = unit_cost_s(self._clock)
        origins = loaded_origins(dict(sys.modules))
        info = WorkerInfo(
            pid=os.getpid(),
            package_path=str(_PACKAGE),
            package_version=__version__,
            commit=origins["dlmbench"].state,
            python=platform.python_version(),
            torch=torch.__version__,
            device=device,
            threads=torch.get_num_threads(),
            environment=read_variables(os.environ),
            origins=origins,
        )
        return {
            "protocol": PROTOCOL,
            "info": info.model_dump(),
            "observer_unit_cost_s": self._unit_cost,
            "device_name": _device_name(device),
            "device_uuid": _device_uuid(device),
        }

    def open(self, *, id: str, cell: dict[str, Any]) -> dict[str, Any]:
        """Prepare a cell: allocate, compile, capture. Reply its cost in seconds."""
        opened = OpenCell(Cell.model_validate(cell), self._context, self._prompts, self._clock, self._unit_cost)
        self._cells[id] = opened
        return {"prepare_s": opened.prepare()}

    def warmup(self, *, id: str, limit_s: float, hard_limit_s: float) -> dict[str, Any]:
        """Generate until consecutive windows agree, within limits."""
        opened = self._cells[id]
        stretch = watch(opened, self._cells.values(), MemoryMeter(self._device))
        warmup = opened.warm_up(limit_s, hard_limit_s)
        opened.memory_peak_b = stretch.peak_b()
        return {"warmup": warmup.model_dump()}

    def sample(self, *, id: str, order: int, round: int, prompt: int, seed: int, started_s: float) -> dict[str, Any]:
        """Take one timed sample."""
        sample = self._cells[id].sample(order=order, round_index=round, prompt=prompt, seed=seed, started_s=started_s)
        return {"sample": sample.model_dump()}

    def quality(self, *, id: str, texts: int, seed: int, limit_s: float) -> dict[str, Any]:
        """Judge texts of a cell's settings; null where the weights do not speak the words of a source that could."""
        if self._judge is None and self._judge_reference is not None:
            self._judge = Judge.load(self._judge_reference, self._device)
        if self._source is None:
            return {"quality": None}
        cell = self._cells[id].cell
        # Engine, kernel and batch change no text's law: one judgement does for all of them.
        setting = cell.model_copy(update={"engine": "eager", "attention": "auto", "batch": 1}).key
        if setting in self._judged:
            return {"quality": self._judged[setting].model_dump()}
        if self._held_out is None:
            network = None if isinstance(self._context.config, GemmaConfig) else self._context.network()
            self._held_out = (
                {} if network is None else held_out_metrics(network, cell.generator, self._source, seed=seed)
            )
        found = text_quality(
            cell, self._context, self._source, texts=texts, seed=seed, limit_s=limit_s, judge=self._judge
        )
        found = found.model_copy(update={"metrics": {**found.metrics, **self._held_out}})
        self._judged[setting] = found
        return {"quality": found.model_dump()}

    def study(self, *, pair: str, generator: str, seed: int, tasks: bool) -> dict[str, Any]:
        """What the pair's trained networks do apart from any cell; asked of a worker on its diffusion side."""
        found = pair_studies(pair, generator, self._context, self._source, seed=seed, tasks=tasks)
        return {"studies": found.model_dump(mode="json")}

    def close(self, *, id: str, flop_s: float, byte_s: float, counted: list[int]) -> dict[str, Any]:
        """A cell has all its samples: reply counters and timeline of the one nearest the median of those `counted`."""
        opened = self._cells[id]
        line = opened.timeline(counted)
        return {
            "counters": opened.counters(counted, flop_s, byte_s),
            "timeline": None if line is None else line.model_dump(),
        }

    def observe(self, *, id: str, counted: list[int], keep: bool) -> dict[str, Any]:
        """What the hardware does in a cell, from one replay for its memory and one under the profiler.

        With `keep` the latter stays for `trace`, and the reply says when it was, on the monotonic clock (null: none).
        """
        from .replay import observe  # the profiler, which no timed sample needs

        found, profile = observe(self._cells[id], self._cells.values(), counted)
        self._profile = profile if keep else None
        return {"hardware": found.model_dump(), "kept": None if self._profile is None else self._profile.span}

    def trace(
        self, *, id: str, file: str, telemetry: dict[str, Any] | None, telemetry_begin_s: float
    ) -> dict[str, Any]:
        """Write the profile that was kept as a Perfetto trace, with the readings of its time if there are any."""
        profile, self._profile = self._profile, None
        assert profile is not None
        readings = None if telemetry is None else Telemetry.model_validate(telemetry)
        profile.write(Path(file), self._cells[id].cell.key, readings, telemetry_begin_s)
        return {}

    def fill(self, *, id: str, window_s: float) -> dict[str, Any]:
        """Generate back to back for `window_s` seconds; reply the window, and the energy where this worker reads it.

        On a CPU without readable counters nothing is generated: there is nobody to watch.
        """
        from .replay import EnergyMeter, fill_window

        opened = self._cells[id]
        if self._device.startswith("cuda"):
            return {"window": asdict(fill_window(opened, window_s)), "telemetry": None, "why": None}
        if self._meter is None:
            self._meter = EnergyMeter.open()
        if self._meter.why is not None:
            return {"window": None, "telemetry": None, "why": self._meter.why}
        return {"window": None, "telemetry": self._meter.watch(opened, window_s).model_dump(), "why": None}

    def calibrate(self, *, dtype: str, peak: dict[str, Any] | None = None) -> dict[str, Any]:
        """Measure this device's matrix-product and read rates now; the product's `peak` tells what size suits it."""
        if dtype not in self._calibrators:
            weights = self._context.config.weight_bytes(dtype)
            known = None if peak is None else Peak.model_validate(peak)
            self._calibrators[dtype] = Calibrator(self._device, dtype, self._clock, weights, known)
        return {"calibration": self._calibrators[dtype].measure().model_dump()}

    def peaks(
        self, *, device: str, threads: int, dtypes: Sequence[str], max_age_s: float, budget_s: float | None = None
    ) -> dict[str, Any]:
        """What the device can do, remembered if not older than `max_age_s`, else measured now; no model is needed."""
        _take(device, threads)
        found = device_peaks(device, dtypes, max_age_s=max_age_s, budget_s=budget_s, usable=self._usable)
        return {
            "peaks": found.peaks.model_dump(),
            "before": None if found.before is None else found.before.model_dump(),
            "remembered": found.remembered,
            "notes": found.notes,
        }

    def release(self) -> dict[str, Any]:
        """Drop all cells and give freed memory back, before the next shape."""
        self._cells.clear()
        self._context.built.clear()
        gc.unfreeze()
        gc.collect()
        if self._device.startswith("cuda"):
            torch.cuda.empty_cache()
        return {}


_OPERATIONS = (
    "load",
    "open",
    "warmup",
    "sample",
    "quality",
    "study",
    "close",
    "observe",
    "trace",
    "fill",
    "calibrate",
    "peaks",
    "release",
)


def answer(worker: Worker, request: dict[str, Any]) -> dict[str, Any]:
    """Carry out one request; every failure becomes a reply with a code and one line."""
    operation = request.pop("op")
    if operation not in _OPERATIONS:
        return {"ok": False, "code": "protocol", "message": f"unknown operation {operation!r}"}
    try:
        return {"ok": True, **getattr(worker, operation)(**request)}
    except InputError as error:
        return {"ok": False, "code": "input", "message": str(error)}
    except WorkDiffersError as error:
        return {"ok": False, "code": "work", "message": str(error)}
    except ClocksDisagreeError as error:
        return {"ok": False, "code": "clock", "message": str(error)}
    except (torch.OutOfMemoryError, MemoryError) as error:
        return {"ok": False, "code": "out_of_memory", "message": _one_line(error)}
    except Exception as error:
        # torch's CPU allocator has no exception class of its own.
        code = "out_of_memory" if "can't allocate memory" in str(error) else "crash"
        return {"ok": False, "code": code, "message": _one_line(error), "detail": traceback.format_exc()}


def _take(device: str, threads: int) -> None:
    """Work on this device with so many threads. Raises InputError where torch cannot."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {device!r}: torch {torch.__version__} sees no CUDA device; choose --device cpu")
    if device.startswith("cuda"):
        # Events, captures and memory statistics belong to the current device, whatever device a tensor is on. This
        # one must have an index, which "cuda" has not.
        torch.cuda.set_device(torch.device(device).index or 0)
    torch.set_num_threads(threads)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def _device_uuid(device: str) -> str | None:
    """The device's own name for NVML, which counts devices in another order than torch may."""
    if not device.startswith("cuda"):
        return None
    found = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return None if found is None else str(found)
