"""What a cell will need before it is measured: memory, and a rough time from the device's peaks.

Memory is the total of `memory_plan`'s prediction. Time is the roofline's floor divided by a
stated efficiency, plus a stated overhead a forward: good to a factor of two, for planning only.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from dataclasses import dataclass

import psutil

from ..models.architecture import Config
from ..models.costs import forward_cost
from ..models.pairs import Pair
from ..profiles.limits import read_limits
from ..profiles.record import Cell
from .demand import keeps_keys
from .memory_plan import Shapes, predicted_memory

_EFFICIENCY = {"ar": 0.4, "diffusion": 0.7}
_FORWARD_OVERHEAD_S = 1e-4
# Overheads of a run that no cell pays for: starting workers, calibrating, writing the report.
START_S, PAIRING_S, REPORT_S = 5.0, 0.5, 8.0


def config_of(cell: Cell, pair: Pair) -> Config:
    """The backbone that a cell runs on."""
    return pair.diffusion.backbone if cell.side == "diffusion" else pair.ar.backbone


def memory_b(cell: Cell, pair: Pair, device: str) -> int:
    """Bytes that the cell's worker needs on the device (on a CPU: in all)."""
    return int(predicted_memory(cell, Shapes.of(cell, pair), device).total_b)


def available_b(device: str) -> int | None:
    """Bytes free for workers now: device memory on CUDA, memory (within the container's limit) on a CPU."""
    if not device.startswith("cuda"):
        free, limit = psutil.virtual_memory().available, read_limits()["memory_limit_b"]
        return free if limit is None else min(free, int(limit))
    devices = cuda_devices()
    index = int(device.partition(":")[2] or 0)
    return devices[index] if index < len(devices) else None


@functools.cache
def cuda_devices() -> tuple[int, ...]:
    """Free bytes of each CUDA device that torch can use, in torch's order; asked of another process, once.

    Only that settles it: a driver may show a device that this torch cannot use, or that is hidden from it. The
    question is skipped where there is no driver, which NVML knows at once.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    program = (
        "import torch, json; n = torch.cuda.device_count() if torch.cuda.is_available() else 0; "
        "print(json.dumps([torch.cuda.mem_get_info(i)[0] for i in range(n)]))"
    )
    try:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
        return tuple(int(free) for free in json.loads(done.stdout.splitlines()[-1]))
    except (subprocess.SubprocessError, ValueError, IndexError):
        return ()


def latency_above(floor_s: float, forwards: int, side: str) -> float:
    """Rough time of one generation whose forwards are known, in seconds."""
    return floor_s / _EFFICIENCY[side] + forwards * _FORWARD_OVERHEAD_S


def rough_latency_s(cell: Cell, pair: Pair, flop_s: float, byte_s: float) -> float:
    """Rough time of one generation whose forwards nobody can tell beforehand (see `forecast`), in seconds."""
    config = config_of(cell, pair)
    prompt, length, batch = max(cell.prompt_length, 1), cell.length, cell.batch

    def floor(q_len: int, kv_len: int, logit_rows: int, causal: bool) -> float:
        cost = forward_cost(
            config, rows=batch, q_len=q_len, kv_len=kv_len, logit_rows=logit_rows,
            mask="causal" if causal else "bidirectional", dtype=cell.dtype, kv_dtype=cell.kv_dtype,
        )  # fmt: skip
        return cost.floor_s(flop_s, byte_s) / _EFFICIENCY[cell.side] + _FORWARD_OVERHEAD_S

    if cell.side == "ar":
        middle = floor(1, prompt + length // 2, batch, True)
        return floor(prompt, prompt, batch, True) + (length - 1) * middle
    steps, block = cell.steps or length, cell.block_length or length
    logits = max(batch * block // 2, batch)
    if not keeps_keys(cell):
        return steps * floor(prompt + length, prompt + length, logits, False)
    # Blocks against a cache: a forward for each step, one to store (or refresh) for each block, the prompt once.
    blocks, middle = -(-length // block), prompt + length // 2
    return (steps + blocks) * floor(block, middle, logits, False) + floor(prompt, prompt, 0, False)


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether cells fit: `need_b` of `have_b` bytes (None: unknown, taken as fitting)."""

    need_b: int
    have_b: int | None

    @property
    def fits(self) -> bool:
        return self.have_b is None or self.need_b <= self.have_b

    @property
    def message(self) -> str:
        """By how much it does not fit, in words."""
        assert self.have_b is not None
        short = self.need_b - self.have_b
        return (
            f"needs about {self.need_b / 1e9:.2f} GB of memory, {self.have_b / 1e9:.2f} GB are free: "
            f"{short / 1e9:.2f} GB too much"
        )
