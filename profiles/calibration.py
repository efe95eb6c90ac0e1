"""What this device can do right now: a short matrix product and a short read, with the threads and dtype in force.

Run beside a pairing, not once a day: on a shared machine both drift by a factor of two within minutes. The best of a
few repeats is taken, because a disturbance can only slow them.
"""

from __future__ import annotations

import torch

from .clocks import Clock
from .record import Calibration

_READ_BYTES = {"cpu": 256 << 20, "cuda": 1 << 30}
_MATRIX = {"cpu": 1024, "cuda": 8192}


class Calibrator:
    """Keeps its operands between calls, so that a calibration costs only the work that it times."""

    def __init__(self, device: str, dtype: str, clock: Clock) -> None:
        kind = "cuda" if device.startswith("cuda") else "cpu"
        self._clock, self._dtype = clock, dtype
        random = torch.Generator(device).manual_seed(0)
        size = _MATRIX[kind]
        # Random operands: zeros draw less power and clock higher.
        self._left = torch.randn(size, size, device=device, generator=random).to(getattr(torch, dtype))
        self._right = torch.randn(size, size, device=device, generator=random).to(getattr(torch, dtype))
        self._product = torch.empty_like(self._left)
        self._block = torch.ones(_READ_BYTES[kind] // 4, device=device)

    @torch.inference_mode()
    def measure(self, repeats: int = 3) -> Calibration:
        """Peak matrix-product rate (FLOP/s) and read bandwidth (B/s): best of `repeats` after one warm-up."""
        product = self._best(lambda: torch.mm(self._left, self._right, out=self._product), repeats)
        read = self._best(lambda: self._block.sum(), repeats)
        return Calibration(
            matmul_flop_s=2.0 * self._left.shape[0] ** 3 / product,
            read_b_s=self._block.numel() * 4 / read,
            dtype=self._dtype,
        )

    def _best(self, work: object, repeats: int) -> float:
        assert callable(work)
        work()
        marks = []
        for _ in range(repeats):
            self._clock.settle()
            marks.append((self._clock.mark(), work() is None, self._clock.mark()))
        seconds = self._clock.seconds([mark for begin, _, end in marks for mark in (begin, end)])
        return min(end - begin for begin, end in zip(seconds[::2], seconds[1::2], strict=True))
