"""The process that reads a GPU's counters: `python -m dlmbench.profiles.telemetry_process`.

Its parent asks in lines of JSON on standard input, and each gets one line in reply; between readings and requests it
blocks. It ends with its parent or when its input is closed. See `telemetry_client` for the other end.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Any, TextIO

from .child import replies, tie_to_parent

NVML = "dlmbench.profiles.gpus:load_nvml"
"""Where the NVML binding comes from: a module and a function of it; a test names another."""
_OPERATIONS = ("closely", "window", "stretch", "reasons", "idle")


def main() -> None:
    """Open the device, say so, and read and answer until the input ends."""
    tie_to_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = replies()
    asked = _arguments()

    from .gpu_sampler import GpuSampler  # after the tie: this takes a moment
    from .gpus import NoGpuError, running
    from .pinned_gpu import pin

    module, _, function = asked.nvml.partition(":")
    try:
        nvml = getattr(importlib.import_module(module), function)()
        with running(nvml):
            gpu = pin(nvml, uuid=asked.uuid, index=asked.index, variables=os.environ)
            sampler = GpuSampler(nvml, gpu, own_processes(os.getppid()))
            _say(out, {"ok": True})
            _serve(sampler, sys.stdin.fileno(), out)
    except NoGpuError as error:
        _say(out, {"ok": False, "message": str(error)})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Reads one GPU's counters for dlmbench; not meant to be run by hand.")
    parser.add_argument("--uuid", help="the device's UUID as torch gives it")
    parser.add_argument("--index", type=int, default=0, help="its number in torch")
    parser.add_argument("--nvml", default=NVML, help="module:function that returns the NVML binding")
    return parser.parse_args()


def own_processes(root: int) -> Callable[[int], bool]:
    """Whether a pid is the process `root` or descends from it. Once ours, always ours: it may be gone when asked."""
    import psutil

    ours = {root}

    def own(pid: int) -> bool:
        if pid not in ours:
            try:
                found = any(parent.pid == root for parent in psutil.Process(pid).parents())
            except psutil.Error:
                return False
            if found:
                ours.add(pid)
        return pid in ours

    return own


def _serve(sampler: Any, requests: int, out: TextIO) -> None:
    """Read when a reading is due, answer when something is asked, and block in between."""
    buffer = b""
    while True:
        ready, _, _ = select.select([requests], [], [], sampler.wait_s())
        if not ready:
            sampler.read()
            continue
        piece = os.read(requests, 1 << 16)
        if not piece:
            return
        buffer += piece
        while b"\n" in buffer:
            line, _, buffer = buffer.partition(b"\n")
            _say(out, _answer(sampler, json.loads(line)))


def _answer(sampler: Any, request: dict[str, Any]) -> dict[str, Any]:
    operation = request.pop("op")
    if operation not in _OPERATIONS:
        return {"ok": False, "message": f"unknown operation {operation!r}"}
    try:
        found = getattr(sampler, operation)(**request)
    except Exception as error:
        return {"ok": False, "message": f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]}
    return {"ok": True, "found": found.model_dump() if hasattr(found, "model_dump") else found}


def _say(out: TextIO, reply: dict[str, Any]) -> None:
    out.write(json.dumps(reply) + "\n")
    out.flush()


if __name__ == "__main__":
    main()
