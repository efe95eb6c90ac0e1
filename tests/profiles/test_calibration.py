"""Calibrated rates are work over time, the best of the repeats."""

from collections.abc import Sequence

import pytest

from dlmbench.profiles.calibration import Calibrator, matrix_for
from dlmbench.profiles.clocks import HostClock
from dlmbench.profiles.hardware import Peak
from dlmbench.profiles.record import Calibration


class ScriptedClock:
    """Says that timed stretches took the given seconds, in turn, and a second passed between them."""

    def __init__(self, durations: Sequence[float]) -> None:
        self._durations = list(durations)
        self._now = 100.0
        self._inside = False
        self.settled = 0

    def mark(self) -> float:
        self._now += self._durations.pop(0) if self._inside else 1.0
        self._inside = not self._inside
        return self._now

    def seconds(self, marks: Sequence[object]) -> list[float]:
        stamps = [mark for mark in marks if isinstance(mark, float)]
        return [stamp - stamps[0] for stamp in stamps]

    def settle(self) -> None:
        assert not self._inside
        self.settled += 1


def test_rates_are_the_best_of_three_repeats() -> None:
    # Products of 1024 x 1024 matrices: 2 x 1024^3 FLOPs, fastest 0.25 s. Reads of 64 MiB, fastest 0.5 s.
    clock = ScriptedClock([0.5, 0.25, 2.0, 1.0, 4.0, 0.5])
    found = Calibrator("cpu", "float32", clock, 64 << 20).measure()
    assert found.matmul_flop_s == pytest.approx(2 * 1024**3 / 0.25)
    assert found.read_b_s == pytest.approx(64 * 2**20 / 0.5)
    assert (found.dtype, found.read_block_b) == ("float32", 64 << 20)
    assert clock.settled == 6  # each stretch starts from an idle device


@pytest.mark.parametrize(
    ("size", "sustained", "matrix"),
    [
        # 2 x 1024^3 FLOPs at 100 GFLOP/s take 21 ms: short enough. 2048: 172 ms, 4096: 1.4 s; halved until it is.
        (1024, 1e11, 1024),
        (2048, 1e11, 1024),
        (4096, 1e11, 1024),
        # 2 x 8192^3 FLOPs at 700 TFLOP/s take 1.6 ms, 16384: 13 ms.
        (8192, 7e14, 8192),
        (16384, 7e14, 16384),
        # A device without a fast kernel: 2 x 256^3 FLOPs at 1 GFLOP/s take 34 ms.
        (256, 1e9, 128),
    ],
)
def test_the_product_has_the_size_that_suits_the_device_unless_that_takes_long(
    size: int, sustained: float, matrix: int
) -> None:
    peak = Peak(burst=2 * sustained, sustained=sustained, size=size)
    assert matrix_for(peak) == matrix


def test_a_calibration_says_how_large_its_matrices_were() -> None:
    peak = Peak(burst=1e12, sustained=1e12, size=64)
    found = Calibrator("cpu", "float32", ScriptedClock([1.0] * 6), 1 << 20, peak).measure()
    assert (found.matrix, found.matmul_flop_s) == (64, 2.0 * 64**3)
    assert Calibrator("cpu", "float32", ScriptedClock([1.0] * 6), 1 << 20).measure().matrix == 1024


def test_a_calibration_from_before_says_nothing_of_its_matrices() -> None:
    old = '{"matmul_flop_s": 1e12, "read_b_s": 1e11, "dtype": "float32", "read_block_b": 1024}'
    assert Calibration.model_validate_json(old).matrix is None


@pytest.mark.parametrize(("weights", "block"), [(10, 1 << 20), (3 << 20, 3 << 20), (1 << 40, 256 << 20)])
def test_the_block_read_is_as_large_as_the_weights_within_bounds(weights: int, block: int) -> None:
    assert Calibrator("cpu", "float32", ScriptedClock([1.0] * 6), weights).measure().read_block_b == block


def test_a_real_clock_gives_positive_rates_again_and_again() -> None:
    calibrator = Calibrator("cpu", "bfloat16", HostClock(), 1 << 20)
    for _ in range(2):
        found = calibrator.measure()
        assert found.matmul_flop_s > 0
        assert found.read_b_s > 0
        assert found.dtype == "bfloat16"
