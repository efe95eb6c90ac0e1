"""What can go wrong between a client and a server, under one name each; none of it stops a load.

A fault is a result: it is counted, with its name, beside the requests that were answered.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp

# In the order of a request's life. `http_NNN` is added for statuses that are refusals.
FAULTS: dict[str, str] = {
    "client_full": "the client held as many open requests as it may; the request was due and not sent",
    "dns": "the host's name could not be resolved",
    "refused": "nobody accepted the connection",
    "tls": "the encrypted connection could not be set up",
    "connect": "the connection could not be made",
    "redirect": "the server pointed elsewhere; redirects are not followed, since the key would go with them",
    "reset": "the connection ended inside the reply",
    "timeout": "the reply was not whole within the time limit",
    "too_large": "the reply was larger than the client takes",
    "encoding": "the reply was not UTF-8, or not compressed as it said",
    "malformed": "the reply was not what the protocol says",
    "truncated": "the stream ended without saying that it was whole",
    "error_event": "the server reported an error inside the stream",
    "empty": "the reply held no text",
    "unexpected": "the client did not foresee this; please report it",
}


def meaning(code: str) -> str:
    """What a fault's name says, in words."""
    if code.startswith("http_") and code[5:].isdigit():
        try:
            return f"the server answered {int(code[5:])} {HTTPStatus(int(code[5:])).phrase}"
        except ValueError:
            return f"the server answered {code[5:]}"
    return FAULTS.get(code, "")


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request has no valid reply: a name of FAULTS or `http_NNN`, and what was said in this case."""

    code: str
    message: str


def fault_of(error: BaseException) -> Fault:
    """The fault that an exception of the HTTP client stands for."""
    text = _said(error)
    match error:
        case asyncio.TimeoutError() | aiohttp.ServerTimeoutError():
            return Fault("timeout", text)
        case aiohttp.ClientConnectorDNSError() | socket.gaierror():
            return Fault("dns", text)
        case aiohttp.ClientConnectorSSLError() | aiohttp.ClientConnectorCertificateError() | ssl.SSLError():
            return Fault("tls", text)
        case aiohttp.ClientConnectorError() | ConnectionRefusedError():
            number = getattr(error, "errno", None) or getattr(getattr(error, "os_error", None), "errno", None)
            if number in (errno.EMFILE, errno.ENFILE):
                return Fault("client_full", text)
            return Fault("refused" if number == errno.ECONNREFUSED else "connect", text)
        case aiohttp.ContentTypeError():
            return Fault("malformed", text)
        case aiohttp.ClientPayloadError() if "content-encoding" in text.lower() or "ContentEncodingError" in text:
            return Fault("encoding", text)
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError() | ConnectionError():
            return Fault("reset", text)
        case aiohttp.ClientResponseError() | aiohttp.InvalidURL() | ValueError():
            return Fault("malformed", text)
        case aiohttp.ClientConnectionError() | OSError():
            return Fault("reset", text)
        case _:
            return Fault("unexpected", f"{type(error).__name__}: {text}")


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
