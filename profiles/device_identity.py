"""What a device's peaks depend on: which device it is, and under which driver, torch and settings.

Where one of these differs, peaks measured before say nothing. A GPU's UUID is cut, as in the record of the environment:
enough to tell two GPUs of one machine apart, too little to trace a machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

from .environment import read_variables
from .finding import look, number, records
from .gpus import load_nvml, read_gpus
from .host import read_cpu, read_memory, usable_cpus
from .limits import read_limits

# Variables of libraries that choose other kernels. The number of threads is an entry of its own.
_CHOOSING = ("MKL_", "DNNL_", "ONEDNN_", "OPENBLAS_", "CUBLAS_", "NVIDIA_")


def device_identity(
    device: str,
    *,
    nvml: Callable[[], Any | None] = load_nvml,
    variables: Mapping[str, str] | None = None,
    usable: Collection[int] | None = None,
) -> dict[str, str]:
    """Name and value of everything that the peaks of a device ("cpu", "cuda", "cuda:N") depend on; "name" is its name.

    `usable` are the processors that this process may have, by default those that it is on now: a worker that was pinned
    to some of them is still on the same machine. Threads count on a CPU only. "float32" is "tf32" where float32
    products may be rounded to TF32, else "ieee".
    """
    variables = os.environ if variables is None else variables
    own = _of_gpu(device, nvml()) if device.startswith("cuda") else _of_cpu(usable)
    chosen = {n: v for n, v in read_variables(variables).items() if n.startswith(_CHOOSING) and "THREADS" not in n}
    return {
        **own,
        "torch": str(torch.__version__),
        "float32": _float32(device, variables),
        **({"variables": " ".join(f"{n}={v}" for n, v in chosen.items())} if chosen else {}),
    }


def _float32(device: str, variables: Mapping[str, str]) -> str:
    allowed = torch.get_float32_matmul_precision() != "highest" and variables.get("NVIDIA_TF32_OVERRIDE") != "0"
    able = device.startswith("cuda") and torch.cuda.get_device_capability(device) >= (8, 0)
    return "tf32" if allowed and able else "ieee"


def _of_cpu(usable: Collection[int] | None) -> dict[str, str]:
    cpu = read_cpu(affinity=usable_cpus() if usable is None else usable)
    caches = [cache["size_kib"] for cache in cpu["caches"] or () if cache["size_kib"]]
    memory = read_memory()["total_b"]
    return {
        "device": "cpu",
        "name": str(cpu["model"] or "CPU"),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "cores": f"{cpu['usable_cores']} of {cpu['logical_cores']}",
        "quota_cores": str(read_limits()["cpu_quota_cores"]),
        "cache_kib": str(max(caches, default="unknown")),
        "memory_gib": "unknown" if memory is None else str(round(memory / (1 << 30))),
    }


def _of_gpu(device: str, nvml: Any | None) -> dict[str, str]:
    properties = torch.cuda.get_device_properties(device)
    uuid = str(getattr(properties, "uuid", "unknown"))
    seen = read_gpus(nvml)
    gpu = next((g for g in records(seen["gpus"]) if look(g, "uuid") == f"GPU-{uuid[:8]}"), {})
    power = number(gpu, "power_limit_w")
    return {
        "device": "cuda",
        "name": torch.cuda.get_device_name(device),
        "uuid": f"GPU-{uuid[:8]}",
        "capability": f"{properties.major}.{properties.minor}",
        # A slice (MIG) has fewer of them under the same name and UUID.
        "processors": str(properties.multi_processor_count),
        "memory_gib": str(round(properties.total_memory / (1 << 30))),
        "driver": str(seen.get("driver") or "unknown"),
        "cuda": str(torch.version.cuda),
        "power_limit_w": "unknown" if power is None else f"{power:.0f}",
        "ecc": str(look(gpu, "ecc")),
    }
