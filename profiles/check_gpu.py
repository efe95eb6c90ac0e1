"""Checks of the GPUs: is torch built for them, does the driver fit, who else uses them, what holds their clocks."""

from __future__ import annotations

import re

from .finding import Document, Finding, Findings, look, number, records, size

# Below this, memory in use without a process is the driver's and the display's own; above, somebody's model.
_UNEXPLAINED_B = 1 << 30
_HOT_MARGIN_C = 5

_HELD = {
    "hardware_thermal": ("warning", "heat: the hardware has cut the clock", "improve cooling; samples are invalid"),
    "software_thermal": ("warning", "heat: the driver has lowered the clock", "let it cool, improve the air flow"),
    "power_brake": ("warning", "the power supply asks for less (power brake)", "check the supply and its cables"),
    "hardware_slowdown": ("warning", "the hardware has cut the clock", "see `nvidia-smi -q -d PERFORMANCE`"),
    "software_power_cap": ("info", "the power limit holds the clock", "none needed: clocks and power are recorded"),
    "application_clocks": ("info", "fixed clocks are set", "to let it choose: sudo nvidia-smi -rgc"),
    "sync_boost": ("info", "tied to another GPU's clock", "take it out of the sync boost group"),
}


def check_gpu(environment: Document, live: Document) -> Findings:
    """Everything about GPUs; on a machine without one, only whether torch was built for one."""
    gpus = records(look(environment, "gpu.gpus"))
    yield from _build(environment, gpus)
    activities = {str(look(item, "index")): item for item in records(look(live, "gpus"))}
    for gpu in gpus:
        index = str(look(gpu, "index"))
        yield from _settings(gpu, f"GPU {index}", index)
        if index in activities:
            yield from _use(activities[index], f"GPU {index}")
            yield from _clocks(activities[index], f"GPU {index}")


def built_for(environment: Document) -> tuple[str, str | None] | None:
    """What torch was built for: ("cuda", "12.8"), ("cuda", None), ("rocm", None), ("cpu", None); None: not known.

    From torch itself if it was imported, else from its version's tag ("2.13.0+cu128"). A wheel for Linux without a tag
    is a CUDA build if Triton came with it.
    """
    version = look(environment, "libraries.torch") or look(environment, "torch.version")
    if not isinstance(version, str):
        return None
    known = look(environment, "torch.cuda")
    if isinstance(known, str):
        return "cuda", known
    tag = version.partition("+")[2]
    if match := re.fullmatch(r"cu(\d+)(\d)", tag):
        return "cuda", f"{match.group(1)}.{match.group(2)}"
    if tag.startswith("rocm") or look(environment, "torch.hip"):
        return "rocm", None
    if tag == "cpu" or isinstance(look(environment, "torch"), dict):
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
            "install the CUDA build of torch (pytorch.org/get-started shows the command)",
        )
    elif not gpus and build[0] == "cuda":
        yield Finding(
            code,
            "info",
            subject,
            f"torch was built for CUDA, but no GPU is visible ({look(environment, 'gpu.why') or 'reason unknown'})",
            "runs use the CPU",
            "if there is a GPU: does `nvidia-smi` see it? In a container: docker run --gpus all",
        )
    elif gpus:
        yield from _driver(environment, build[1])
    else:
        yield Finding(code, "ok", subject, "no GPU, and torch was built for the CPU")


def _driver(environment: Document, built: str | None) -> Findings:
    offered = look(environment, "gpu.cuda_driver")
    code, subject = "gpu.driver", "GPU driver"
    driver = look(environment, "gpu.driver") or "unknown"
    if built is None or not isinstance(offered, str) or not re.fullmatch(r"\d+\.\d+", offered):
        return
    needs, has = ([int(part) for part in text.split(".")[:2]] for text in (built, offered))
    if has[0] < needs[0]:
        yield Finding(
            code,
            "warning",
            subject,
            f"{driver} offers CUDA {offered}; torch was built for {built}",
            "torch will not use the GPU",
            "update the driver, or install a torch built for an older CUDA",
        )
    elif has < needs:
        yield Finding(
            code,
            "info",
            subject,
            f"{driver} offers CUDA {offered}; torch was built for {built}",
            "runs by minor-version compatibility; kernels that the driver must compile may fail",
            "update the driver",
        )
    else:
        yield Finding(code, "ok", subject, f"{driver}, CUDA {offered}")


def _settings(gpu: Document, subject: str, index: str) -> Findings:
    if look(gpu, "persistence") is False:
        yield Finding(
            "gpu.persistence",
            "warning",
            subject,
            "persistence mode is off",
            "the driver unloads between processes: each worker starts seconds later, and on settings that were reset",
            f"sudo nvidia-smi -i {index} -pm 1",
        )
    limit, default = number(gpu, "power_limit_w"), number(gpu, "power_limit_default_w")
    if limit is not None and default is not None and limit < default - 1:
        yield Finding(
            "gpu.power_limit",
            "warning",
            subject,
            f"power limit {limit:.0f} W, default {default:.0f} W",
            "compute-bound forwards (denoising) slow before memory-bound ones (decoding): it moves the ratio",
            f"sudo nvidia-smi -i {index} -pl {default:.0f}",
        )
    if look(gpu, "compute_mode") in ("exclusive_process", "exclusive_thread", "prohibited"):
        yield Finding(
            "gpu.compute_mode",
            "warning",
            subject,
            f"compute mode {look(gpu, 'compute_mode')}",
            "the two sides of a pair need two live processes on the GPU: the second one fails",
            f"sudo nvidia-smi -i {index} -c DEFAULT",
        )
    if look(gpu, "mig") is True:
        yield Finding(
            "gpu.mig",
            "info",
            subject,
            "split into slices (MIG)",
            "figures are those of a slice: the datasheet's peaks do not apply, and power is the whole card's",
            "compare with the peaks measured in the same run only",
        )
    if look(gpu, "ecc") is False:
        yield Finding(
            "gpu.ecc",
            "info",
            subject,
            "memory error correction (ECC) is off",
            "with GDDR memory, bandwidth is some per cent higher than with it on: not comparable with such a card",
            f"for figures to compare: sudo nvidia-smi -i {index} -e 1, then reboot",
        )


def _use(activity: Document, subject: str) -> Findings:
    listed = look(activity, "processes")
    used = number(activity, "memory_used_b")
    others = [process for process in records(listed) if look(process, "own") is not True]
    if others:
        names = ", ".join(
            str(look(p, "name") or "?") + (f" ({size(m)})" if (m := number(p, "memory_b")) is not None else "")
            for p in others
        )
        yield Finding(
            "gpu.others",
            "warning",
            subject,
            f"other processes: {names}",
            "they share its time, bandwidth and power: a measurement beside them is invalid",
            "stop them, or choose another GPU: CUDA_VISIBLE_DEVICES=N",
        )
    elif used is not None and used > _UNEXPLAINED_B and not records(listed):
        yield Finding(
            "gpu.others",
            "info",
            subject,
            f"{size(used)} in use, but no process is listed (usual in a container)",
            "whether others use the GPU is unknown",
            "look from the host: nvidia-smi",
        )
    elif listed is not None:
        yield Finding("gpu.others", "ok", subject, "no other process")


def _clocks(activity: Document, subject: str) -> Findings:
    reasons = look(activity, "clock_reasons")
    for reason in reasons if isinstance(reasons, list) else []:
        if isinstance(reason, str) and reason in _HELD:
            severity, message, remedy = _HELD[reason]
            yield Finding(
                f"gpu.clock.{reason}",
                "warning" if severity == "warning" else "info",
                subject,
                message,
                "times depend on it: compare only samples taken in the same state",
                remedy,
            )
    hot, limit = number(activity, "temperature_c"), number(activity, "slowdown_c")
    if hot is not None and limit is not None and hot >= limit - _HOT_MARGIN_C:
        yield Finding(
            "gpu.temperature",
            "warning",
            subject,
            f"{hot:.0f} °C, slows down at {limit:.0f} °C",
            "the clock is about to fall: whichever side is measured later looks slower",
            "let it cool, improve the air flow",
        )
