"""Calibrated rates are work over time, the best of the repeats."""

from collections.abc import Sequence

import pytest

from dlmbench.profiles.calibration import Calibrator
from dlmbench.profiles.clocks import HostClock


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
