"""A server of raw bytes on loopback: each path of it answers as a broken, slow or hostile server would."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from dlmbench.models.endpoints.client import Client, Exchange, Limits
from dlmbench.models.endpoints.endpoint import Endpoint
from dlmbench.models.endpoints.key import Key
from dlmbench.models.endpoints.loop import run_loop
from dlmbench.models.endpoints.replies import Reply, read_reply

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
SECRET = "sk-this-is-a-secret-key"


def chunked(data: bytes) -> bytes:
    """A piece of a chunked body."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def text_chunk(text: str, finish: str | None = None) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


def event(document: object) -> bytes:
    return b"data: " + (document if isinstance(document, bytes) else json.dumps(document).encode()) + b"\n\n"


def whole(status: str, body: bytes, *headers: str) -> Answer:
    """An answer with a length."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    return answer


def stream(*parts: bytes | float, end: bool = True, head: bytes = EVENTS) -> Answer:
    """A chunked stream; a number is a pause in seconds. Without `end` the connection breaks off."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        for part in parts:
            if isinstance(part, bytes):
                writer.write(chunked(part))
                await writer.drain()
            else:
                await asyncio.sleep(part)
        if end:
            writer.write(b"0\r\n\r\n")
        else:
            await writer.drain()
            writer.transport.abort()

    return answer


DONE = b"data: [DONE]\n\n"
GOOD = (event(text_chunk("Hello")), event(text_chunk(" world")), event(text_chunk("", "stop")), DONE)


@asynccontextmanager
async def serving(answer: Answer, seen: list[bytes] | None = None) -> AsyncIterator[int]:
    """A server that answers every request so; yields its port. `seen` collects the requests."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.lower().split(b"\r\n")
                length = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length")), None)
                if length is None:  # what models there are is not told
                    return
                body = await reader.readexactly(length)
                if seen is not None:
                    seen.append(head + body)
                await answer(writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def endpoint(port: int, **fields: object) -> Endpoint:
    given: dict[str, object] = {"key": Key(SECRET, "a test")}
    return Endpoint(f"http://127.0.0.1:{port}/v1", "m", **(given | fields))  # type: ignore[arg-type]


def asked(
    answer: Answer, *, times: int = 1, limits: Limits | None = None, seen: list[bytes] | None = None, **fields: object
) -> list[tuple[Exchange, Reply]]:
    """What a client gets from such a server, request after request on one session."""

    async def run() -> list[tuple[Exchange, Reply]]:
        async with serving(answer, seen) as port:
            target = endpoint(port, **fields)
            async with Client(target, limits or Limits(timeout_s=5)) as client:
                found = []
                for _ in range(times):
                    exchange = await client.ask(target.body("hi", 16, None))
                    found.append((exchange, read_reply(exchange, target)))
                return found

    return run_loop(run())


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data)
