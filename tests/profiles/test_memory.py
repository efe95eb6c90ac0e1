"""Memory from a /proc made by hand, from pools made by hand, and from the allocator where there is a GPU."""

from pathlib import Path

import pytest
import torch

from dlmbench.profiles.memory import MemoryMeter, Pool

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

STATUS = "Name:\tpython\nVmPeak:\t  900000 kB\nVmHWM:\t   12345 kB\nVmRSS:\t    9999 kB\n"


def test_in_use_and_the_peak_are_the_resident_size_and_its_high_water_mark(tmp_path: Path) -> None:
    (tmp_path / "status").write_text(STATUS, encoding="utf-8")
    meter = MemoryMeter("cpu", tmp_path)
    assert (meter.start(), meter.peak_b()) == (9999 * 1024, 12345 * 1024)


def test_a_reset_is_asked_of_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "clear_refs").touch()
    MemoryMeter("cpu", tmp_path).start()
    assert (tmp_path / "clear_refs").read_text() == "5"  # man 5 proc: 5 resets the peak resident size


def test_where_the_system_does_not_tell_there_is_no_number(tmp_path: Path) -> None:
    meter = MemoryMeter("cpu", tmp_path / "absent")
    assert (meter.start(), meter.peak_b()) == (None, None)
    assert not (tmp_path / "absent").exists()
    (tmp_path / "status").write_text("Name:\tpython\n", encoding="utf-8")
    assert MemoryMeter("cpu", tmp_path).peak_b() is None


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc here")
def test_a_peak_outlives_what_made_it_and_a_reset_forgets_it() -> None:
    meter = MemoryMeter("cpu")
    before = meter.start()
    held = torch.ones(16 << 20)  # 64 MiB, touched
    del held
    peak = meter.peak_b()
    assert before is not None
    assert peak is not None
    assert peak - before > 60 << 20
    meter.return_freed()
    again = meter.start()
    assert again is not None
    assert again < peak - (60 << 20)


def test_only_graphs_have_pools_of_their_own() -> None:
    """Segments (size, live) by pool: torch names the common one (0, 0)."""
    segments = [
        {"segment_pool_id": name, "total_size": total, "allocated_size": live}
        for name, total, live in [((0, 0), 100, 90), ((0, 1), 20, 5), ((0, 1), 2, 1), ((0, 2), 22, 0)]
    ]
    assert MemoryMeter("cuda").pools(lambda: segments) == {(0, 1): Pool(22, 6), (0, 2): Pool(22, 0)}
    assert MemoryMeter("cpu").pools(lambda: segments) == {}


@pytest.mark.gpu
@needs_gpu
def test_the_gpus_peak_is_the_allocators() -> None:
    meter = MemoryMeter("cuda")
    before = meter.start()
    held = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
    del held
    after = meter.peak_b()
    assert before is not None
    assert after is not None
    assert after - before == 64 << 20
    assert meter.start() == meter.peak_b() == before
