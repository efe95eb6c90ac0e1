"""Several models trained side by side, a process each: small networks use one core well and two cores badly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from .. import InputError
from ..models.training.shapes import Model
from .train_view import WORK

_PREFIX = "dlmbench: "  # of the one line in which a command says what was wrong
_ENDS_S = 30.0


def train_side_by_side(
    folder: Path, models: Sequence[Model], *, jobs: int, threads: int, console: Console, quiet: bool
) -> None:
    """Train `models` of the training in `folder`, up to `jobs` at a time, the longest first.

    Each is `dlmbench train --resume folder --model NAME` in a process of its own. Raises InputError with what the first
    one to fail said, when the others have ended.
    """
    ahead = sorted(models, key=lambda model: -WORK[model])
    failed: list[str] = []
    lines: dict[str, str] = {}
    lock = threading.Lock()
    live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal and not quiet else None

    def shown(model: Model, line: str) -> None:
        with lock:
            lines[model] = line
            if live is not None:
                live.update(Text("\n".join(lines.values())), refresh=True)
            elif not quiet:
                console.print(Text(line), soft_wrap=True)

    def worker() -> None:
        while True:
            with lock:
                if not ahead or failed:
                    return
                model = ahead.pop(0)
                process = _started(folder, model, threads)
                running[model] = process
            last = ""
            assert process.stderr is not None
            for line in process.stderr:
                last = line.rstrip("\n")
                shown(model, last)
            code = process.wait()
            with lock:
                running.pop(model, None)
                lines.pop(model, None)
                if code:
                    failed.append(last.removeprefix(_PREFIX) or f"{model}: its process ended with code {code}")

    running: dict[Model, subprocess.Popen[str]] = {}
    workers = [threading.Thread(target=worker, daemon=True) for _ in range(min(jobs, len(ahead)))]
    if live is not None:
        live.start()
    try:
        for thread in workers:
            thread.start()
        for thread in workers:
            thread.join()
    except BaseException:
        with lock:
            ahead.clear()
        _stop(list(running.values()))
        raise
    finally:
        if live is not None:
            live.stop()
    if failed:
        raise InputError(failed[0])


def _started(folder: Path, model: Model, threads: int) -> subprocess.Popen[str]:
    # A team of one thread has nothing to wait for; the other variable keeps a larger one from spinning meanwhile.
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-m", "dlmbench.bench.cli", "train", "--resume", str(folder)]
    return subprocess.Popen(
        [*command, "--model", model, "--threads", str(threads)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def _stop(processes: Sequence[subprocess.Popen[str]]) -> None:
    """End the children as an interruption does; what they saved stays."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    for process in processes:
        try:
            process.wait(_ENDS_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
