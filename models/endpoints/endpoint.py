"""Where a server is, what it is called there, and how it wants to be asked."""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from ... import InputError
from .key import Key

Style = Literal["chat", "completions"]
Side = Literal["ar", "diffusion"]
# How a server is told not to stop early: a field of the request that is set to true; None: it has none.
IgnoreEos = str | None

_PATHS: dict[Style, str] = {"chat": "/chat/completions", "completions": "/completions"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model behind a base URL such as `http://127.0.0.1:8000/v1`.

    `side` is what the user says of the model: nothing in the protocol tells. `extra` are further fields of every
    request. With `replaces` the text of a chunk replaces what was shown so far (a diffusing stream) instead of being
    added to it; `diffusing` is the request's field that asks for it. `preset` names where the settings came from.
    """

    url: str
    model: str
    side: Side | None = None
    style: Style = "chat"
    stream: bool = True
    ignore_eos: IgnoreEos = None
    replaces: bool = False
    diffusing: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    key: Key | None = field(default=None, compare=False)
    preset: str | None = None

    @property
    def target(self) -> str:
        """The URL that requests go to."""
        return self.url + _PATHS[self.style]

    @property
    def name(self) -> str:
        """Model and address, as shown."""
        return f"{self.model} at {urlsplit(self.url).netloc}"

    def body(self, prompt: str | list[int], max_tokens: int, temperature: float | None) -> bytes:
        """The request's JSON. Token ids as a prompt are for the style `completions` alone."""
        fields: dict[str, Any] = {"model": self.model}
        if self.style == "chat":
            assert isinstance(prompt, str)
            fields["messages"] = [{"role": "user", "content": prompt}]
        else:
            fields["prompt"] = prompt
        fields["max_tokens"] = max_tokens
        if temperature is not None:
            fields["temperature"] = temperature
        if self.ignore_eos is not None:
            fields[self.ignore_eos] = True
        if self.stream:
            fields["stream"] = True
            fields["stream_options"] = {"include_usage": True}
            if self.replaces and self.diffusing is not None:
                fields[self.diffusing] = True
        return json.dumps(fields | self.extra, ensure_ascii=False).encode("utf-8", "surrogatepass")

    def headers(self) -> dict[str, str]:
        """The request's headers. Compression would make a server hold chunks back until they fill a block."""
        found = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        found["Accept"] = "text/event-stream" if self.stream else "application/json"
        if self.key is not None:
            found["Authorization"] = self.key.header()
        return found


# What decides how much a request may cost, or what is measured, is said by flags of its own.
RESERVED = (
    "model", "messages", "prompt", "max_tokens", "max_completion_tokens", "n", "best_of", "stream", "stream_options",
)  # fmt: skip


def base_url(text: str) -> str:
    """A base URL in one spelling: no trailing slash, no path of a method. Raises InputError for what is none."""
    found = text.strip().rstrip("/")
    for path in _PATHS.values():
        found = found.removesuffix(path)
    try:
        parts = urlsplit(found)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise InputError(f"{text[:200]!r}: not a URL ({error}); {_WANTED}") from None
    if parts.scheme not in ("http", "https") or not host or re.search(r"[\s\x00-\x1f\x7f-\x9f]", found):
        raise InputError(f"{text[:200]!r}: not the base URL of a server; {_WANTED}")
    if parts.username or parts.password:
        raise InputError("a URL with a user name or password in it would be recorded; use --key-env or --key-file")
    if parts.query or parts.fragment:
        raise InputError(f"{text[:200]!r}: a base URL has no ? and no #; {_WANTED}")
    if port == 0:
        raise InputError(f"{text[:200]!r}: port 0 is nobody's; {_WANTED}")
    return found


_WANTED = "expected one like http://127.0.0.1:8000/v1"


def is_loopback(host: str) -> bool:
    """Whether a host, by name or address, is this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_public(url: str) -> bool:
    """Whether a URL's host has an address outside this machine and its private networks.

    A name that cannot be resolved counts as public: nothing is known of it.
    """
    host = urlsplit(url).hostname or ""
    try:
        addresses = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return True
    return any(ipaddress.ip_address(str(address).partition("%")[0]).is_global for address in addresses)
