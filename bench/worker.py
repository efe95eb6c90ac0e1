"""The worker process: `python -m dlmbench.bench.worker`.

Requests come as lines of JSON on standard input, replies go out on the original standard output; whatever libraries
print goes to standard error. Between requests it blocks on a read: an idle worker uses no processor. It ends when its
parent does, which is why it ties itself to the parent before it imports anything slow.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from ..profiles.child import replies, tie_to_parent

# Counts up whenever a request or a reply changes so that a parent or a worker of an older version would refuse it.
PROTOCOL = 1


def main() -> None:
    """Answer requests until the parent closes the pipe."""
    tie_to_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = replies()

    from .station import Worker, answer

    worker = Worker()
    for line in sys.stdin:
        out.write(json.dumps(answer(worker, json.loads(line))) + "\n")
        out.flush()
    sys.stderr.flush()
    # Taking torch apart costs half a second a worker, and nothing is left to be saved. A compiler's helpers, though,
    # are ended by it.
    if "torch._inductor" not in sys.modules:
        os._exit(0)


if __name__ == "__main__":
    main()
