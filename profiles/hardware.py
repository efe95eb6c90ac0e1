"""The record of what a device can do and of what it did: peaks, a profiled replay, counters over a window.

All of it comes from replays of a cell or from work of our own beside it, never from a timed sample. A quantity that
could not be read is absent, and `missing` says why in one sentence.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .stored import Stored

KernelCategory = Literal["matmul", "attention", "normalisation", "sampling", "copy", "other"]
CATEGORIES: tuple[KernelCategory, ...] = ("matmul", "attention", "normalisation", "sampling", "copy", "other")
TELEMETRY = (
    "gpu_util_nvml", "sm_active", "sm_occupancy", "tensor_active", "dram_active", "fp16_active", "fp32_active",
    "fp64_active", "power_w", "power_idle_w", "energy_j", "energy_per_token_j", "energy_integrated_ratio",
    "sm_clock_mhz", "memory_clock_mhz", "temperature_c",
)  # fmt: skip
"""The metrics that a window of telemetry may hold."""


# Peaks that are bytes a second; all others are matrix products, named by their dtype.
MOVES = ("read", "copy")
# A measurement whose threads waited for more processors than this is spoilt, as a sample is (`foreign_limit`).
DISTURBED_CORES = 0.25


class Peak(Stored):
    """A measured peak (FLOP/s or B/s): the best short burst, what is sustained under load, and the size it is best at.

    `size` is the matrix's side for a product, the block's bytes for a read or a copy. A copy counts what it reads and
    what it writes.
    """

    burst: float = Field(gt=0)
    sustained: float = Field(gt=0)
    size: int = Field(ge=1)


class Datasheet(Stored):
    """What the maker states for a device: dense matrix rates (FLOP/s, by dtype), memory bandwidth (B/s), power (W)."""

    name: str
    matmul_flop_s: dict[str, float] = {}
    memory_b_s: float | None = None
    memory_b: float | None = None
    power_w: float | None = None
    source: str


class DevicePeaks(Stored):
    """What one device was measured to do, when, and under which driver and torch (`identity`).

    `matmul` is by dtype; a dtype that the device refused is in `missing`, with the reason, as is a datasheet that does
    not exist. `waited_cores` is how many processors its threads waited for, on average: others used them, and every
    peak is too low (None on CUDA, or where the system does not tell).
    """

    device: str
    name: str
    identity: dict[str, str]
    threads: int
    measured: str
    matmul: dict[str, Peak] = {}
    read: Peak | None = None
    copied: Peak | None = None
    datasheet: Datasheet | None = None
    missing: dict[str, str] = {}
    waited_cores: float | None = None

    @property
    def disturbed(self) -> bool:
        """Whether others used too much of the processor for the peaks to be the device's own."""
        return self.waited_cores is not None and self.waited_cores > DISTURBED_CORES

    @property
    def peaks(self) -> dict[str, Peak]:
        """Every peak by name: a dtype (FLOP/s), `read` and `copy` (B/s)."""
        moved = {"read": self.read, "copy": self.copied}
        return {**self.matmul, **{name: peak for name, peak in moved.items() if peak is not None}}

    def stated(self, name: str) -> float | None:
        """What the datasheet states for a peak of this name, in its unit; None where it does not."""
        if self.datasheet is None:
            return None
        return self.datasheet.memory_b_s if name in MOVES else self.datasheet.matmul_flop_s.get(name)


class CategoryTime(Stored):
    """Time and launches of one category; seconds are summed over kernels, so that overlapping ones count twice."""

    seconds: float
    launches: int


class Kernel(Stored):
    """All launches of one kernel (on a CPU: all calls of one operator, its own time without what it calls)."""

    name: str
    category: KernelCategory
    launches: int
    seconds: float


class Gaps(Stored):
    """Stretches between kernels in which none ran, in seconds; the shares of wall time follow from `total_s`."""

    count: int
    total_s: float
    median_s: float
    p99_s: float
    longest_s: float


class Stack(Stored):
    """Own time of one place in a generation: phase, category, kernel or operator (and what it calls), in seconds."""

    path: tuple[str, ...]
    seconds: float


class KernelProfile(Stored):
    """One generation under the torch profiler.

    `wall_s` is that generation's length, slowed by the profiler; `busy_s` the time in it with at least one kernel
    running (on a CPU: one operator); `launches` counts kernels (operators that call no other, on a CPU). `overhead` is
    `wall_s` over the cell's median timed latency, minus 1. `kernels` are the longest, `others` how many were left out;
    `stacks` the longest places for a flame graph.
    """

    device: Literal["cpu", "cuda"]
    wall_s: float = Field(gt=0)
    busy_s: float
    launches: int
    output_tokens: int
    forwards: int
    overhead: float | None = None
    categories: dict[str, CategoryTime] = {}
    kernels: tuple[Kernel, ...] = ()
    others: int = 0
    gaps: Gaps | None = None
    stacks: tuple[Stack, ...] = ()


class Telemetry(Stored):
    """What the device's counters said while replays of one cell filled a window.

    `values` holds metrics by name (`gpu_util_nvml`, `sm_active`, `power_w`, ...: unit as declared in `metrics`),
    `missing` why another is absent. `series` are the readings inside the window, all of one length, by name: `at_s`
    since its beginning, `power_w`, `sm_clock_mhz`, `memory_clock_mhz`, `temperature_c`, `gpu_util_nvml`,
    `memory_used_b` (None: this reading failed, or it averages over time before the window). `clock_reasons` are all
    that held the clocks at some reading; `foreign` is the most processes of others seen on the device (None: unknown).
    """

    source: str
    window_s: float
    generations: int
    values: dict[str, float] = {}
    missing: dict[str, str] = {}
    series: dict[str, tuple[float | None, ...]] = {}
    clock_reasons: tuple[str, ...] = ()
    foreign: int | None = None
    warnings: tuple[str, ...] = ()


class MemorySplit(Stored):
    """Peak memory of a cell by what it is for, in bytes: predicted from shapes, or measured. The parts add up."""

    weights_b: float
    kv_b: float
    logits_b: float
    activations_b: float
    rest_b: float

    @property
    def own_b(self) -> float:
        """All but the rest: what the cell itself takes."""
        return self.weights_b + self.kv_b + self.logits_b + self.activations_b

    @property
    def total_b(self) -> float:
        return self.own_b + self.rest_b


class Hardware(Stored):
    """What the hardware did in one cell, from replays in one process; `missing` says why a part is absent."""

    kernels: KernelProfile | None = None
    telemetry: Telemetry | None = None
    memory: MemorySplit | None = None
    memory_predicted: MemorySplit | None = None
    missing: dict[str, str] = {}
