"""Datasheets: found by a device's whole name only, dense, and of the precision that products really have."""

from __future__ import annotations

import pytest

from dlmbench.profiles.datasheets import datasheet, datasheets, with_datasheet
from dlmbench.profiles.hardware import Datasheet, DevicePeaks, Peak


def found(name: str) -> Datasheet:
    sheet = datasheet(name)
    assert isinstance(sheet, Datasheet), sheet
    return sheet


# Names as torch.cuda.get_device_name gives them, with the dense bf16 rate (TFLOP/s; None: no such units) and the
# bandwidth (GB/s) that are widely known of each.
NAMES = [
    ("NVIDIA B200", 2250, 7700),
    ("NVIDIA GB200", 2500, 8000),
    ("NVIDIA H200", 989.5, 4800),
    ("NVIDIA H200 NVL", 835.5, 4800),
    ("NVIDIA GH200 480GB", 989.5, 4000),
    ("NVIDIA GH200 144G HBM3e", 989.5, 4900),
    ("NVIDIA H100 80GB HBM3", 989.4, 3350),
    ("NVIDIA H100 PCIe", 756, 2000),
    ("NVIDIA H100 NVL", 835.5, 3900),
    ("NVIDIA A100-SXM4-80GB", 312, 2039),
    ("NVIDIA A100-SXM4-40GB", 312, 1555),
    ("NVIDIA A100 80GB PCIe", 312, 1935),
    ("NVIDIA A100-PCIE-40GB", 312, 1555),
    ("A100-SXM4-40GB", 312, 1555),
    ("NVIDIA A30", 165, 933),
    ("NVIDIA A40", 149.7, 696),
    ("NVIDIA A10", 125, 600),
    ("NVIDIA A10G", 70, 600),
    ("NVIDIA L4", 121, 300),
    ("NVIDIA L40", 181.05, 864),
    ("NVIDIA L40S", 362.05, 864),
    ("Tesla V100-SXM2-16GB", None, 900),
    ("Tesla V100-SXM2-32GB", None, 900),
    ("Tesla V100-PCIE-16GB", None, 900),
    ("Tesla V100-PCIE-32GB", None, 900),
    ("Tesla V100S-PCIE-32GB", None, 1134),
    ("Tesla T4", None, 320),
    ("NVIDIA GeForce RTX 5090", 209.5, 1792),
    ("NVIDIA GeForce RTX 4090", 165.2, 1008),
    ("NVIDIA GeForce RTX 3090", 71, 936),
    ("GeForce RTX 3090", 71, 936),
    ("NVIDIA RTX 6000 Ada Generation", 364.2, 960),
    ("NVIDIA RTX A6000", 154.8, 768),
]


@pytest.mark.parametrize(("name", "tflop_s", "gb_s"), NAMES)
def test_a_device_is_found_by_the_name_that_torch_has_for_it(name: str, tflop_s: float | None, gb_s: float) -> None:
    sheet = found(name)
    assert sheet.matmul_flop_s.get("bfloat16") == (None if tflop_s is None else pytest.approx(tflop_s * 1e12))
    assert sheet.memory_b_s == pytest.approx(gb_s * 1e9)


def test_every_datasheet_is_looked_for_above() -> None:
    assert {name.removeprefix("NVIDIA ") for name, _, _ in NAMES} == set(datasheets())


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA L400",
        "NVIDIA L4 PCIe",
        "NVIDIA A100",
        "NVIDIA H100",
        "NVIDIA H100 SXM5 64GB",
        "NVIDIA H800",
        "NVIDIA H20",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 5090 D",
        "NVIDIA RTX 6000",
        "Quadro RTX 6000",
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
        "NVIDIA A40-48Q",
        "nvidia l4",
        " NVIDIA L4",
        "NVIDIA NVIDIA L4",
        "",
    ],
)
def test_another_device_has_none_and_the_reason_names_it(name: str) -> None:
    assert datasheet(name) == f"{name} is not in profiles/devices.toml"


@pytest.mark.parametrize(
    "name",
    ["NVIDIA H200 MIG 1g.18gb", "NVIDIA A100-SXM4-80GB MIG 3g.40gb", "MIG 1g.10gb", "NVIDIA H100 PCIe MIG 1g.20gb"],
)
def test_a_slice_is_not_the_whole_card(name: str) -> None:
    assert datasheet(name) == f"{name} is a slice (MIG), the datasheet is the whole card's"


@pytest.mark.parametrize("name", sorted(datasheets()))
def test_every_datasheet_is_plausible_and_dense(name: str) -> None:
    sheet = found(name)
    rates = sheet.matmul_flop_s
    assert sheet.name == name
    assert sheet.source.startswith("NVIDIA")
    assert rates
    assert sheet.memory_b_s is not None
    # A dense 16-bit product is at most twice as fast as one in TF32: a sparse rate would be four times.
    if "tf32" in rates:
        assert 1.9 * rates["tf32"] <= rates["bfloat16"] <= 2.1 * rates["tf32"]
        assert rates["float32"] <= rates["tf32"]
    assert rates.get("bfloat16", rates["float16"]) == rates["float16"]
    # FLOPs a byte at which both are the limit: none of these is built far from the others.
    assert 70 <= rates["float16"] / sheet.memory_b_s <= 450
    assert 8e12 < rates.get("float32", 1e13) < 1.1e14
    assert sheet.power_w is None or 70 <= sheet.power_w <= 1200


def peaks(device: str, name: str, **identity: str) -> DevicePeaks:
    return DevicePeaks(
        device=device,
        name=name,
        identity=identity,
        threads=1,
        measured="2026-03-01T10:15:00+00:00",
        matmul={"float32": Peak(burst=2.0, sustained=1.0, size=1024)},
        missing={"float16": "refused", "datasheet": "an older reason"},
    )


def test_peaks_get_their_datasheet_and_lose_the_reason_for_none() -> None:
    stated = with_datasheet(peaks("cuda:1", "NVIDIA H100 80GB HBM3", float32="ieee"))
    assert stated.stated("float32") == pytest.approx(66.9e12)
    assert stated.stated("bfloat16") == pytest.approx(989.4e12)
    assert stated.stated("read") == stated.stated("copy") == pytest.approx(3.35e12)
    assert stated.stated("float64") is None
    assert stated.missing == {"float16": "refused"}


def test_float32_that_runs_in_tf32_is_held_to_tf32s_rate() -> None:
    assert with_datasheet(peaks("cuda", "NVIDIA A100-SXM4-80GB", float32="tf32")).stated("float32") == 156e12
    # Of an A10G no TF32 rate is known: nothing is better than the wrong one.
    assert with_datasheet(peaks("cuda", "NVIDIA A10G", float32="tf32")).stated("float32") is None


@pytest.mark.parametrize(
    ("device", "name", "words"),
    [
        ("cpu", "NVIDIA L4", "processor's maker states no rate"),
        ("cuda", "Example GPU", "Example GPU is not in"),
        ("cuda", "NVIDIA H200 MIG 1g.18gb", "slice"),
    ],
)
def test_peaks_without_a_datasheet_say_why(device: str, name: str, words: str) -> None:
    plain = with_datasheet(peaks(device, name))
    assert plain.datasheet is None
    assert words in plain.missing["datasheet"]
    assert plain.missing["float16"] == "refused"
    assert plain.stated("read") is None
