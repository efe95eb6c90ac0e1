"""Checks of the GPUs: is torch built for them, does the driver fit, who else uses them?"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .check_gpu_clocks import check_gpu_clocks
from .check_gpu_settings import check_gpu_settings
from .check_remedies import in_container, on_host
from .finding import Document, Finding, Findings, look, number, records, size

# Below this, memory in use without a process is the driver's and the display's own; above, somebody's model.
_UNEXPLAINED_B = 1 << 30

# A driver runs any CUDA of its major version: that version's wheels of torch, and the first branch of its drivers.
_WHEELS = {11: ("cu118", 450), 12: ("cu126", 525), 13: ("cu130", 580)}


def check_gpu(environment: Document, live: Document) -> Findings:
    """Everything about GPUs; on a machine without one, only whether torch was built for one."""
    gpus = records(look(environment, "gpu.gpus"))
    yield from _build(environment, gpus)
    activities = {str(look(item, "index")): item for item in records(look(live, "gpus"))}
    for gpu in gpus:
        index = str(look(gpu, "index"))
        subject = f"GPU {index}"
        yield from check_gpu_settings(gpu, subject, index, environment)
        if index in activities:
            yield from _use(activities, subject, index)
            yield from check_gpu_clocks(gpu, activities[index], subject, index, environment)


def built_for(environment: Document) -> tuple[str, str | None] | None:
    """What torch was built for: ("cuda", "12.8"), ("cuda", None), ("rocm", None), ("cpu", None); None: not known.

    From torch itself if it was imported, else from the file it writes at its build, else from its version's tag
    ("2.13.0+cu128"). A wheel for Linux without a tag is a CUDA build if Triton came with it.
    """
    version = look(environment, "libraries.torch") or look(environment, "torch.version")
    if not isinstance(version, str):
        return None
    for section in ("torch", "torch_build"):
        if isinstance(known := look(environment, f"{section}.cuda"), str):
            return "cuda", known
    tag = version.partition("+")[2]
    if match := re.fullmatch(r"cu(\d+)(\d)", tag):
        return "cuda", f"{match.group(1)}.{match.group(2)}"
    if tag.startswith("rocm") or look(environment, "torch.hip") or look(environment, "torch_build.hip"):
        return "rocm", None
    if look(environment, "torch_build.xpu"):
        return None
    if tag == "cpu" or any(isinstance(look(environment, name), dict) for name in ("torch", "torch_build")):
        return "cpu", None
    return ("cuda", None) if look(environment, "libraries.triton") else None


def _build(environment: Document, gpus: list[Document]) -> Findings:
    build = built_for(environment)
    code, subject = "gpu.torch", "torch and the GPU"
    if look(environment, "libraries.torch") is None and look(environment, "torch") is None:
        yield Finding(
            code, "warning", subject, "torch is not installed", "nothing can be measured", "pip install torch"
        )
        return
    if build is None or build[0] == "rocm":
        return
    hidden = look(environment, "variables.CUDA_VISIBLE_DEVICES")
    if gpus and isinstance(hidden, str) and hidden.strip() in ("", "-1"):
        yield Finding(
            "gpu.hidden",
            "info",
            "CUDA_VISIBLE_DEVICES",
            f"set to {hidden!r}: the GPUs are hidden from torch",
            "runs use the CPU",
            "unset CUDA_VISIBLE_DEVICES",
        )
    if gpus and build[0] == "cpu":
        yield Finding(
            code,
            "warning",
            subject,
            f"{len(gpus)} GPU{'s' if len(gpus) > 1 else ''} here, but this torch was built for the CPU only",
            "runs use the CPU",
            _install(look(environment, "gpu.cuda_driver")) or "see which wheel the driver runs: nvidia-smi",
        )
    elif not gpus and build[0] == "cuda":
        yield Finding(
            code,
            "info",
            subject,
            f"torch was built for CUDA, but no GPU is visible ({look(environment, 'gpu.why') or 'reason unknown'})",
            "runs use the CPU",
            "give the container the GPUs: docker run --gpus all IMAGE"
            if in_container(environment)
            else "if there is a GPU, see whether the driver does: nvidia-smi",
        )
    elif gpus:
        yield from _driver(environment, build[1])
    else:
        yield Finding(code, "ok", subject, "no GPU, and torch was built for the CPU")


def _driver(environment: Document, built: str | None) -> Findings:
    offered = look(environment, "gpu.cuda_driver")
    code, subject = "gpu.driver", "GPU driver"
    driver = look(environment, "gpu.driver") or "unknown"
    if not all(isinstance(text, str) and re.fullmatch(r"\d+\.\d+", text) for text in (built, offered)):
        return
    needs, has = ([int(part) for part in text.split(".")[:2]] for text in (str(built), str(offered)))
    if has[0] < needs[0]:
        yield Finding(
            code,
            "warning",
            subject,
            f"{driver} offers CUDA {offered}; torch was built for {built}",
            "torch will not use the GPU: runs use the CPU",
            _update(environment, needs[0], _install(offered)),
        )
    elif has < needs:
        yield Finding(
            code,
            "info",
            subject,
            f"{driver} offers CUDA {offered}; torch was built for {built}",
            "runs by minor-version compatibility; kernels that the driver must compile (PTX) fail: such cells are lost",
            _update(environment, needs[0], None),
        )
    else:
        yield Finding(code, "ok", subject, f"{driver}, CUDA {offered}")


def _install(offered: object) -> str | None:
    """The command that installs a torch which that driver runs; None if none is built for it."""
    major = re.match(r"\d+", offered) if isinstance(offered, str) else None
    wheel = _WHEELS.get(int(major.group())) if major else None
    if wheel is None:
        return None
    return f"pip install --force-reinstall torch  # with the index that pytorch.org names for {wheel[0]}"


def _update(environment: Document, major: int, install: str | None) -> str:
    branch = f" to {_WHEELS[major][1]} or newer" if major in _WHEELS else ""
    update = on_host(environment, "sudo ubuntu-drivers install")
    if install:
        return f"update the driver{branch} (Ubuntu: {update}), or take a torch that it runs: {install}"
    return f"update the driver{branch}; Ubuntu, then reboot: {update}"


def _use(activities: Mapping[str, Document], subject: str, index: str) -> Findings:
    activity = activities[index]
    listed = look(activity, "processes")
    used = number(activity, "memory_used_b")
    others = [process for process in records(listed) if look(process, "own") is not True]
    free = [other for other, item in activities.items() if other != index and look(item, "processes") == []]
    if others:
        names = ", ".join(
            str(look(p, "name") or "?") + (f" ({size(m)})" if (m := number(p, "memory_b")) is not None else "")
            for p in others
        )
        busy = number(activity, "utilisation_percent")
        yield Finding(
            "gpu.others",
            "warning",
            subject,
            f"other processes: {names}" + (f"; {busy:.0f} % busy" if busy is not None else ""),
            "they share its time, bandwidth, memory and power: latency_s and energy_j grow by their part, and the "
            "samples are invalid",
            # CUDA's own order of GPUs is by speed, not the driver's.
            f"take a free GPU: CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES={free[0]} dlmbench run"
            if free
            else f"stop them; for their numbers: nvidia-smi -i {index} "
            "--query-compute-apps=pid,process_name,used_memory --format=csv",
        )
    elif used is not None and used > _UNEXPLAINED_B and not records(listed):
        yield Finding(
            "gpu.others",
            "info",
            subject,
            f"{size(used)} in use, but no process is listed (usual in a container)",
            "whether others use the GPU, and lengthen latency_s, is unknown; the record says so",
            f"look from the host: nvidia-smi -i {index}",
        )
    elif listed is not None:
        yield Finding("gpu.others", "ok", subject, "no other process")
    drawing = look(activity, "graphics_processes")
    if isinstance(drawing, list) and drawing:
        yield Finding(
            "gpu.display",
            "info",
            subject,
            f"draws a screen: {', '.join(str(name or '?') for name in drawing)}",
            "frames are drawn between kernels: single samples grow by milliseconds; memory is smaller by the screen's",
            "without a desktop while measuring: sudo systemctl isolate multi-user.target",
        )
