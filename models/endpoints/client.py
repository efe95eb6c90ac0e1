"""One HTTP client for many open streams: what arrives is stamped and kept as it is, and read when the load is over.

Reading JSON takes longer than receiving it. A client that reads each chunk as it comes stamps the chunks of the other
streams late, so that here a piece of a reply is a time and some bytes until `replies.read_reply` makes events of it.

    async with Client(endpoint, Limits()) as client:
        exchange = await client.ask(body)
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiohttp

from .endpoint import Endpoint
from .faults import Fault, fault_of
from .sse import DoneSeen
from .untrusted import clean_text

# What a refusal says of itself is shown; more of it is not read.
_REFUSAL_B = 16384
_CLOSING_S = 0.05


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may take: seconds until it is whole, seconds until it is connected, bytes of its reply; and bytes
    of all replies that a client keeps."""

    timeout_s: float = 120.0
    connect_s: float = 10.0
    reply_b: int = 16 << 20
    kept_b: int = 2 << 30


@dataclass(slots=True)
class Exchange:
    """A request and all that came back, in nanoseconds of `time.monotonic_ns` (one clock for all processes of a host).

    `sent_ns` is when the client began: it includes making the connection, where there was none (`reused` False).
    `pieces` are (stamp, bytes) as the socket gave them. `end_ns` is when the reply was whole (a stream's [DONE] says
    so) or had failed.
    """

    sent_ns: int = 0
    headers_ns: int | None = None
    pieces: list[tuple[int, bytes]] = field(default_factory=list)
    end_ns: int = 0
    status: int | None = None
    content_type: str = ""
    reused: bool | None = None
    retry_after_s: float | None = None
    fault: Fault | None = None


class Client:
    """An HTTP client for one endpoint. With `fresh` every request makes a connection of its own."""

    def __init__(self, endpoint: Endpoint, limits: Limits, *, fresh: bool = False) -> None:
        self._endpoint, self._limits, self._kept_b = endpoint, limits, 0
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_reused)
        trace.on_connection_create_start.append(_created)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=fresh, ttl_dns_cache=300),
            timeout=aiohttp.ClientTimeout(total=limits.timeout_s, sock_connect=limits.connect_s),
            headers=endpoint.headers(),
            trace_configs=[trace],
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def ask(self, body: bytes) -> Exchange:
        """Send a request and receive its reply. Whatever goes wrong is the exchange's `fault`; nothing is raised but
        the cancellation of the task, after `end_ns` and the fault have been set.
        """
        exchange = Exchange()
        exchange.sent_ns = time.monotonic_ns()
        try:
            async with self._session.post(
                self._endpoint.target, data=body, allow_redirects=False, trace_request_ctx=exchange
            ) as response:
                exchange.headers_ns = time.monotonic_ns()
                exchange.status = response.status
                exchange.content_type = response.content_type
                if response.status == 200:
                    await self._receive(response, exchange)
                else:
                    exchange.fault = await self._refusal(response, exchange)
        except Exception as error:
            exchange.fault = self._hidden(fault_of(error))
        exchange.end_ns = exchange.end_ns or time.monotonic_ns()
        return exchange

    async def _receive(self, response: aiohttp.ClientResponse, exchange: Exchange) -> None:
        """The pieces of a reply, until it ends, says that it is done, or is too large."""
        received, most = 0, self._limits.reply_b
        pieces, now = exchange.pieces, time.monotonic_ns
        done = DoneSeen() if exchange.content_type == "text/event-stream" else None
        while piece := await response.content.readany():
            pieces.append((now(), piece))
            received += len(piece)
            self._kept_b += len(piece)
            if received > most or self._kept_b > self._limits.kept_b:
                each = f"a reply of more than {most:,} bytes"
                exchange.fault = Fault("too_large", each if received > most else "too much was kept of all replies")
                self._kept_b -= received
                pieces.clear()
                response.close()
                return
            if done is not None and done(piece):
                exchange.end_ns = pieces[-1][0]
                await _ended(response)
                return

    async def _refusal(self, response: aiohttp.ClientResponse, exchange: Exchange) -> Fault:
        """The fault that a status other than 200 is."""
        if 300 <= response.status < 400:
            target = urlsplit(response.headers.get("Location", ""))
            where = target.netloc or "another path of the same host"
            response.close()
            return self._hidden(
                Fault("redirect", f"status {response.status}, to {where}; give that URL if you trust it")
            )
        exchange.retry_after_s = _seconds(response.headers.get("Retry-After"))
        said = await response.content.read(_REFUSAL_B)
        response.close()
        text = said.decode("utf-8", "replace")
        return self._hidden(Fault(f"http_{response.status}", text.strip() or (response.reason or "")))

    def _hidden(self, fault: Fault) -> Fault:
        key = self._endpoint.key
        return Fault(fault.code, clean_text(fault.message if key is None else key.hide(fault.message)))


async def _ended(response: aiohttp.ClientResponse) -> None:
    """Read the end of the chunked body after [DONE], so that the connection can serve the next request. A server that
    keeps it open, or breaks it off, has said all that counts: it gets a new connection."""
    try:
        async with asyncio.timeout(_CLOSING_S):
            await response.content.read(1)
    except (TimeoutError, aiohttp.ClientError, OSError):
        response.close()


async def _reused(session: aiohttp.ClientSession, context: object, params: object) -> None:
    context.trace_request_ctx.reused = True  # type: ignore[attr-defined]


async def _created(session: aiohttp.ClientSession, context: object, params: object) -> None:
    context.trace_request_ctx.reused = False  # type: ignore[attr-defined]


def _seconds(text: str | None) -> float | None:
    """Retry-After in seconds; None where there is none or it is a date, which no clock of ours is held to."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < 1e6 else None
