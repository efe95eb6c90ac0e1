"""What a process and its child share: the tie that ends the child with its parent, and the pipe between them.

Imports nothing slow: a child ties itself before it does anything else.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import sys
import time
from pathlib import Path
from typing import IO, TextIO

PARENT = "DLMBENCH_PARENT"
"""The environment variable by which a parent tells its child who it is."""


def tie_to_parent() -> None:
    """On Linux: die with the parent, and be the first to go when memory runs out. Elsewhere a closed pipe ends us."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != int(os.environ.get(PARENT, os.getppid())):  # it died before the line above took effect
        sys.exit(1)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def replies() -> TextIO:
    """The original standard output, kept to replies: what libraries print from now on goes to standard error."""
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return kept


# No reply comes near it; what does is no reply, and would fill this process's memory.
_LONGEST = 1 << 28


class Lines:
    """Lines from a pipe, waited for without spinning; they may arrive in pieces."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._buffer = bytearray()

    def next(self, timeout_s: float) -> bytes:
        """The next line. Raises TimeoutError where it is not whole within the limit, EOFError where the pipe ended, and
        ValueError where it takes more than 256 MiB."""
        deadline = time.monotonic() + timeout_s
        seen = 0
        with selectors.DefaultSelector() as selector:
            selector.register(self._pipe, selectors.EVENT_READ)
            while (end := self._buffer.find(b"\n", seen)) < 0:
                seen = len(self._buffer)
                if seen > _LONGEST:
                    raise ValueError("a line of more than 256 MiB")
                if not selector.select(max(deadline - time.monotonic(), 0)):
                    raise TimeoutError
                piece = os.read(self._pipe.fileno(), 1 << 20)
                if not piece:
                    raise EOFError
                self._buffer += piece
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line


def write_line(pipe: IO[bytes], line: bytes, timeout_s: float) -> None:
    """Write a line to a pipe whose reader may have stopped reading. `line` ends in a newline.

    Raises TimeoutError where it is not taken whole within the limit, and OSError where nobody is left to read.
    """
    deadline = time.monotonic() + timeout_s
    os.set_blocking(pipe.fileno(), False)
    left = memoryview(line)
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_WRITE)
        while left:
            if not selector.select(max(deadline - time.monotonic(), 0)):
                raise TimeoutError
            # It may take less than what select promised room for.
            with contextlib.suppress(BlockingIOError):
                left = left[os.write(pipe.fileno(), left) :]
