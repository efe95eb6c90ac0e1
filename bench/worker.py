"""The worker process: `python -m dlmbench.bench.worker`.

Requests come as lines of JSON on standard input, replies go out on the original standard output; whatever libraries
print goes to standard error. Between requests it blocks on a read: an idle worker uses no processor. It ends when its
parent does, which is why it ties itself to the parent before it imports anything slow.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from pathlib import Path

PARENT = "DLMBENCH_PARENT"


def _tie_to_parent() -> None:
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


def main() -> None:
    """Answer requests until the parent closes the pipe."""
    _tie_to_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Replies keep the original standard output to themselves: a stray print must not corrupt the protocol.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    from .station import Worker, answer

    worker = Worker()
    for line in sys.stdin:
        replies.write(json.dumps(answer(worker, json.loads(line))) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
