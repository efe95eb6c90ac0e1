"""`dlmbench load` against servers that answer every other request as a broken, slow or hostile one would.

    python tests/bench/load/faulty_servers.py

shows, case by case, what the load counted: each fault under its name, the good answers between them all the same, and
the time that it took.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dlmbench.bench.load.command import load_command
from dlmbench.bench.load.given import load_options
from dlmbench.profiles.serving.record import Level

_spec = importlib.util.spec_from_file_location(
    "faulty_wire", Path(__file__).parents[2] / "models" / "endpoints" / "wire.py"
)
assert _spec is not None
assert _spec.loader is not None
wire = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = wire
_spec.loader.exec_module(wire)

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
REQUESTS, SHORT_S = 6, 1.5


@dataclass(frozen=True)
class Case:
    """A way to go wrong, and the names under one of which a load counts it; `one` of them is enough."""

    name: str
    answer: Answer
    codes: tuple[str, ...]
    timeout_s: float = 20.0


async def _no_http(writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x16\x03\x01 what?\r\n\r\n")


async def _hung_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


def _gzip_head() -> bytes:
    return wire.EVENTS.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")


def _forever() -> Iterator[bytes | float]:
    for _ in range(10_000):
        yield wire.GOOD[0]
        yield 0.005


def _cases() -> list[Case]:
    good, event, text = wire.GOOD, wire.event, wire.text_chunk
    elsewhere, number = "Location: http://evil.example/v1", event({"choices": [{"delta": {"content": 4}}]})
    failed = event({"error": {"message": "out of memory"}})
    return [
        Case("401 Unauthorized", wire.whole("401 Unauthorized", b'{"error": "who are you?"}'), ("http_401",)),
        Case("429 with Retry-After", wire.whole("429 Too Many Requests", b"{}", "Retry-After: 0.2"), ("http_429",)),
        Case("500 Internal Server Error", wire.whole("500 Internal Server Error", b"oh"), ("http_500",)),
        Case("redirect to another host", wire.whole("307 Moved", b"", elsewhere), ("redirect",)),
        Case("slow: silent after a chunk", wire.stream(good[0], 30.0), ("timeout",), SHORT_S),
        Case("endless: chunks for ever", wire.stream(*_forever()), ("timeout",), SHORT_S),
        Case("dropped before the reply", _hung_up, ("reset",)),
        Case("dropped inside the reply", wire.stream(good[0], end=False), ("reset",)),
        Case("ends without saying so", wire.stream(*good[:2]), ("truncated",)),
        Case("malformed: no JSON", wire.stream(event(b"{nonsense"), wire.DONE), ("malformed",)),
        Case("malformed: text is a number", wire.stream(number), ("malformed",)),
        Case("malformed: no HTTP", _no_http, ("malformed", "reset")),
        Case("an error inside the stream", wire.stream(failed), ("error_event",)),
        Case("not UTF-8", wire.stream(event(b'{"x": "\xff"}'), wire.DONE), ("encoding",)),
        Case("gzip that is none", wire.stream(b"this is not gzip", head=_gzip_head()), ("encoding",)),
        Case("huge: 40 MB", wire.stream(*[event(text("x" * 1_000_000))] * 40), ("too_large",)),
        Case("no text at all", wire.stream(*good[2:]), ("empty",)),
        # What is odd and whole is an answer.
        Case("gzip'd all the same", wire.stream(wire.gzipped(b"".join(good)), head=_gzip_head()), ()),
        Case("out of order: text after the finish", wire.stream(good[2], *good[:2], wire.DONE), ()),
        Case("no [DONE], but a finish", wire.stream(*good[:3]), ()),
        Case("open long after [DONE]", wire.stream(*good, 30.0), ()),
    ]


CASES = {case.name: case for case in _cases()}


@contextmanager
def served(bad: Answer) -> Iterator[str]:
    """The base URL of a server, in a thread, whose answers are good and `bad` in turn."""
    loop, ready, end, port = asyncio.new_event_loop(), threading.Event(), asyncio.Event(), 0

    async def run() -> None:
        nonlocal port
        good, turns = wire.stream(*wire.GOOD), itertools.count()

        async def answer(writer: asyncio.StreamWriter) -> None:
            await (good if next(turns) % 2 == 0 else bad)(writer)

        async with wire.serving(answer) as port:
            ready.set()
            await end.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(30)
        loop.close()


def loaded(url: str, folder: Path, timeout_s: float = 20.0) -> tuple[dict[str, Any], float]:
    """The level that a load of a few requests measured there, as a document, and the seconds that it took."""
    options = load_options(
        [url], {"model": "m"},
        {"requests": REQUESTS, "warmup": 0, "prompt_tokens": 8, "output_tokens": 8, "timeout_s": timeout_s},
    )  # fmt: skip
    begin = time.monotonic()
    document, _ = load_command(options, ("dlmbench", "load"), Console(file=StringIO()), out=folder)
    (level,) = document["load"]["levels"]
    return level, time.monotonic() - begin


def nobody() -> str:
    """A URL at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


def answered(level: dict[str, Any]) -> int:
    """How many requests of a level were answered."""
    return Level.model_validate(level).requests - sum(level["faults"].values())


def main() -> None:
    table = Table("the server, every other time", "answered", "counted as", "seconds", box=None, pad_edge=False)
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(CASES.values()):
            with served(case.answer) as url:
                level, seconds = loaded(url, Path(folder) / str(number), case.timeout_s)
            table.add_row(case.name, f"{answered(level)} of {REQUESTS}", json.dumps(level["faults"]), f"{seconds:.1f}")
        for name, url in (("nobody there", nobody()), ("no such host", "http://no-such-host.invalid/v1")):
            level, seconds = loaded(url, Path(folder) / name)
            table.add_row(name, f"{answered(level)} of {REQUESTS}", json.dumps(level["faults"]), f"{seconds:.1f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
