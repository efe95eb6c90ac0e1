"""One window: requests at a fixed concurrency or at times drawn in advance, and everything that came back, unread.

Nothing is shown, parsed or written while a window is open, and no garbage is collected: the event loop has one thing to
do, and what it is late by is recorded. A request that is due is sent whatever became of those before it.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ...models.endpoints.client import Client, Exchange, Limits
from ...models.endpoints.endpoint import Endpoint
from ...models.endpoints.faults import Fault
from ...profiles.serving.record import Load, Part
from .arrivals import due_times
from .options import MOST_OPEN

# What a retry may be asked to wait.
_LONGEST_WAIT_S = 30.0
_PAUSE_S = 0.1
_WATCH_S = 0.01
_RETRIED = ("refused", "connect", "reset", "timeout", "http_429", "http_500", "http_502", "http_503", "http_504")


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """What a window does. `warmup` requests come first and do not count; nor do those of the ramp."""

    load: Load
    requests: int | None
    duration_s: float
    ramp_s: float
    warmup: int
    retries: int
    seed: str
    fresh: bool
    limits: Limits
    most_open: int = MOST_OPEN


@dataclass(slots=True)
class Asked:
    """A request: when it was due and sent (`time.monotonic_ns`), and what came of its last attempt."""

    number: int
    part: Part
    due_ns: int
    sent_ns: int = 0
    retries: int = 0
    exchange: Exchange = field(default_factory=Exchange)


@dataclass(slots=True)
class Opened:
    """What a window gave: its requests, when it began, why it ended, how many were open at most, and by how much the
    event loop woke up late, again and again, in seconds."""

    began_ns: int
    asked: list[Asked]
    stopped_by: str
    most_open: int
    late_s: list[float] = field(default_factory=list)


async def run_window(endpoint: Endpoint, plan: WindowPlan, body: Callable[[int], bytes]) -> Opened:
    """Open a window on a server, wait until every request that was begun has ended, and return them all.

    `body(i)` is the JSON of request number i, made when it is about to be sent: it should be quick. Cancelling the task
    cancels what is open; what had ended by then is lost with it: a window is the unit of work.
    """
    async with Client(endpoint, plan.limits, fresh=plan.fresh) as client:
        window = _Window(client, plan, body)
        await window.warm_up()
        watch = asyncio.create_task(window.watch())
        try:
            with _undisturbed():
                if plan.load.kind == "closed":
                    await window.closed(int(plan.load.value))
                else:
                    await window.open()
        finally:
            watch.cancel()
        return window.result()


class _Window:
    """A window's state."""

    def __init__(self, client: Client, plan: WindowPlan, body: Callable[[int], bytes]) -> None:
        self._client, self._plan, self._body = client, plan, body
        self._numbers = itertools.count()
        self._asked: list[Asked] = []
        self._open = self._most_open = 0
        self._began_ns = 0
        self._stopped_by = ""
        self._late_s: list[float] = []

    async def watch(self) -> None:
        """How late the loop wakes up is how late it stamps what has arrived."""
        while True:
            due = time.monotonic() + _WATCH_S
            await asyncio.sleep(_WATCH_S)
            self._late_s.append(time.monotonic() - due)

    async def warm_up(self) -> None:
        """Make connections, as many at a time as the load has clients; none of it counts."""
        now = time.monotonic_ns()
        many = int(self._plan.load.value) if self._plan.load.kind == "closed" else 1
        left = self._plan.warmup
        while left:
            together = min(left, many)
            await asyncio.gather(*(self._ask("warmup", now) for _ in range(together)))
            left -= together

    async def closed(self, clients: int) -> None:
        """Every client sends its next request when its last one has ended."""
        plan = self._plan
        self._began_ns = begin = time.monotonic_ns()
        ramp_end = begin + round(plan.ramp_s * 1e9)
        end = ramp_end + round(plan.duration_s * 1e9)
        counted = 0

        async def client(number: int) -> None:
            nonlocal counted
            await asyncio.sleep(plan.ramp_s * number / clients)
            while (now := time.monotonic_ns()) < end:
                part: Part = "ramp" if now < ramp_end else "counted"
                if part == "counted":
                    if counted == plan.requests:
                        self._stopped_by = "requests"
                        return
                    counted += 1
                asked = await self._ask(part, now)
                if asked.exchange.fault is not None:
                    # A server that refuses at once is not asked as fast as it can refuse.
                    wait = asked.exchange.retry_after_s
                    await asyncio.sleep(min(_PAUSE_S if wait is None else wait, _LONGEST_WAIT_S))
            self._stopped_by = self._stopped_by or "duration"

        await asyncio.gather(*(client(number) for number in range(clients)))

    async def open(self) -> None:
        """Send each request when it is due, whatever has become of the others."""
        plan = self._plan
        due = due_times(plan.load, plan.duration_s, plan.ramp_s, plan.requests, plan.seed)
        counted = sum(at >= plan.ramp_s for at in due)
        self._stopped_by = "requests" if counted == plan.requests else "duration"
        self._began_ns = begin = time.monotonic_ns()
        tasks: set[asyncio.Task[Asked]] = set()
        for at in due:
            at_ns = begin + round(at * 1e9)
            # A loop that counts milliseconds may wake up a part of one too soon.
            while (left := at_ns - time.monotonic_ns()) > 0:
                await asyncio.sleep(left * 1e-9)
            part: Part = "ramp" if at < plan.ramp_s else "counted"
            if len(tasks) >= self._plan.most_open:
                self._refuse(part, at_ns)
                await asyncio.sleep(0)  # or nothing would ever be received
                continue
            task = asyncio.create_task(self._ask(part, at_ns))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.gather(*tasks)

    def result(self) -> Opened:
        return Opened(
            began_ns=self._began_ns,
            asked=sorted(self._asked, key=lambda asked: asked.number),
            stopped_by=self._stopped_by,
            most_open=self._most_open,
            late_s=self._late_s,
        )

    async def _ask(self, part: Part, due_ns: int) -> Asked:
        number = next(self._numbers)
        asked = Asked(number, part, due_ns)
        self._asked.append(asked)
        body = self._body(number)
        self._open += 1
        self._most_open = max(self._most_open, self._open)
        try:
            asked.sent_ns = time.monotonic_ns()
            while True:
                asked.exchange = await self._client.ask(body)
                fault = asked.exchange.fault
                if fault is None or fault.code not in _RETRIED or asked.retries == self._plan.retries:
                    # Whoever retries has waited since the first attempt.
                    asked.exchange.sent_ns = asked.sent_ns
                    return asked
                asked.retries += 1
                wait = asked.exchange.retry_after_s
                await asyncio.sleep(min(wait if wait is not None else 0.5 * 2**asked.retries, _LONGEST_WAIT_S))
        finally:
            self._open -= 1

    def _refuse(self, part: Part, due_ns: int) -> None:
        """A request that the client itself has no room for: due, and not sent."""
        now = time.monotonic_ns()
        fault = Fault("client_full", f"{self._plan.most_open:,} requests were open")
        exchange = Exchange(sent_ns=now, end_ns=now, fault=fault)
        self._asked.append(Asked(next(self._numbers), part, due_ns, now, exchange=exchange))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No collection of garbage meanwhile."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
