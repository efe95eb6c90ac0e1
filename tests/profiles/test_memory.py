"""Peak memory from a /proc made by hand, and from the allocator where there is a GPU."""

from pathlib import Path

import pytest
import torch

from dlmbench.profiles.memory import read_peak_b, reset_peak

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

STATUS = "Name:\tpython\nVmPeak:\t  900000 kB\nVmHWM:\t   12345 kB\nVmRSS:\t    9999 kB\n"


def test_the_peak_is_the_high_water_mark_in_bytes(tmp_path: Path) -> None:
    (tmp_path / "status").write_text(STATUS, encoding="utf-8")
    assert read_peak_b("cpu", tmp_path) == 12345 * 1024


def test_a_reset_is_asked_of_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "clear_refs").touch()
    reset_peak("cpu", tmp_path)
    assert (tmp_path / "clear_refs").read_text() == "5"  # man 5 proc: 5 resets the peak resident size


def test_where_the_system_does_not_tell_there_is_no_number(tmp_path: Path) -> None:
    assert read_peak_b("cpu", tmp_path) is None
    (tmp_path / "status").write_text("Name:\tpython\n", encoding="utf-8")
    assert read_peak_b("cpu", tmp_path) is None
    reset_peak("cpu", tmp_path / "absent")  # may not be allowed; must not fail
    assert not (tmp_path / "absent").exists()


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc here")
def test_a_peak_outlives_what_made_it() -> None:
    before = read_peak_b("cpu")
    assert before is not None
    held = torch.ones(16 << 20)  # 64 MiB, touched
    del held
    after = read_peak_b("cpu")
    assert after is not None
    assert after >= before


@pytest.mark.gpu
@needs_gpu
def test_the_gpus_peak_is_the_allocators() -> None:
    torch.cuda.empty_cache()
    reset_peak("cuda")
    before = read_peak_b("cuda")
    held = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
    del held
    after = read_peak_b("cuda")
    assert before is not None
    assert after is not None
    assert (64 << 20) <= after - before < (66 << 20)
    reset_peak("cuda")
    again = read_peak_b("cuda")
    assert again is not None
    assert again < after
