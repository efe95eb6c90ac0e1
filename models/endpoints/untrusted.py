"""What a server said, made harmless: no halves of characters, no endless texts, no numbers that nothing can hold."""

from __future__ import annotations

import http.client
import json
import math
import time
import urllib.error
import urllib.request
from typing import Any

from .key import Key

MOST_TEXT, MOST_ENTRIES, MOST_DEPTH = 300, 64, 4
MOST_COUNT = 10**12
_PIECE_B = 1 << 16


def clean_text(text: str, most: int = MOST_TEXT) -> str:
    """One line of at most `most` characters, without the lone surrogates that JSON can spell and UTF-8 cannot."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())[:most]


def clean(value: Any, depth: int = MOST_DEPTH) -> Any:
    """Plain JSON of a bounded size; what is none of it is None."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if abs(value) < 1 << 63 else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth and isinstance(value, list):
        return [clean(entry, depth - 1) for entry in value[:MOST_ENTRIES]]
    if depth and isinstance(value, dict):
        entries = list(value.items())[:MOST_ENTRIES]
        return {clean_text(str(name), 80): clean(entry, depth - 1) for name, entry in entries}
    return None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Another host is not the one that was asked for."""

    def redirect_request(self, *_: Any) -> None:
        return None


def ask_json(url: str, key: Key | None, *, limit_s: float, most_b: int, fields: dict[str, Any] | None = None) -> Any:
    """The JSON that a URL answers (a POST where there are `fields`); None where it gives none in time.

    Redirects are not followed, the key is taken out of the answer, and a server that drips is not waited for.
    """
    data = None if fields is None else json.dumps(fields).encode()
    headers = {"Accept": "application/json", "Content-Type": "application/json"}
    request = urllib.request.Request(url, data=data, headers=headers)
    if key is not None:
        request.add_unredirected_header("Authorization", key.header())
    opener = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + limit_s
    try:
        with opener.open(request, timeout=limit_s) as answer:
            parts: list[bytes] = []
            size = 0
            while piece := answer.read1(_PIECE_B):
                parts.append(piece)
                size += len(piece)
                if size > most_b or time.monotonic() > deadline:
                    return None
        text = b"".join(parts).decode("utf-8")
        return json.loads(text if key is None else key.hide(text))
    except (OSError, urllib.error.URLError, http.client.HTTPException, ValueError, RecursionError):
        return None
