"""Checks of memory, power, disk, the compiler, the caches and the variables in force."""

from __future__ import annotations

import math

from .check_remedies import in_container, on_host
from .finding import Document, Finding, Findings, look, number, size

_LOW_MEMORY_B = 2 << 30  # two workers with torch loaded take about 1 GiB before any weights
_LOW_MEMORY_SHARE = 0.1
_LOW_DISK_B = 1 << 30  # a large run with traces takes some hundred MiB
_SWAP_SHARE = 0.01

# (variable, values that matter or None for any, effect)
_VARIABLES: tuple[tuple[str, frozenset[str] | None, str], ...] = (
    ("CUDA_LAUNCH_BLOCKING", frozenset({"1"}), "the host waits for every kernel: launch-bound decoding slows most"),
    ("PYTORCH_NO_CUDA_MEMORY_CACHING", frozenset({"1"}), "every tensor is a cudaMalloc, which stops the device"),
    ("TORCHDYNAMO_DISABLE", frozenset({"1"}), "the engine `compile` runs eagerly under its name"),
    ("TORCH_COMPILE_DISABLE", frozenset({"1"}), "the engine `compile` runs eagerly under its name"),
    ("TRITON_INTERPRET", frozenset({"1"}), "Triton kernels run in Python, thousands of times slower"),
    ("NVIDIA_TF32_OVERRIDE", None, "float32 products change precision and speed whatever torch is told"),
    ("PYTHONDEVMODE", frozenset({"1"}), "Python's debug checks slow the host's part of every step"),
)


def check_system(environment: Document, live: Document) -> Findings:
    """Everything about this machine that is neither a processor nor a GPU."""
    yield from _memory(environment)
    yield from _swap(environment)
    yield from _huge_pages(environment)
    yield from _battery(live)
    yield from _disk(live)
    yield from _compiler(environment, live)
    yield from _folders(live)
    yield from _variables(environment)


def _memory(environment: Document) -> Findings:
    total, available = number(environment, "memory.total_b"), number(environment, "now.memory_available_b")
    limit = number(environment, "limits.memory_limit_b")
    if limit is not None and total is not None and limit < total:
        more = math.ceil(2 * limit / (1 << 30))
        yield Finding(
            "memory.limit",
            "warning" if limit < 2 * _LOW_MEMORY_B else "info",
            "container's memory limit",
            f"{size(limit)} of {size(total)}",
            "a cell that needs more is killed, and is recorded as failed",
            f"measure smaller shapes, or start it with more: docker run --memory {more}g IMAGE",
        )
    if total is None or available is None:
        return
    if available < max(_LOW_MEMORY_B, _LOW_MEMORY_SHARE * total):
        yield Finding(
            "memory.available",
            "warning",
            "free memory",
            f"{size(available)} of {size(total)}",
            "two workers may not fit: cells fail, or the kernel frees pages (weights among them) while samples run",
            "measure a smaller pair, or close the largest programs; to name them: ps -eo rss,pid,comm --sort=-rss",
        )
    else:
        yield Finding("memory.available", "ok", "free memory", f"{size(available)} of {size(total)}")


def _swap(environment: Document) -> Findings:
    used, total = number(environment, "now.swap_used_b"), number(environment, "memory.total_b")
    if not used or not total:
        return
    yield Finding(
        "memory.swap",
        "warning" if used > _SWAP_SHARE * total else "info",
        "swap",
        f"{size(used)} in use",
        "a weight that was swapped out is read from disk: that sample's latency_s is up to thousands of times longer",
        f"free memory, then: {on_host(environment, 'sudo swapoff -a && sudo swapon -a')}",
    )


def _huge_pages(environment: Document) -> Findings:
    policy = look(environment, "memory.transparent_huge_pages")
    code, subject = "memory.huge_pages", "transparent huge pages"
    if policy == "always":
        yield Finding(code, "ok", subject, "always")
    elif policy == "madvise" and look(environment, "variables.THP_MEM_ALLOC_ENABLE") != "1":
        yield Finding(
            code,
            "info",
            subject,
            "madvise: only for programs that ask",
            "large weights lie on 4 KiB pages: every read of them costs both sides more address translations",
            "torch asks, in every run that is compared, after: export THP_MEM_ALLOC_ENABLE=1",
        )
    elif policy == "never":
        yield Finding(
            code,
            "info",
            subject,
            "never",
            "large weights lie on 4 KiB pages: every read of them costs both sides more address translations",
            f"export THP_MEM_ALLOC_ENABLE=1, and {'on the host' if in_container(environment) else 'here'}: "
            "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
        )


def _battery(live: Document) -> Findings:
    if look(live, "on_battery") is True:
        yield Finding(
            "power.battery",
            "warning",
            "power supply",
            "running on battery",
            "firmware caps power, and lowers the cap as the battery drains: latency_s drifts upwards",
            "plug the machine in (no command can)",
        )


def _disk(live: Document) -> Findings:
    free = number(live, "output_free_b")
    if free is None:
        return
    if free < _LOW_DISK_B:
        yield Finding(
            "disk.output",
            "warning",
            "disk space for results",
            f"{size(free)} free in the output folder",
            "a run whose record cannot be written stops; what is on disk stays readable",
            "free some space, or choose another folder: dlmbench run --out DIR",
        )
    else:
        yield Finding("disk.output", "ok", "disk space for results", f"{size(free)} free")


def _compiler(environment: Document, live: Document) -> Findings:
    compilers = look(live, "compilers")
    if not isinstance(compilers, list):
        return
    if compilers:
        yield Finding("engine.compiler", "ok", "C++ compiler", ", ".join(str(name) for name in compilers))
        return
    wanted = look(environment, "variables.CXX")
    yield Finding(
        "engine.compiler",
        "warning",
        "C++ compiler",
        f"{wanted} (from CXX) is not on PATH" if wanted else "no g++ on PATH",
        "the engine `compile` needs it: its cells fail, and each side's fastest engine may be missing",
        "let torch look for its own: unset CXX" if wanted else "Debian, Ubuntu: sudo apt install g++",
    )


def _folders(live: Document) -> Findings:
    if look(live, "writable.home") is False:
        yield Finding(
            "folder.home",
            "info",
            "home folder",
            "not writable",
            "downloaded weights cannot be cached: each run fetches them again or fails",
            "choose a folder that is writable: export HF_HOME=DIR",
        )
    if look(live, "writable.matplotlib") is False:
        yield Finding(
            "folder.matplotlib",
            "info",
            "matplotlib's folder",
            "not writable",
            "each report searches all fonts again (seconds) and warns",
            "choose a folder that is writable: export MPLCONFIGDIR=DIR",
        )
    state = look(live, "writable.compile_cache")
    if state is False or look(live, "compile_cache_executable") is False:
        yield Finding(
            "folder.compile_cache",
            "warning",
            "torch's compile cache",
            "not writable" if state is False else "on a file system mounted noexec",
            "the engine `compile` fails, or compiles everything again in each process",
            "choose a writable folder from which programs may run: export TORCHINDUCTOR_CACHE_DIR=DIR",
        )


def _variables(environment: Document) -> Findings:
    for name, values, effect in _VARIABLES:
        value = look(environment, f"variables.{name}")
        if isinstance(value, str) and (values is None or value in values):
            yield Finding(f"variable.{name}", "warning", name, f"set to {value}", effect, f"unset {name}")
