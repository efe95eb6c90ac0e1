"""What is said of measured peaks: below the datasheet, moved since the last time, slow in a dtype."""

from __future__ import annotations

import pytest

from dlmbench.profiles.check_peaks import check_dtypes, check_kept_peaks, check_peaks
from dlmbench.profiles.datasheets import with_datasheet
from dlmbench.profiles.finding import Finding
from dlmbench.profiles.hardware import DevicePeaks, Peak
from dlmbench.profiles.peaks_cache import Remembered


def h100(bf16: float = 700e12, read: float = 3.0e12, measured: str = "2026-03-01T10:15:00+00:00") -> DevicePeaks:
    """An H100 SXM: its datasheet states 989.4 TFLOP/s and 3350 GB/s."""
    return with_datasheet(
        DevicePeaks(
            device="cuda",
            name="NVIDIA H100 80GB HBM3",
            identity={"driver": "1"},
            threads=1,
            measured=measured,
            matmul={"bfloat16": Peak(burst=1.1 * bf16, sustained=bf16, size=8192)},
            read=Peak(burst=read, sustained=read, size=1 << 30),
            copied=Peak(burst=0.9 * read, sustained=0.9 * read, size=1 << 30),
        )
    )


def troubles(findings: list[Finding]) -> list[str]:
    return [finding.code for finding in findings if finding.severity != "ok"]


def test_a_healthy_gpu_has_no_trouble() -> None:
    findings = list(check_peaks(h100(), None, "GPU 0"))
    assert [(f.code, f.severity) for f in findings] == [
        ("peaks.datasheet.bfloat16", "ok"), ("peaks.datasheet.read", "ok"),
    ]  # fmt: skip
    assert findings[0].message == (
        "sustains a matrix product in bfloat16 at 700 TFLOP/s, 71% of the datasheet's 989 TFLOP/s"
    )


@pytest.mark.parametrize(
    ("changed", "codes"),
    [
        # 0.6 x 989.4 = 593.64; 0.8 x 3350 = 2680
        ({"bf16": 594e12, "read": 2.69e12}, []),
        ({"bf16": 593e12}, ["peaks.datasheet.bfloat16"]),
        ({"read": 2.67e12}, ["peaks.datasheet.read"]),
    ],
)
def test_far_below_the_datasheet_is_a_warning(changed: dict[str, float], codes: list[str]) -> None:
    assert troubles(list(check_peaks(h100(**changed), None, "GPU 0"))) == codes


@pytest.mark.parametrize(
    ("bf16", "moved"),
    [(700e12 * 1.049, False), (700e12 * 0.951, False), (700e12 * 1.051, True), (700e12 * 0.949, True)],
)
def test_more_than_five_per_cent_since_the_last_time_is_a_warning(bf16: float, moved: bool) -> None:
    codes = troubles(list(check_peaks(h100(bf16), h100(), "GPU 0")))
    assert codes == (["peaks.moved.bfloat16"] if moved else [])


def test_a_warning_says_what_it_does_and_ends_with_a_command() -> None:
    findings = list(check_peaks(h100(500e12, 2.0e12), h100(), "GPU 0"))
    assert troubles(findings) == [
        "peaks.datasheet.bfloat16", "peaks.moved.bfloat16", "peaks.datasheet.read", "peaks.moved.read",
        "peaks.moved.copy",
    ]  # fmt: skip
    for finding in findings:
        assert finding.effect
        assert finding.remedy.rsplit(": ", 1)[-1].startswith("dlmbench "), finding.remedy
    assert "29% less than the last time (700 TFLOP/s, 2026-03-01T10:15:00+00:00)" in findings[1].message
    assert "prefill, denoising" in findings[0].effect
    assert "decoding" in findings[2].effect


def test_a_disturbed_measurement_is_called_that_and_compared_with_nothing() -> None:
    (finding,) = check_peaks(h100(100e12).model_copy(update={"waited_cores": 0.7}), h100(), "CPU")
    assert (finding.code, finding.severity) == ("peaks.disturbed", "warning")
    assert "waited for 0.7 processors" in finding.message
    assert finding.remedy.endswith(": ps -eo pcpu,pid,comm --sort=-pcpu")
    quiet = h100(100e12).model_copy(update={"waited_cores": 0.2})
    assert "peaks.disturbed" not in troubles(list(check_peaks(quiet, h100(), "CPU")))


def test_without_a_datasheet_only_the_last_time_counts() -> None:
    now, then = (peaks.model_copy(update={"datasheet": None}) for peaks in (h100(70e12), h100(70e12)))
    assert list(check_peaks(now, then, "GPU 0")) == []


def test_a_dtype_of_half_the_bits_that_is_slower_is_told() -> None:
    rates = {"float32": 100.0, "bfloat16": 10.0, "float16": 90.0}
    peaks = h100().model_copy(
        update={"matmul": {name: Peak(burst=rate, sustained=rate, size=1) for name, rate in rates.items()}}
    )
    (finding,) = check_dtypes(peaks, "CPU")
    assert finding.code == "peaks.slow.bfloat16"
    assert finding.message.startswith("bfloat16 products run at 10% of float32's rate")
    assert list(check_dtypes(h100(), "GPU 0")) == [], "no float32 to compare with"


def test_of_what_is_kept_only_the_newest_of_devices_that_are_here() -> None:
    old = h100(100e12, measured="2026-01-01T00:00:00+00:00")
    new = h100(700e12, measured="2026-02-01T00:00:00+00:00")
    gone = h100(100e12).model_copy(update={"name": "NVIDIA L4"})
    kept = [Remembered(last=peaks).model_dump(mode="json") for peaks in (new, old, gone)]
    environment = {"gpu": {"gpus": [{"name": "NVIDIA H100 80GB HBM3"}]}, "cpu": {"model": None}}
    findings = list(check_kept_peaks(environment, {"peaks": kept}))
    assert {finding.severity for finding in findings} == {"ok"}
    assert {finding.subject for finding in findings} == {"peaks of NVIDIA H100 80GB HBM3 (2026-02-01T00:00:00+00:00)"}
    assert list(check_kept_peaks({}, {"peaks": kept})) == list(check_kept_peaks(environment, {})) == []
