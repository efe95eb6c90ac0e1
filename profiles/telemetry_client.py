"""The parent's end of the process that reads a GPU's counters: start it, ask it, and do without it when it fails.

Whatever becomes of that process costs telemetry and nothing else. Once it died, or did not answer within a short limit,
it is ended, and every later question is answered at once: null, with the reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from .child import PARENT, Lines
from .gpus import NoGpuError
from .hardware import TELEMETRY, Telemetry
from .telemetry_process import NVML

# A call of NVML may wait for the driver's lock while a context is made or a profiler starts. No timed region waits.
_START_S, _ANSWER_S, _END_S = 20.0, 15.0, 1.0
IDLE_S = 1.5
"""Long enough for the energy counter's steps to be placed well; see `energy_counter`."""
_SETTLES_S = 0.5  # what was copied to the device a moment ago is not what it draws idle


class TelemetryProcess:
    """A running process that reads one GPU. All times are those of `time.monotonic`, which processes share."""

    def __init__(self, process: subprocess.Popen[bytes], errors: Any, answer_s: float) -> None:
        assert process.stdout is not None
        self._process, self._errors, self._answer_s = process, errors, answer_s
        self._replies = Lines(process.stdout)
        self._why: str | None = None
        self._refused: str | None = None

    @classmethod
    def start(
        cls,
        *,
        uuid: str | None,
        index: int = 0,
        nvml: str = NVML,
        start_s: float = _START_S,
        answer_s: float = _ANSWER_S,
    ) -> TelemetryProcess:
        """Watch the device that torch calls `cuda:index` and `uuid`. Raises NoGpuError with the reason."""
        command = [sys.executable, "-m", f"{__package__}.telemetry_process", "--index", str(index), "--nvml", nvml]
        try:
            errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
            process = subprocess.Popen(
                command if uuid is None else [*command, "--uuid", uuid],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, PARENT: str(os.getpid())},
                start_new_session=True,
            )
        except OSError as error:
            raise NoGpuError(f"the process that reads NVML does not start: {error}") from None
        made = cls(process, errors, answer_s)
        try:
            made._receive(start_s)
        except _FailedError as error:
            made.close()
            raise NoGpuError(str(error)) from None
        return made

    @property
    def pid(self) -> int:
        return self._process.pid

    @contextlib.contextmanager
    def closely(self) -> Iterator[None]:
        """Inside the block the counters are read often and with GPM: for replays, never for timed samples."""
        self._ask("closely", on=True)
        try:
            yield
        finally:
            self._ask("closely", on=False)

    def window(self, *, begin_s: float, end_s: float, generations: int, output_tokens: int) -> Telemetry:
        """What the counters say of a window in which so much was generated, asked inside `closely`."""
        work = {"generations": generations, "output_tokens": output_tokens}
        found = self._ask("window", begin_s=begin_s, end_s=end_s, **work)
        return self._telemetry(found, end_s - begin_s, generations)

    def stretch(self, *, begin_s: float, end_s: float) -> Telemetry:
        """The readings of a stretch as they came, for a picture of them."""
        return self._telemetry(self._ask("stretch", begin_s=begin_s, end_s=end_s), end_s - begin_s, 0)

    def reasons(self, *, begin_s: float, end_s: float) -> tuple[tuple[str, ...] | None, int | None]:
        """All that held the clocks in a stretch, and the most processes of others on the device; None: unknown."""
        found = self._ask("reasons", begin_s=begin_s, end_s=end_s)
        if found is None:
            return None, None
        held, foreign = found
        return None if held is None else tuple(held), foreign

    def watch_idle(self, seconds: float = IDLE_S) -> None:
        """Read the power of the device for `seconds` in which nothing runs on it; windows show it from then on."""
        if self._why is not None:
            return
        time.sleep(_SETTLES_S)
        with self.closely():
            begin_s = time.monotonic()
            time.sleep(seconds if self._why is None else 0.0)
            self._ask("idle", begin_s=begin_s, end_s=time.monotonic())

    def close(self) -> None:
        """End the process; a second time does nothing."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self._process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            # One that hangs in the driver does not die before the driver lets it go.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=_END_S)
        self._errors.close()
        self._why = self._why or "the process that reads NVML was ended"

    def _telemetry(self, found: Any, window_s: float, generations: int) -> Telemetry:
        if found is not None:
            return Telemetry.model_validate(found)
        missing = dict.fromkeys(TELEMETRY, self._why or self._refused or "not read")
        return Telemetry(source="NVML", window_s=window_s, generations=generations, missing=missing)

    def _ask(self, operation: str, **fields: Any) -> Any:
        """The answer to a request; None where there is none any more."""
        if self._why is not None:
            return None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps({"op": operation, **fields}) + "\n").encode())
            self._process.stdin.flush()
            return self._receive(self._answer_s)
        except _RefusedError as error:
            # It lives, and may answer the next question.
            self._refused = str(error)
            return None
        except OSError:
            self._why = self._died()
        except _FailedError as error:
            self._why = str(error)
        self._process.kill()
        return None

    def _receive(self, timeout_s: float) -> Any:
        try:
            reply = json.loads(self._replies.next(timeout_s))
        except TimeoutError:
            raise _FailedError(f"the process that reads NVML did not answer within {timeout_s:g} s") from None
        except EOFError:
            raise _FailedError(self._died()) from None
        except ValueError:
            raise _FailedError("the process that reads NVML answered with something that is no JSON") from None
        if not reply["ok"]:
            raise _RefusedError(reply["message"])
        return reply.get("found")

    def _died(self) -> str:
        try:
            code = self._process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            return "the process that reads NVML closed its pipe"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"the process that reads NVML died ({how}){': ' + last[:300] if last else ''}"


class _FailedError(Exception):
    """The process did not answer, and the message says why."""


class _RefusedError(_FailedError):
    """The process could not answer this question; the message is its own."""
