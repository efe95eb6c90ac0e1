"""What a device can do: a large matrix product in each dtype, a large read, a large copy; at the sizes that suit it.

A product is a linear layer's, `x Wᵀ`: on some processors the other layout takes another kernel and several times as
long. A read is a sum over a block of memory well beyond the last cache, a copy counts what it reads and what it writes.
Operands are random, since zeros draw less power. They live in one block of memory that is given back whole, so that
a worker's own peak memory is not raised.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial

import psutil
import torch

from .clocks import Clock
from .disturbance import kept_waiting_s
from .hardware import DevicePeaks, Peak
from .host import read_cpu
from .limits import read_limits
from .peak_search import Effort, Task, find_peak

DTYPES = ("float32", "bfloat16", "float16")
# Seconds in all: enough for clocks to settle on a GPU (2 s a peak), little beside a run on a CPU.
_BUDGET_S = {"cpu": 3.5, "cuda": 22.0}
_SIDES = {"cpu": (256, 512, 1024, 2048, 4096), "cuda": (2048, 4096, 8192, 16384)}
# Blocks to read: so many times the last cache, within these bounds, and doubled twice.
_CACHES, _BLOCK_B = 4, {"cpu": (128 << 20, 2 << 30), "cuda": (512 << 20, 2 << 30)}
# Of what is free, so much may be used.
_FREE_SHARE = 0.5
# Numbers drawn: enough for the allocator to give them back to the system too.
_RANDOM = 9 << 20


@torch.inference_mode()
def measure_peaks(
    device: str,
    dtypes: Sequence[str],
    clock: Clock,
    identity: dict[str, str],
    *,
    budget_s: float | None = None,
    free_b: int | None = None,
    rest: Callable[[float], None] = time.sleep,
) -> DevicePeaks:
    """Measure this device with the threads in force, within about `budget_s` seconds.

    `identity` is from `device_identity`; its "name" is the device's. `free_b` is memory to be had (None: ask).
    """
    kind = "cuda" if device.startswith("cuda") else "cpu"
    effort = Effort.within((budget_s or _BUDGET_S[kind]) / (len(dtypes) + 2))
    room = int(_FREE_SHARE * (free_memory_b(device) if free_b is None else free_b))
    generator = torch.Generator(device).manual_seed(0)
    random = torch.randn(_RANDOM, device=device, generator=generator)
    found: dict[str, Peak] = {}
    missing: dict[str, str] = {}
    tasks: dict[str, Callable[[], Task]] = {
        **{dtype: partial(_product, dtype, kind, random, room) for dtype in dtypes},
        "read": partial(_read, kind, random, room),
        "copy": partial(_copy, kind, random, room),
    }
    begin, waited = time.perf_counter(), kept_waiting_s()
    for name, task in tasks.items():
        try:
            peak = find_peak(task(), effort, clock, rest)
        except RuntimeError as error:  # torch's for a dtype without a kernel and for memory that is not there
            peak = " ".join(str(error).split())[:200]
        if isinstance(peak, str):
            missing[name] = peak
        else:
            found[name] = peak
    waited_cores = (kept_waiting_s() - waited) / (time.perf_counter() - begin)
    if kind == "cuda":
        torch.cuda.empty_cache()
    return DevicePeaks(
        device=device,
        name=identity["name"],
        identity=identity,
        threads=torch.get_num_threads(),
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        matmul={name: found[name] for name in dtypes if name in found},
        read=found.get("read"),
        copied=found.get("copy"),
        missing=missing,
        waited_cores=None if kind == "cuda" or math.isnan(waited_cores) else waited_cores,
    )


def free_memory_b(device: str) -> int:
    """Bytes that could be allocated on the device now (on a CPU: also within a container's limit)."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    free, limit = int(psutil.virtual_memory().available), read_limits()["memory_limit_b"]
    return free if limit is None else min(free, int(limit))


def _product(dtype: str, kind: str, random: torch.Tensor, room: int) -> Task:
    """Products of two square matrices of a given side, one of them transposed."""
    kept = getattr(torch, dtype)
    sides = tuple(side for side in _SIDES[kind] if 3 * side**2 * kept.itemsize <= room)
    block = torch.empty(3 * max(sides, default=0) ** 2, dtype=kept, device=random.device)

    def prepare(side: int) -> Callable[[], object]:
        _fill(block[: 2 * side**2], random)
        left, right, out = (block[i * side**2 : (i + 1) * side**2].view(side, side) for i in range(3))
        return partial(torch.mm, left, right.t(), out=out)

    return Task(sides, lambda side: 2.0 * side**3, prepare)


def _read(kind: str, random: torch.Tensor, room: int) -> Task:
    """Sums over blocks of float32 of a given size in bytes."""
    sizes = _blocks(kind, room)
    block = torch.empty(max(sizes, default=0) // 4, device=random.device)

    def prepare(size: int) -> Callable[[], object]:
        part = block[: size // 4]
        _fill(part, random)
        return partial(torch.sum, part)

    return Task(sizes, float, prepare)


def _copy(kind: str, random: torch.Tensor, room: int) -> Task:
    """Copies of a block of a given size in bytes: twice as many are moved."""
    sizes = _blocks(kind, room // 2)
    source, target = (torch.empty(max(sizes, default=0) // 4, device=random.device) for _ in range(2))

    def prepare(size: int) -> Callable[[], object]:
        part = source[: size // 4]
        _fill(part, random)
        return partial(target[: size // 4].copy_, part)

    return Task(sizes, lambda size: 2.0 * size, prepare)


def _blocks(kind: str, room: int) -> tuple[int, ...]:
    """Sizes well beyond the last cache; where even the smallest does not fit, the largest power of two that does."""
    least, most = _BLOCK_B[kind]
    if kind == "cpu":
        least = min(most, max(least, _CACHES * _last_cache_b()))
    sizes = tuple(size for size in (least, 2 * least, 4 * least) if size <= room)
    return sizes or ((1 << (room.bit_length() - 1),) if room >= 1 << 20 else ())


def _last_cache_b() -> int:
    """Bytes of all caches of the last level together; 0 where the system does not tell."""
    cpu = read_cpu()
    caches = [cache for cache in cpu["caches"] or () if cache["size_kib"] and cache["shared_by"]]
    if not caches or not cpu["logical_cores"]:
        return 0
    last = max(caches, key=lambda cache: cache["level"])
    return int(last["size_kib"] * 1024 * max(1, cpu["logical_cores"] // last["shared_by"]))


def _fill(part: torch.Tensor, random: torch.Tensor) -> None:
    """Write the random numbers into `part`, over and over."""
    for piece in part.split(random.numel()):
        piece.copy_(random[: piece.numel()])
