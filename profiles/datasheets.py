"""What its maker states for a device, by the device's exact name: `devices.toml` holds the numbers and their sources.

A name is compared whole. A part of it would take an L40S for an L4, or a slice of a GPU for the whole of it.
"""

from __future__ import annotations

import functools
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import Field

from .hardware import Datasheet, DevicePeaks
from .stored import Stored

_FILE = Path(__file__).with_name("devices.toml")
_MAKER = "NVIDIA "


class _Entry(Stored):
    """One `[[device]]` of the file, in the units of its keys."""

    names: tuple[str, ...] = Field(min_length=1)
    source: str = Field(min_length=1)
    memory_gb_s: float | None = Field(default=None, gt=0)
    memory_gb: float | None = Field(default=None, gt=0)
    power_w: float | None = Field(default=None, gt=0)
    matmul_tflop_s: dict[Literal["float32", "tf32", "bfloat16", "float16"], float]

    def sheet(self, name: str) -> Datasheet:
        return Datasheet(
            name=name,
            matmul_flop_s={dtype: rate * 1e12 for dtype, rate in self.matmul_tflop_s.items()},
            memory_b_s=None if self.memory_gb_s is None else self.memory_gb_s * 1e9,
            memory_b=None if self.memory_gb is None else self.memory_gb * 1e9,
            power_w=self.power_w,
            source=self.source,
        )


class _File(Stored):
    device: tuple[_Entry, ...]


@functools.cache
def datasheets() -> dict[str, Datasheet]:
    """All datasheets by the name that torch has for the device, without its maker's."""
    entries = _File.model_validate(tomllib.loads(_FILE.read_text(encoding="utf-8"))).device
    return {name: entry.sheet(name) for entry in entries for name in entry.names}


def datasheet(name: str) -> Datasheet | str:
    """The datasheet of the GPU that `torch.cuda.get_device_name` calls `name`, or why there is none."""
    if "MIG" in name.split():
        return f"{name} is a slice (MIG), the datasheet is the whole card's"
    return datasheets().get(name.removeprefix(_MAKER)) or f"{name} is not in profiles/devices.toml"


def with_datasheet(peaks: DevicePeaks) -> DevicePeaks:
    """`peaks` with its maker's datasheet, or with the reason why it has none.

    Where float32 products run in TF32, the rate stated for float32 is TF32's.
    """
    missing = {name: why for name, why in peaks.missing.items() if name != "datasheet"}
    found: Datasheet | str = "a processor's maker states no rate of matrix products"
    if peaks.device.startswith("cuda"):
        found = datasheet(peaks.name)
    if isinstance(found, str):
        return peaks.model_copy(update={"datasheet": None, "missing": {**missing, "datasheet": found}})
    if peaks.identity.get("float32") == "tf32":
        rates = {dtype: rate for dtype, rate in found.matmul_flop_s.items() if dtype != "float32"}
        if "tf32" in rates:
            rates["float32"] = rates["tf32"]
        found = found.model_copy(update={"matmul_flop_s": rates})
    return peaks.model_copy(update={"datasheet": found, "missing": missing})
