"""What is measured on a device: the work that a rate counts, the memory it takes, and what a device refuses."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
import torch

from dlmbench.profiles import peaks as measuring
from dlmbench.profiles.clocks import HostClock, clock_for
from dlmbench.profiles.datasheets import with_datasheet
from dlmbench.profiles.device_identity import device_identity
from dlmbench.profiles.hardware import DevicePeaks
from dlmbench.profiles.peaks import measure_peaks

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
IDENTITY = {"device": "cpu", "name": "Example 9000"}
MIB = 1 << 20


class Ticking:
    """A clock on which every stretch takes one second."""

    def __init__(self) -> None:
        self.now = 0.0

    def mark(self) -> float:
        self.now += 1.0
        return self.now

    def seconds(self, marks: Sequence[object]) -> list[float]:
        stamps = [mark for mark in marks if isinstance(mark, float)]
        return [stamp - stamps[0] for stamp in stamps]

    def settle(self) -> None:
        return None


def measured(free_b: int, dtypes: Sequence[str] = ("float32",)) -> DevicePeaks:
    """With a clock that leaves time for every size that fits."""
    return measure_peaks("cpu", dtypes, Ticking(), IDENTITY, budget_s=1000.0, free_b=free_b, rest=lambda _: None)


def test_rates_are_floating_point_operations_and_bytes_moved() -> None:
    # Half of 10 MiB may be used. Three matrices of 512 x 512 float32 take 3 MiB; 1024 x 1024 would take 12. Every size
    # takes a second here, so that the largest is the best. Reads: the largest power of two within 5 MiB, copies: of
    # two blocks.
    found = measured(10 * MIB)
    product = found.matmul["float32"]
    assert (product.size, product.burst, product.sustained) == (512, 2.0 * 512**3, 2.0 * 512**3)
    assert found.read is not None
    assert (found.read.size, found.read.sustained) == (4 * MIB, 4.0 * MIB)
    assert found.copied is not None
    assert (found.copied.size, found.copied.sustained) == (2 * MIB, 2 * 2.0 * MIB)
    assert (found.device, found.name, found.identity, found.missing) == ("cpu", "Example 9000", IDENTITY, {})
    assert found.threads == torch.get_num_threads()


def test_blocks_are_well_beyond_the_last_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two last caches of 64 MiB (each of two of the four processors), and a second level that does not count.
    cpu = {
        "caches": [
            {"level": 2, "size_kib": 1 << 20, "shared_by": 1},
            {"level": 3, "size_kib": 64 << 10, "shared_by": 2},
        ],
        "logical_cores": 4,
    }
    monkeypatch.setattr(measuring, "read_cpu", lambda: cpu)
    assert measuring._blocks("cpu", 1 << 40) == (512 * MIB, 1024 * MIB, 2048 * MIB)
    assert measuring._blocks("cpu", 600 * MIB) == (512 * MIB,)
    assert measuring._blocks("cpu", 500 * MIB) == (256 * MIB,)
    assert measuring._blocks("cpu", MIB - 1) == ()
    monkeypatch.setattr(measuring, "read_cpu", lambda: {"caches": None, "logical_cores": None})
    assert measuring._blocks("cpu", 1 << 40)[0] == 128 * MIB
    assert measuring._blocks("cuda", 1 << 40) == (512 * MIB, 1024 * MIB, 2048 * MIB)


def test_without_memory_everything_is_missing_with_a_reason() -> None:
    found = measured(1000)
    assert (found.matmul, found.read, found.copied) == ({}, None, None)
    assert set(found.missing) == {"float32", "read", "copy"}
    assert set(found.missing.values()) == {"no size of it fits into the free memory"}


def test_a_dtype_that_the_device_refuses_is_missing_with_torchs_own_words() -> None:
    # Matrices of unsigned integers of 16 bits are kept by torch, but not multiplied.
    found = measured(10 * MIB, ("float32", "uint16"))
    assert set(found.matmul) == {"float32"}
    assert "not implemented" in found.missing["uint16"]
    assert "\n" not in found.missing["uint16"]


def test_operands_are_random_and_the_product_is_a_linear_layers() -> None:
    random = torch.randn(1 << 10)
    task = measuring._product("float32", "cpu", random, 3 * 4 * 256**2)
    assert task.sizes == (256,)
    run = task.prepare(256)
    out = run()
    left, right = run.args[0], run.args[1]  # type: ignore[attr-defined]
    assert torch.equal(left.flatten()[: 1 << 10], random)
    assert left.std() > 0.5
    assert right.stride() == (1, 256), "x Wᵀ, with W row by row"
    torch.testing.assert_close(out, left @ right)


@pytest.mark.parametrize(("waited_s", "cores"), [((1.0, 1.0), 0.0), ((1.0, float("nan")), None)])
def test_waiting_for_processors_is_recorded(
    monkeypatch: pytest.MonkeyPatch, waited_s: tuple[float, float], cores: float | None
) -> None:
    readings = list(waited_s)
    monkeypatch.setattr(measuring, "kept_waiting_s", lambda: readings.pop(0))
    found = measured(10 * MIB)
    assert (found.waited_cores, found.disturbed) == (cores, False)


def test_threads_that_always_waited_disturb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "kept_waiting_s", time.perf_counter)
    found = measured(10 * MIB)
    assert found.waited_cores == pytest.approx(1.0, abs=0.1)
    assert found.disturbed


def test_the_real_clock_and_threads_within_a_small_budget() -> None:
    found = measure_peaks(
        "cpu", ("float32",), HostClock(), device_identity("cpu"), budget_s=0.3, free_b=64 * MIB, rest=lambda _: None
    )
    for peak in (found.matmul["float32"], found.read, found.copied):
        assert peak is not None
        assert peak.burst >= peak.sustained > 0
    assert found.name == found.identity["name"]


def test_measuring_leaves_no_large_block_behind() -> None:
    """Workers report their own peak memory: what was measured with must be gone."""
    import gc

    import psutil

    def resident() -> int:
        gc.collect()
        return int(psutil.Process().memory_info().rss)

    measure_peaks("cpu", ("float32",), HostClock(), IDENTITY, budget_s=0.3, free_b=300 * MIB, rest=lambda _: None)
    before = resident()
    measure_peaks("cpu", ("float32",), HostClock(), IDENTITY, budget_s=0.3, free_b=900 * MIB, rest=lambda _: None)
    assert resident() - before < 64 * MIB


@pytest.mark.gpu
@needs_gpu
def test_a_gpus_peaks_lie_below_its_datasheet_and_not_far() -> None:
    found = with_datasheet(
        measure_peaks("cuda", ("float32", "bfloat16"), clock_for("cuda"), device_identity("cuda"), budget_s=16.0)
    )
    assert found.matmul
    for name, peak in found.peaks.items():
        assert peak.sustained <= 1.02 * peak.burst
        stated = found.stated(name)
        if stated is not None:
            assert peak.burst <= 1.05 * stated, name
            assert peak.sustained >= 0.5 * stated, name
