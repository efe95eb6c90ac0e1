"""What this device can do right now: a short matrix product and a short read, with the threads and dtype in force.

Run beside a pairing, not once a day: on a shared machine both drift by a factor of two within minutes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .clocks import Clock
from .hardware import Peak
from .record import Calibration

_MATRIX = {"cpu": 1024, "cuda": 8192}
# Half a dozen products are made twice a pairing: longer ones would take a noticeable part of a run.
_LONGEST_S = 0.03
# On a GPU a short read is mostly launch and ramp, or stays in a large cache: the block is always this large there.
_READ_CUDA = 1 << 30
_MOST_READ = 256 << 20
_LEAST_READ = 1 << 20
# A GPU's clock falls within milliseconds under load: its peaks are what it sustains over this long.
_SUSTAINED_S = 0.5


def matrix_for(peak: Peak) -> int:
    """Side of the matrices to calibrate with: the best of a product's known peak, halved until one product is short."""
    side = peak.size
    while side > 1 and 2.0 * side**3 / peak.sustained > _LONGEST_S:
        side //= 2
    return side


class Calibrator:
    """Measures a device for models of one size. Operands live only while it measures: they are not the model's memory.

    The product is a linear layer's, `x Wᵀ`, of the size that suits the device if its `peak` is known (else of 1024 rows
    on a CPU, 8192 on CUDA). The read is of a block as large as the model's weights (at most 256 MiB): what fits a cache
    is read from it. On CUDA it is of 1 GiB.
    """

    def __init__(self, device: str, dtype: str, clock: Clock, weight_bytes: int, peak: Peak | None = None) -> None:
        self._device, self._dtype, self._clock = device, dtype, clock
        kind = "cuda" if device.startswith("cuda") else "cpu"
        self._size = _MATRIX[kind] if peak is None else matrix_for(peak)
        self._block = _READ_CUDA if kind == "cuda" else max(_LEAST_READ, min(weight_bytes, _MOST_READ))

    @torch.inference_mode()
    def measure(self) -> Calibration:
        """Matrix-product rate (FLOP/s) and read bandwidth (B/s), now."""
        random = torch.Generator(self._device).manual_seed(0)
        # Random operands: zeros draw less power and clock higher.
        left, right = (
            torch.randn(self._size, self._size, device=self._device, generator=random).to(getattr(torch, self._dtype))
            for _ in range(2)
        )
        product, block = torch.empty_like(left), torch.ones(self._block // 4, device=self._device)
        return Calibration(
            matmul_flop_s=2.0 * self._size**3 / self._seconds(lambda: torch.mm(left, right.t(), out=product)),
            read_b_s=block.numel() * 4 / self._seconds(block.sum),
            dtype=self._dtype,
            read_block_b=self._block,
            matrix=self._size,
        )

    def _seconds(self, work: Callable[[], object]) -> float:
        """Seconds of one `work`: the best of a few on a CPU, where disturbances only slow it; sustained on CUDA."""
        work()
        best = min(self._timed(work, 1) for _ in range(3))
        if not self._device.startswith("cuda"):
            return best
        return self._timed(work, max(1, int(_SUSTAINED_S / best)))

    def _timed(self, work: Callable[[], object], repeats: int) -> float:
        self._clock.settle()
        begin = self._clock.mark()
        for _ in range(repeats):
            work()
        return self._clock.seconds([begin, self._clock.mark()])[1] / repeats
