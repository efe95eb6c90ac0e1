"""Which GPU is read: the one that torch names, in whatever order the driver counts, and the part of a split one."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from dlmbench.profiles.gpus import NoGpuError
from dlmbench.profiles.pinned_gpu import pin

FIRST, SECOND = "11111111-aaaa-0000-0000-000000000000", "22222222-bbbb-0000-0000-000000000000"
PARTS = ("MIG-33333333-cccc-0000-0000-000000000000", "MIG-44444444-dddd-0000-0000-000000000000")


@pytest.fixture
def two(nvml: ModuleType) -> Any:
    """A machine with two whole GPUs."""
    return nvml.FakeNvml([nvml.Gpu(uuid=f"GPU-{FIRST}"), nvml.Gpu(uuid=f"GPU-{SECOND}")], lambda: 0.0)


def split(nvml: ModuleType, *parts: str) -> Any:
    return nvml.FakeNvml([nvml.Gpu(uuid=f"GPU-{FIRST}", parts=parts)], lambda: 0.0)


@pytest.mark.parametrize("uuid", [SECOND, f"GPU-{SECOND}"])
def test_a_uuid_names_the_gpu_whatever_cuda_calls_it(two: Any, uuid: str) -> None:
    # CUDA's device 0 is NVML's device 1 here.
    gpu = pin(two, uuid=uuid, index=0, variables={"CUDA_VISIBLE_DEVICES": "1,0"})
    assert (gpu.board.uuid, gpu.own, gpu.split) == (f"GPU-{SECOND}", gpu.board, False)


def test_a_gpu_that_nvml_does_not_know_is_none(two: Any) -> None:
    with pytest.raises(NoGpuError, match="NVML does not know the GPU GPU-99999999…: Not Found"):
        pin(two, uuid="99999999-0000", index=0, variables={})


@pytest.mark.parametrize(
    ("variables", "index", "found"),
    [
        ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, 1, SECOND),
        ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1"}, 0, SECOND),
        ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1, 0"}, 1, FIRST),
        ({"CUDA_VISIBLE_DEVICES": f"GPU-{SECOND},GPU-{FIRST}"}, 0, SECOND),
    ],
)
def test_without_a_uuid_the_environment_tells(two: Any, variables: dict[str, str], index: int, found: str) -> None:
    assert pin(two, uuid=None, index=index, variables=variables).board.uuid == f"GPU-{found}"


def test_without_a_uuid_two_gpus_in_cudas_order_are_not_told_apart(two: Any) -> None:
    with pytest.raises(NoGpuError, match="set CUDA_DEVICE_ORDER=PCI_BUS_ID"):
        pin(two, uuid=None, index=0, variables={"CUDA_VISIBLE_DEVICES": "1,0"})


def test_the_only_gpu_needs_no_name(nvml: ModuleType) -> None:
    only = nvml.FakeNvml([nvml.Gpu(uuid=f"GPU-{FIRST}")], lambda: 0.0)
    assert pin(only, uuid=None, index=0, variables={"CUDA_VISIBLE_DEVICES": "3"}).board.uuid == f"GPU-{FIRST}"


def test_without_any_gpu_there_is_a_reason(nvml: ModuleType) -> None:
    with pytest.raises(NoGpuError):
        pin(nvml.FakeNvml([], lambda: 0.0), uuid=None, index=0, variables={})


@pytest.mark.parametrize(
    ("uuid", "variables"),
    [
        (PARTS[1].removeprefix("MIG-"), {}),
        # Some versions of CUDA give the board's UUID where they were told a part's.
        (FIRST, {"CUDA_VISIBLE_DEVICES": PARTS[1]}),
        (None, {"CUDA_VISIBLE_DEVICES": PARTS[1]}),
    ],
)
def test_a_part_of_a_split_gpu_is_found_with_its_board(
    nvml: ModuleType, uuid: str | None, variables: dict[str, str]
) -> None:
    gpu = pin(split(nvml, *PARTS), uuid=uuid, index=0, variables=variables)
    assert (gpu.board.uuid, gpu.split, gpu.part.number, gpu.gpu_instance) == (f"GPU-{FIRST}", True, 1, 8)


def test_the_only_part_of_a_split_gpu_is_the_one_meant(nvml: ModuleType) -> None:
    gpu = pin(split(nvml, PARTS[0]), uuid=FIRST, index=0, variables={})
    assert (gpu.split, gpu.own.number) == (True, 0)


def test_of_several_parts_none_is_guessed(nvml: ModuleType) -> None:
    gpu = pin(split(nvml, *PARTS), uuid=FIRST, index=0, variables={})
    assert (gpu.split, gpu.own, gpu.gpu_instance) == (True, None, None)


def test_a_driver_older_than_parts_has_whole_gpus(nvml: ModuleType) -> None:
    absent = ("nvmlDeviceIsMigDeviceHandle", "nvmlDeviceGetMigMode")
    old = nvml.FakeNvml([nvml.Gpu(uuid=f"GPU-{FIRST}")], lambda: 0.0, absent=absent)
    assert not pin(old, uuid=FIRST, index=0, variables={}).split
