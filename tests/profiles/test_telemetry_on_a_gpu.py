"""The counters of a real device against each other and against what ran on it. Skipped where there is none."""

from __future__ import annotations

import time

import pytest
import torch

from dlmbench.profiles.hardware import TELEMETRY, Telemetry
from dlmbench.profiles.telemetry_client import TelemetryProcess

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(scope="module")
def windows() -> tuple[Telemetry, Telemetry]:
    """Two seconds of large matrix products, then two seconds of nothing, watched by a process of its own."""
    x = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    uuid = getattr(torch.cuda.get_device_properties(0), "uuid", None)
    process = TelemetryProcess.start(uuid=None if uuid is None else str(uuid))

    def work(seconds: float) -> int:
        until, count = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            for _ in range(4):
                x @ x
            torch.cuda.synchronize()
            count += 4
        return count

    try:
        process.watch_idle()
        with process.closely():
            work(1.0)
            begin = time.monotonic()
            count = work(2.0)
            end = time.monotonic()
            busy = process.window(begin_s=begin, end_s=end, generations=count, output_tokens=count)
            time.sleep(1.0)
            begin = time.monotonic()
            time.sleep(2.0)
            idle = process.window(begin_s=begin, end_s=time.monotonic(), generations=1, output_tokens=1)
    finally:
        process.close()
    return busy, idle


def test_everything_is_a_value_or_has_a_reason(windows: tuple[Telemetry, Telemetry]) -> None:
    for seen in windows:
        assert {*seen.values, *seen.missing} == set(TELEMETRY)
        assert all(seen.missing.values())


def test_the_energy_counter_agrees_with_integrated_power(windows: tuple[Telemetry, Telemetry]) -> None:
    busy, _ = windows
    if "energy_integrated_ratio" in busy.missing:
        pytest.skip(busy.missing["energy_integrated_ratio"])
    assert busy.values["energy_integrated_ratio"] == pytest.approx(1.0, abs=0.1)


def test_multiprocessors_work_in_the_window_and_rest_outside_it(windows: tuple[Telemetry, Telemetry]) -> None:
    busy, idle = windows
    if "sm_active" in busy.missing:
        pytest.skip(busy.missing["sm_active"])
    assert busy.values["sm_active"] > 0.5
    assert busy.values["tensor_active"] > 0.2
    assert idle.values["sm_active"] < 0.05


def test_utilisation_and_power_belong_to_their_window(windows: tuple[Telemetry, Telemetry]) -> None:
    busy, idle = windows
    compared = [name for name in ("gpu_util_nvml", "power_w") if name in busy.values and name in idle.values]
    if not compared:
        pytest.skip(f"{busy.missing.get('gpu_util_nvml')}; {busy.missing.get('power_w')}")
    for name in compared:
        assert busy.values[name] > 1.2 * idle.values[name]


def test_our_own_process_is_not_foreign(windows: tuple[Telemetry, Telemetry]) -> None:
    busy, _ = windows
    assert busy.foreign in (0, None)  # None: a container's list shows no process of ours
