"""The one GPU that is measured, found in NVML by the name that torch gives it.

NVML counts devices by PCI bus, CUDA in an order of its own over those that CUDA_VISIBLE_DEVICES leaves: only a UUID
names the same device to both. Of a GPU that is split (MIG), CUDA sees one part, with a UUID of its own. Memory and
processes are then the part's; clocks and temperature are the board's, which all parts share; utilisation, power and
energy are counted for the whole board alone and say nothing of a part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .gpus import NoGpuError


@dataclass(frozen=True, slots=True)
class PinnedGpu:
    """An opened device: the handle of its `board` and, if that is split, the part's and its GPU instance's number.

    `part` is None on a split board of whose parts more than one could be meant.
    """

    board: Any
    split: bool = False
    part: Any = None
    gpu_instance: int | None = None

    @property
    def own(self) -> Any:
        """The handle of what CUDA sees: the whole board, or the part (None: not known which)."""
        return self.part if self.split else self.board


def pin(nvml: Any, *, uuid: str | None, index: int, variables: Mapping[str, str]) -> PinnedGpu:
    """The device that torch calls `cuda:index` and `uuid` (None: this torch does not tell), in NVML that is running.

    `variables` is the environment under which CUDA sees its devices. Raises NoGpuError with one sentence.
    """
    handle = _handle(nvml, uuid, index, variables)
    try:
        if _is_part(nvml, handle):
            return _part(nvml, nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle), handle)
        if not _split(nvml, handle):
            return PinnedGpu(board=handle)
        parts = _parts(nvml, handle)
        return _part(nvml, handle, parts[0]) if len(parts) == 1 else PinnedGpu(board=handle, split=True)
    except Exception as error:
        raise NoGpuError(f"NVML cannot open the GPU: {error}") from None


def _handle(nvml: Any, uuid: str | None, index: int, variables: Mapping[str, str]) -> Any:
    entries = [entry.strip() for entry in variables.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    entry = entries[index] if index < len(entries) else ""
    if entry.startswith("MIG-"):
        # Some versions of CUDA name the board where a part is meant.
        return _by_uuid(nvml, entry)
    if uuid is not None:
        bare = uuid.removeprefix("GPU-").removeprefix("MIG-")
        return _by_uuid(nvml, f"GPU-{bare}", f"MIG-{bare}")
    if entry.startswith("GPU-"):
        return _by_uuid(nvml, entry)
    try:
        count = int(nvml.nvmlDeviceGetCount())
        if count == 1 or variables.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
            place = int(entry) if entry.isdigit() else index
            return nvml.nvmlDeviceGetHandleByIndex(0 if count == 1 else place)
    except Exception as error:
        raise NoGpuError(f"NVML cannot open the GPU: {error}") from None
    raise NoGpuError(
        f"torch names no UUID for cuda:{index} and CUDA counts the {count} GPUs in another order than NVML; "
        "set CUDA_DEVICE_ORDER=PCI_BUS_ID"
    )


def _by_uuid(nvml: Any, *names: str) -> Any:
    reasons = []
    for name in names:
        try:
            return nvml.nvmlDeviceGetHandleByUUID(name)
        except Exception as error:
            reasons.append(str(error))
    raise NoGpuError(f"NVML does not know the GPU {names[0][:12]}…: {'; '.join(dict.fromkeys(reasons))}")


def _is_part(nvml: Any, handle: Any) -> bool:
    try:
        found = nvml.nvmlDeviceIsMigDeviceHandle(handle)
    except Exception:  # a driver older than MIG
        return False
    # The binding hands out the C integer itself.
    return bool(getattr(found, "value", found))


def _split(nvml: Any, handle: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except Exception:  # a GPU that cannot be split
        return False


def _parts(nvml: Any, board: Any) -> list[Any]:
    parts = []
    for place in range(int(nvml.nvmlDeviceGetMaxMigDeviceCount(board))):
        try:
            parts.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(board, place))
        except Exception:
            continue
    return parts


def _part(nvml: Any, board: Any, part: Any) -> PinnedGpu:
    return PinnedGpu(board=board, split=True, part=part, gpu_instance=int(nvml.nvmlDeviceGetGpuInstanceId(part)))
