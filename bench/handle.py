"""The parent's end of a worker: start it, ask it, wait for it without spinning, and end it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..profiles.child import PARENT, Lines, write_line
from ..profiles.pinning import pin

# A worker reads its next request as soon as it has answered the last one.
_SEND_S = 60.0


class WorkerFailedError(Exception):
    """A request did not succeed. `code` is one word for programs; `fatal` says that the worker is gone."""

    def __init__(self, code: str, message: str, *, fatal: bool) -> None:
        super().__init__(message)
        self.code, self.message, self.fatal = code, message, fatal


@dataclass(frozen=True, slots=True)
class Launch:
    """How a worker is started: its command, its working folder (None: this process's), and the environment variables
    that it gets besides this process's (None: that one is taken away)."""

    command: tuple[str, ...] = (sys.executable, "-m", "dlmbench.bench.worker")
    folder: Path | None = None
    variables: Mapping[str, str | None] = field(default_factory=dict)


class WorkerHandle:
    """One worker process. Requests and replies are lines of JSON; its standard error goes to `log`."""

    def __init__(self, log: Path, threads: int, device: str, launch: Launch | None = None) -> None:
        launch = launch or Launch()
        own = {**worker_variables(threads, device), PARENT: str(os.getpid()), **launch.variables}
        self._log = log
        self._stderr = open(log, "ab")  # noqa: SIM115 - lives as long as the worker
        try:
            self._process = subprocess.Popen(
                list(launch.command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env={name: value for name, value in {**os.environ, **own}.items() if value is not None},
                cwd=launch.folder,
                # Ctrl-C goes to the parent alone, which then ends its workers in order.
                start_new_session=True,
            )
        except OSError as error:
            self._stderr.close()
            message = f"the worker's command {launch.command[0]!r} cannot be started ({error.strerror})"
            raise WorkerFailedError("input", message, fatal=True) from None
        assert self._process.stdout is not None
        self._replies = Lines(self._process.stdout)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def pin(self, cpus: Sequence[int] | None) -> tuple[int, ...] | None:
        """Keep the worker on these processors; returns them, or None where it stays free to run on any."""
        return tuple(cpus) if cpus is not None and pin(self.pid, cpus) else None

    def send(self, operation: str, **fields: Any) -> None:
        """Send a request without waiting for its reply. Raises WorkerFailedError; a worker that takes no more is
        killed."""
        assert self._process.stdin is not None
        line = json.dumps({"op": operation, **fields}) + "\n"
        try:
            write_line(self._process.stdin, line.encode(), _SEND_S)
        except TimeoutError:
            self.kill()
            raise WorkerFailedError("hang", f"it took no request within {_SEND_S:.0f} s", fatal=True) from None
        except OSError:
            raise self._died() from None

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """The reply to the oldest request. Raises WorkerFailedError; a worker that hangs past the limit is killed."""
        try:
            line = self._replies.next(timeout_s)
        except TimeoutError:
            self.kill()
            raise WorkerFailedError("hang", f"no answer within {timeout_s:.0f} s", fatal=True) from None
        except EOFError:
            raise self._died() from None
        except ValueError as error:
            raise self._no_reply(str(error)) from None
        try:
            reply: dict[str, Any] = json.loads(line)
            ok = reply.pop("ok")
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
            raise self._no_reply(repr(line[:40].decode(errors="replace"))) from None
        if not ok:
            self._stderr.write(_encodable(reply.get("detail", "")).encode())
            self._stderr.flush()
            raise WorkerFailedError(reply["code"], _encodable(reply["message"]), fatal=False)
        return reply

    def ask(self, operation: str, timeout_s: float, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its reply."""
        self.send(operation, **fields)
        return self.receive(timeout_s)

    def end(self) -> None:
        """Let the worker finish by closing its input; kill it if it does not. An empty log is removed."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.kill()
        self._stderr.close()
        if self._log.exists() and not self._log.stat().st_size:
            self._log.unlink()

    def kill(self) -> None:
        """End the worker now."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # The worker leads a process group of its own: what it started goes with it.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()

    def _no_reply(self, what: str) -> WorkerFailedError:
        self.kill()
        message = f"the worker answered {what}, which is no reply; is it `python -m dlmbench.bench.worker`?"
        return WorkerFailedError("protocol", message, fatal=True)

    def _died(self) -> WorkerFailedError:
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.kill()
            return WorkerFailedError("crash", "the worker closed its output and lived on; it was killed", fatal=True)
        if code == -signal.SIGKILL:
            message = "the worker was killed (signal 9); out of memory is the usual reason"
            return WorkerFailedError("killed", message, fatal=True)
        tail = self._tail()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return WorkerFailedError("crash", f"the worker died ({how}){': ' + tail if tail else ''}", fatal=True)

    def _tail(self) -> str:
        with open(self._log, "rb") as log:  # it may be of any size
            log.seek(max(0, log.seek(0, os.SEEK_END) - (1 << 16)))
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""


def _encodable(text: str) -> str:
    """`text` without the lone surrogates by which Python carries bytes that are no Unicode."""
    return text.encode("utf-8", "backslashreplace").decode()


def worker_variables(threads: int, device: str) -> dict[str, str]:
    """Environment that every worker gets, the same for both sides; recorded with each trial."""
    variables = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    if device == "cpu":
        variables |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        # How long an idle team spins (ms, for Intel's and LLVM's OpenMP): it would spin into the other side's sample.
        variables |= {"KMP_BLOCKTIME": "1"}
        # Buffers of many megabytes come and go at every step; without these each one is mapped and unmapped, page
        # fault by page fault, which alone can change sampling by a factor of three.
        variables |= {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
    return {name: value for name, value in variables.items() if name not in os.environ}
