"""What peaks depend on: of a CPU the threads, of a GPU its driver and power limit; never a whole serial number."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dlmbench.profiles.device_identity import device_identity

UUID = "12345678-9abc-def0-1234-56789abcdef0"


class Nvml:
    """Two GPUs; the second one is that of `UUID`."""

    limit_mw = 700_000
    driver = "580.95.05"

    def nvmlInit(self) -> None: ...  # noqa: N802

    def nvmlShutdown(self) -> None: ...  # noqa: N802

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return self.driver

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return f"GPU-{UUID}" if handle else "GPU-ffffffff-0000-0000-0000-000000000000"

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> int:  # noqa: N802
        return self.limit_mw if handle else 1000

    def nvmlDeviceGetEccMode(self, handle: int) -> tuple[int, int]:  # noqa: N802
        return (1, 1)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(uuid=UUID, major=9, minor=0, multi_processor_count=132, total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


def of_gpu(nvml: Any = None, **variables: str) -> dict[str, str]:
    return device_identity("cuda", nvml=lambda: nvml or Nvml(), variables=variables)


def test_a_cpu_is_its_model_its_threads_and_torch() -> None:
    one = device_identity("cpu", variables={})
    assert one["device"] == "cpu"
    assert one["torch"] == torch.__version__
    assert one["threads"] == str(torch.get_num_threads())
    assert one["capability"] == torch.backends.cpu.get_cpu_capability()
    assert one["float32"] == "ieee"
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert device_identity("cpu", variables={}) != one
    finally:
        torch.set_num_threads(threads)
    assert device_identity("cpu", variables={}) == one


def test_variables_that_choose_kernels_count_and_others_do_not() -> None:
    plain = device_identity("cpu", variables={"HOME": "/home/someone", "OMP_NUM_THREADS": "7", "MKL_NUM_THREADS": "7"})
    assert "variables" not in plain
    chosen = device_identity("cpu", variables={"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX512"})
    assert chosen["variables"] == "MKL_ENABLE_INSTRUCTIONS=AVX512 ONEDNN_MAX_CPU_ISA=AVX2"


@pytest.mark.usefixtures("gpu")
def test_a_gpu_is_itself_its_driver_and_its_power_limit() -> None:
    found = of_gpu()
    assert (found["device"], found["name"], found["uuid"]) == ("cuda", "NVIDIA H100 80GB HBM3", "GPU-12345678")
    assert (found["driver"], found["power_limit_w"], found["ecc"]) == ("580.95.05", "700", "True")
    assert (found["capability"], found["processors"], found["memory_gib"]) == ("9.0", "132", "80")
    assert UUID not in str(found)
    assert "threads" not in found
    lower, newer = Nvml(), Nvml()
    lower.limit_mw, newer.driver = 500_000, "590.1"
    assert of_gpu(lower) != found != of_gpu(newer)


@pytest.mark.usefixtures("gpu")
def test_without_nvml_a_gpu_is_what_torch_knows() -> None:
    found = device_identity("cuda", nvml=lambda: None, variables={})
    assert (found["driver"], found["power_limit_w"], found["ecc"]) == ("unknown", "unknown", "None")
    assert found["uuid"] == "GPU-12345678"


@pytest.mark.usefixtures("gpu")
def test_tf32_is_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert of_gpu()["float32"] == "ieee", "torch's own setting, which no model here changes"
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert of_gpu()["float32"] == "tf32"
    assert of_gpu(NVIDIA_TF32_OVERRIDE="0")["float32"] == "ieee"
    assert device_identity("cpu", variables={})["float32"] == "ieee"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert of_gpu()["float32"] == "ieee", "a T4 has no TF32"
