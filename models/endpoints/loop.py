"""The event loop of clients and servers: uvloop where there is one, which spends less time between a socket and its
reader, and so stamps more chunks a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

new_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    from uvloop import new_event_loop as new_loop
except ImportError:  # Windows
    new_loop = asyncio.new_event_loop

_Result = TypeVar("_Result")


def run_loop(main: Coroutine[Any, Any, _Result]) -> _Result:
    """Run `main` on a loop of its own and return its result. Ctrl-C cancels it."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)
