"""GPM: which two samples make a window's numbers, and what is missing where there are none."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pynvml
import pytest

from dlmbench.profiles.gpm import Gpm, Shares
from dlmbench.profiles.pinned_gpu import PinnedGpu, pin


def gpm(nvml: ModuleType, *, absent: tuple[str, ...] = (), **gpu: Any) -> tuple[Gpm, Any, Any]:
    clock = nvml.FakeClock()
    binding = nvml.FakeNvml([nvml.Gpu(**{"gpm": nvml.GPM, **gpu})], clock, absent=absent)
    return Gpm(binding, PinnedGpu(board=binding._gpus[0])), clock, binding


def fill(found: Gpm, clock: Any, until_s: float) -> None:
    while clock.now_s < 1000 + until_s:
        if found.due(clock.now_s):
            found.take(clock.now_s)
        clock.now_s += 0.05


def test_the_samples_that_lie_furthest_apart_inside_the_window(nvml: ModuleType) -> None:
    # 90 % busy until 2 s and 30 % from then on.
    busy = {**nvml.GPM, pynvml.NVML_GPM_METRIC_SM_UTIL: lambda t: 90 * min(t - 1000, 2) + 30 * max(t - 1002, 0)}
    found, clock, _ = gpm(nvml, gpm=busy)
    fill(found, clock, 5)
    assert found.between(1002, 1004).values["sm_active"] == pytest.approx(0.30)
    assert found.between(1000, 1002).values["sm_active"] == pytest.approx(0.90)
    # Half and half, but for the fraction of a second between a sample and the window's ends.
    assert found.between(1001, 1003).values["sm_active"] == pytest.approx(0.60, abs=0.05)


def test_a_window_that_has_too_few_samples_says_how_long_is_enough(nvml: ModuleType) -> None:
    found, clock, _ = gpm(nvml)
    fill(found, clock, 2)
    shares = found.between(1001.05, 1001.35)
    assert shares.values == {}
    assert set(shares.missing.values()) == {
        "GPM's samples reach over 0 s of the window's 0.3 s, half is needed; a window of 1 s or more has enough"
    }
    assert found.between(1001.05, 1002.05).missing == {}


def test_a_device_before_hopper_has_none(nvml: ModuleType) -> None:
    found, clock, binding = gpm(nvml, gpm=None)
    fill(found, clock, 2)
    assert found.between(1000, 1002) == Shares.absent("this GPU or its driver has no GPM (Hopper and later have)")
    assert "nvmlGpmSampleAlloc" not in binding.calls


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (
            "nvmlGpmQueryDeviceSupport",
            "the NVML binding lacks nvmlGpmQueryDeviceSupport; a newer nvidia-ml-py may have it",
        ),
        ("nvmlGpmSampleAlloc", "the NVML binding lacks nvmlGpmSampleAlloc; a newer nvidia-ml-py may have it"),
        ("nvmlGpmSampleGet", "the NVML binding lacks nvmlGpmSampleGet; a newer nvidia-ml-py may have it"),
        ("nvmlGpmMetricsGet", "the NVML binding lacks nvmlGpmMetricsGet; a newer nvidia-ml-py may have it"),
    ],
)
def test_a_binding_without_gpm(nvml: ModuleType, function: str, why: str) -> None:
    found, clock, binding = gpm(nvml, absent=(function,))
    fill(found, clock, 2)
    assert found.between(1000, 1002) == Shares.absent(why)
    found.clear()
    assert binding.living_samples == 0


def test_without_permission_the_reason_is_nvmls(nvml: ModuleType) -> None:
    found, clock, binding = gpm(nvml, fails={"nvmlGpmSampleGet": nvml.REFUSED})
    fill(found, clock, 2)
    assert found.between(1000, 1002).missing["sm_active"] == (
        "NVML answers nvmlGpmSampleGet with: Insufficient Permissions"
    )
    assert (binding.calls.count("nvmlGpmSampleGet"), binding.living_samples) == (1, 0)


def test_samples_that_fail_for_a_while_are_a_gap(nvml: ModuleType) -> None:
    fails = {"nvmlGpmSampleGet": lambda t: nvml.UNKNOWN if 1000.5 < t < 1001.5 else None}
    found, clock, _ = gpm(nvml, fails=fails)
    fill(found, clock, 2.2)
    assert found.between(1000, 1002).values["sm_active"] == pytest.approx(0.75)
    # Only what lies after the gap is left of this window, and it is too little to speak for the whole.
    assert (
        found.between(1000.5, 1002).missing["sm_active"].endswith("(NVML answers nvmlGpmSampleGet with: Unknown Error)")
    )


def test_one_metric_may_be_missing(nvml: ModuleType) -> None:
    lacks = frozenset({pynvml.NVML_GPM_METRIC_FP64_UTIL})
    found, clock, _ = gpm(nvml, gpm_fails=lacks)
    fill(found, clock, 2)
    shares = found.between(1000, 1002)
    assert shares.missing == {"fp64_active": "GPM does not offer it on this GPU (NVML error 3)"}
    assert shares.values["tensor_active"] == pytest.approx(0.5)


@pytest.mark.parametrize("percent", [float("nan"), float("inf"), -5.0])
def test_what_is_no_share_is_no_value(nvml: ModuleType, percent: float) -> None:
    found, clock, _ = gpm(nvml, gpm={**nvml.GPM, pynvml.NVML_GPM_METRIC_SM_UTIL: nvml.constant(percent)})
    fill(found, clock, 2)
    shares = found.between(1000, 1002)
    assert shares.missing["sm_active"].endswith("which is no share")
    assert shares.values["dram_active"] == pytest.approx(0.25)


def test_a_long_window_is_bracketed_in_bounded_memory(nvml: ModuleType) -> None:
    found, clock, binding = gpm(nvml)
    fill(found, clock, 600)
    assert binding.living_samples < 128
    shares = found.between(1000, 1600)
    assert shares.values["sm_active"] == pytest.approx(0.75)
    first, last = found._samples[0][0], found._samples[-1][0]
    assert first == 1000
    assert last > 1590


def test_of_several_parts_none_is_sampled(nvml: ModuleType) -> None:
    binding = nvml.FakeNvml([nvml.Gpu(uuid="GPU-0", parts=("MIG-1", "MIG-2"), gpm=nvml.GPM)], lambda: 0.0)
    found = Gpm(binding, pin(binding, uuid="0", index=0, variables={}))
    assert found.why == "the GPU is split (MIG) and which part is measured is not known"
