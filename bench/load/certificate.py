"""What is known of two servers that are compared over the wire, and what is not: most of what decides a speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ...profiles.record import CertificateRow
from ...profiles.serving.record import EndpointRecord

# What a server does not say through the protocol; some of it `dlmbench serve` does, by the name in front.
_UNKNOWN = (
    ("device", "hardware: devices, how many, and what else runs on them"),
    ("batch", "batch: how many requests the server runs together, with whose"),
    ("dtype", "quantisation: the width of weights, of the cache and of arithmetic"),
    ("", "the network between: its round trip is inside every latency"),
    ("", "prefix caches: prompts are fresh, chat templates are not"),
)


def unknown(endpoints: Sequence[EndpointRecord]) -> tuple[str, ...]:
    """What at least one of two servers that are compared does not tell."""
    if len(endpoints) != 2:
        return ()
    return tuple(words for name, words in _UNKNOWN if any(each.about.get(name) is None for each in endpoints))


def certificate(endpoints: Sequence[EndpointRecord]) -> tuple[CertificateRow, ...]:
    """A row a quantity for two endpoints; none for one. The columns are the AR and the diffusion side, where sides are
    known, else the first and the second."""
    if len(endpoints) != 2:
        return ()
    first, second = ordered(endpoints)
    quantities: list[tuple[str, Callable[[EndpointRecord], Any]]] = [
        ("model", lambda e: e.model),
        ("address", lambda e: e.url),
        ("protocol", lambda e: f"{e.style}, {'streamed' if e.stream else 'at once'}"),
        ("stops early", lambda e: "was told not to" if e.ignore_eos else "as it likes"),
        ("stream", lambda e: "replaces what it showed" if e.replaces else "adds"),
    ]
    quantities += [(name, partial(_said, name)) for name in _ABOUT]
    return tuple(_row(name, read(first), read(second)) for name, read in quantities)


# What only `dlmbench serve` says of itself.
_ABOUT = ("parameters", "dtype", "device", "batch", "weights", "generator")


def _said(name: str, endpoint: EndpointRecord) -> Any:
    value = endpoint.about.get(name)
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def ordered(endpoints: Sequence[EndpointRecord]) -> tuple[EndpointRecord, EndpointRecord]:
    """AR before diffusion."""
    first, second = endpoints
    return (second, first) if (first.side, second.side) == ("diffusion", "ar") else (first, second)


def _row(quantity: str, a: Any, b: Any) -> CertificateRow:
    difference = None
    if isinstance(a, int | float) and isinstance(b, int | float) and not isinstance(a, bool) and a:
        difference = 100 * (b / a - 1)
    if a is None and b is None:
        verdict = "unknown on both sides"
    elif a is None or b is None:
        verdict = "unknown on one side"
    else:
        verdict = "same" if a == b else "differs"
    return CertificateRow(quantity=quantity, unit="", ar=a, diffusion=b, difference_percent=difference, verdict=verdict)
