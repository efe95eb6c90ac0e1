"""The environment of a measurement, as a document: enough to say why two machines, or two days, differ.

    from dlmbench.profiles.environment import capture_environment
    capture_environment()["cpu"]["model"]

It is kept in every run, so it holds no host name, user name or home folder, and of the environment variables only
those on a list. Sections named `now` hold what changes by the second; leave them out to compare two environments.
Nothing here raises: what cannot be read is None. It imports neither torch nor any library that it reports, except
the NVML binding; it takes a few tens of milliseconds (plus the driver's own start where persistence mode is off).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .git import git_state
from .gpus import load_nvml, read_gpus
from .host import Section, read_cpu, read_memory, read_now, read_system, read_timer, usable_cpus
from .limits import read_limits, read_throttling

LIBRARIES = (
    "torch",
    "transformers",
    "numpy",
    "scipy",
    "tokenizers",
    "safetensors",
    "triton",
    "nvidia-ml-py",
    "aiohttp",
    "uvloop",
    "xllamacpp",
    "gguf",
)

# Variables that change how fast the work runs or which kernels do it.
_PREFIXES = (
    "OMP_",
    "MKL_",
    "KMP_",
    "GOMP_",
    "MALLOC_",
    "TORCH",
    "PYTORCH_",
    "CUBLAS_",
    "OPENBLAS_",
    "DNNL_",
    "ONEDNN_",
)
_NAMES = {
    "CUDA_VISIBLE_DEVICES",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "CUDA_DEVICE_ORDER",
    "CUDA_MODULE_LOADING",
    "CXX",
    "GLIBC_TUNABLES",
    "HF_HUB_OFFLINE",
    "LD_PRELOAD",
    "NVIDIA_TF32_OVERRIDE",
    "PYTHONDEVMODE",
    "PYTHONHASHSEED",
    "PYTHONMALLOC",
    "THP_MEM_ALLOC_ENABLE",
    "TOKENIZERS_PARALLELISM",  # the one name with TOKEN in it that holds no secret
    "TRITON_INTERPRET",
}
_SECRETS = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL|AUTH")


def capture_environment(
    root: Path = Path("/"),
    *,
    nvml: Callable[[], Any | None] = load_nvml,
    variables: Mapping[str, str] | None = None,
    package: Path = Path(__file__).parents[1],
) -> dict[str, Any]:
    """The machine, its limits, the software and the variables in force, as nested JSON-able sections.

    Arguments are for tests and for measuring another installation: the file system's root, a loader of the NVML
    binding, the environment variables (None: this process's), and the folder whose git state is recorded.
    """
    return {
        "system": read_system(root),
        "cpu": _portable_cpu(read_cpu(root, usable_cpus())),
        "memory": read_memory(root),
        "limits": read_limits(root),
        "gpu": read_gpus(nvml()),
        "python": read_python(),
        "libraries": read_libraries(),
        "torch": read_torch(sys.modules.get("torch")),
        "torch_build": read_torch_build(),
        "variables": read_variables(os.environ if variables is None else variables),
        "git": git_state(package),
        "now": read_moment(root),
    }


def read_moment(root: Path = Path("/")) -> Section:
    """What changes from one second to the next; a run reads it at its beginning and at its end."""
    return read_now(root) | read_throttling(root) | {"timer": read_timer()}


def read_python() -> Section:
    """The interpreter: version, implementation and what makes it slower (debug build) or different (no GIL)."""
    gil = getattr(sys, "_is_gil_enabled", None)
    return {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "compiler": platform.python_compiler(),
        "debug_build": hasattr(sys, "gettotalrefcount"),
        "gil": bool(gil()) if gil is not None else True,
    }


def read_libraries(version: Callable[[str], str] = importlib.metadata.version) -> dict[str, str | None]:
    """The installed versions, read from the packages' metadata without importing them; None: not installed."""
    found: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except Exception:  # not installed, or its metadata is damaged
            found[name] = None
    return found


def read_torch(torch: Any | None) -> Section | None:
    """How this process's torch was built and set; None if torch has not been imported (it takes seconds to)."""
    if torch is None:
        return None
    readings: dict[str, Callable[[], Any]] = {
        "version": lambda: str(torch.__version__),
        "git": lambda: torch.version.git_version,
        "cuda": lambda: torch.version.cuda,
        "hip": lambda: torch.version.hip,
        "parallel_backend": lambda: _first(r"ATen parallel backend: (.+)", torch.__config__.parallel_info()),
        "mkl": lambda: _first(r"(Intel\(R\).*Math Kernel Library Version \S+)", torch.__config__.show()),
        "blas": lambda: _first(r"BLAS_INFO=([^,\s]+)", torch.__config__.show()),
        "onednn": lambda: bool(torch.backends.mkldnn.is_available()),
        "cpu_capability": lambda: torch.backends.cpu.get_cpu_capability(),
        "threads": lambda: torch.get_num_threads(),
        "interop_threads": lambda: torch.get_num_interop_threads(),
        "float32_matmul_precision": lambda: torch.get_float32_matmul_precision(),
        "deterministic_algorithms": lambda: torch.are_deterministic_algorithms_enabled(),
    }
    section: Section = {}
    for name, read in readings.items():
        try:
            section[name] = read()
        except Exception:  # a build without that part
            section[name] = None
    return section


def read_torch_build(package: Path | None = None) -> Section | None:
    """The CUDA, ROCm and XPU versions that the installed torch was built for, from its `version.py`, unimported.

    Its version's tag would say so too, but the wheels on the package index have none. None: no such file.
    """
    try:
        if package is None:
            found = importlib.util.find_spec("torch")  # a top-level name: finding it imports nothing
            package = Path(found.origin).parent if found and found.origin else None
        text = (package / "version.py").read_text(encoding="utf-8") if package else ""
    except (ImportError, OSError, ValueError):
        return None
    built = dict(re.findall(r"^(cuda|hip|xpu)(?:\s*:[^=\n]+)?\s*=\s*(.+?)\s*$", text, re.MULTILINE))
    if "cuda" not in built:
        return None
    return {name: _first(r"^['\"](.+)['\"]$", built.get(name, "")) for name in ("cuda", "hip", "xpu")}


def read_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables on the list, in order; a name that could belong to a secret is left out.

    Of LD_PRELOAD only the libraries' names are kept (which allocator is the point), a home folder becomes `~`, and
    the part of an address that could hold a password is dropped.
    """
    home = variables.get("HOME", "").rstrip("/")
    kept: dict[str, str] = {}
    for name in sorted(variables):
        allowed = name in _NAMES or (name.startswith(_PREFIXES) and not _SECRETS.search(name))
        if not allowed:
            continue
        value = variables[name]
        if name == "LD_PRELOAD":
            value = ":".join(part.rsplit("/", 1)[-1] for part in re.split(r"[:\s]+", value) if part)
        if home:
            value = value.replace(home, "~")
        kept[name] = re.sub(r"://[^/@\s]*@", "://", value)
    return kept


def _portable_cpu(cpu: Section) -> Section:
    """Where /proc is not there (macOS, Windows), the two facts that Python knows itself."""
    if cpu["logical_cores"] is None:
        cpu["logical_cores"] = os.cpu_count()
        cpu["model"] = platform.processor() or None
    return cpu


def _first(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return found.group(1) if found else None
