"""NVML's GPU performance monitoring (GPM): what the multiprocessors did between two moments, on Hopper and later.

The hardware counts all the time; NVML copies its counters into a sample on request and turns two samples into
percentages of what happened between them. Samples are taken while a window lasts, and the two that lie furthest apart
inside it give its numbers. They are kept in bounded memory: when there are many, every second one goes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .gpus import for_good, refusal
from .pinned_gpu import PinnedGpu

EVERY_S = 0.2
"""How often a sample is taken at first; two must be at least 0.1 s apart to be compared."""
_MOST_SAMPLES = 128
_METRICS = {
    "sm_active": "NVML_GPM_METRIC_SM_UTIL",
    "sm_occupancy": "NVML_GPM_METRIC_SM_OCCUPANCY",
    "tensor_active": "NVML_GPM_METRIC_ANY_TENSOR_UTIL",
    "dram_active": "NVML_GPM_METRIC_DRAM_BW_UTIL",
    "fp16_active": "NVML_GPM_METRIC_FP16_UTIL",
    "fp32_active": "NVML_GPM_METRIC_FP32_UTIL",
    "fp64_active": "NVML_GPM_METRIC_FP64_UTIL",
}


@dataclass(frozen=True, slots=True)
class Shares:
    """What lies between two samples: shares of 1 by metric, and why one is missing."""

    values: Mapping[str, float] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def absent(cls, why: str) -> Shares:
        return cls(missing=dict.fromkeys(_METRICS, why))


class Gpm:
    """The samples of one device. `why` says why it takes none."""

    def __init__(self, nvml: Any, gpu: PinnedGpu) -> None:
        self._nvml, self._gpu = nvml, gpu
        self._samples: list[tuple[float, Any]] = []
        self._every_s = EVERY_S
        self._failed: str | None = None
        self.why = _unsupported(nvml, gpu)

    def due(self, now_s: float) -> bool:
        """Whether another sample would be far enough from the last one."""
        return self.why is None and (not self._samples or now_s - self._samples[-1][0] >= self._every_s)

    def take(self, now_s: float) -> None:
        """Take a sample now. One that fails is a gap; so is one for which there is no memory."""
        nvml, gpu = self._nvml, self._gpu
        try:
            sample = nvml.nvmlGpmSampleAlloc()
        except Exception as error:
            self.why = refusal("nvmlGpmSampleAlloc", error)
            return
        try:
            if gpu.split:
                nvml.nvmlGpmMigSampleGet(gpu.board, gpu.gpu_instance, sample)
            else:
                nvml.nvmlGpmSampleGet(gpu.board, sample)
        except Exception as error:
            self._free(sample)
            self._failed = refusal("nvmlGpmSampleGet", error)
            self.why = self._failed if for_good(error) else None
            return
        self._samples.append((now_s, sample))
        if len(self._samples) >= _MOST_SAMPLES:
            for _, spare in self._samples[1::2]:
                self._free(spare)
            del self._samples[1::2]
            self._every_s *= 2

    def clear(self) -> None:
        """Give all samples back."""
        for _, sample in self._samples:
            self._free(sample)
        self._samples.clear()
        self._every_s = EVERY_S

    def between(self, begin_s: float, end_s: float) -> Shares:
        """What the samples inside [begin_s, end_s] show, if they reach over half of it."""
        if self.why is not None:
            return Shares.absent(self.why)
        inside = [entry for entry in self._samples if begin_s <= entry[0] <= end_s]
        reach_s = inside[-1][0] - inside[0][0] if inside else 0.0
        if reach_s < 0.5 * (end_s - begin_s) or reach_s < 0.5 * EVERY_S:
            return Shares.absent(
                f"GPM's samples reach over {reach_s:.2g} s of the window's {end_s - begin_s:.2g} s, half is needed; "
                f"a window of {5 * EVERY_S:g} s or more has enough"
                + ("" if self._failed is None else f" ({self._failed})")
            )
        return self._compare(inside[0][1], inside[-1][1])

    def _compare(self, first: Any, last: Any) -> Shares:
        nvml = self._nvml
        known = {name: number for name, label in _METRICS.items() if (number := getattr(nvml, label, None)) is not None}
        try:
            asked = nvml.c_nvmlGpmMetricsGet_t()
            asked.version = nvml.NVML_GPM_METRICS_GET_VERSION
            asked.numMetrics = len(known)
            asked.sample1, asked.sample2 = first, last
            for place, number in enumerate(known.values()):
                asked.metrics[place].metricId = number
            nvml.nvmlGpmMetricsGet(asked)
        except Exception as error:
            return Shares.absent(refusal("nvmlGpmMetricsGet", error))
        values = {}
        missing = {name: "the NVML binding does not know this GPM metric" for name in _METRICS if name not in known}
        for place, name in enumerate(known):
            found = asked.metrics[place]
            if found.nvmlReturn != 0:
                missing[name] = f"GPM does not offer it on this GPU (NVML error {found.nvmlReturn})"
            elif not math.isfinite(found.value) or found.value < 0:
                missing[name] = f"GPM counted {found.value:g} %, which is no share"
            else:
                values[name] = found.value / 100
        return Shares(values, missing)

    def _free(self, sample: Any) -> None:
        try:
            self._nvml.nvmlGpmSampleFree(sample)
        except Exception:  # the driver frees it with the process
            return


def _unsupported(nvml: Any, gpu: PinnedGpu) -> str | None:
    if gpu.split and gpu.gpu_instance is None:
        return "the GPU is split (MIG) and which part is measured is not known"
    try:
        supported = nvml.nvmlGpmQueryDeviceSupport(gpu.board).isSupportedDevice
    except Exception as error:
        return refusal("nvmlGpmQueryDeviceSupport", error)
    return None if supported else "this GPU or its driver has no GPM (Hopper and later have)"
