"""Server-sent events from pieces of bytes, each event with the time at which its last byte had arrived.

The format is that of the HTML standard, section 9.2: lines end in CR, LF or both, an empty line ends an event, a line
that begins with a colon is a comment, several `data` lines of one event are joined by line feeds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_LINE = re.compile(rb"\r\n|\n|\r")
DONE = "[DONE]"
_DONE_LINE = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]")
# The longest piece of a line that says [DONE], less one byte.
_TAIL = 14


def events(pieces: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """(stamp, data) of every event in `pieces` of (stamp, bytes); an event that lacks its empty line at the end too.

    Servers are not alike in whether the last event has one, so that whoever reads the data decides whether it is whole.
    """
    rest = b""
    data: list[bytes] = []
    stamp = 0
    for stamp, piece in pieces:
        lines, rest = _lines(rest + piece)
        for line in lines:
            if line:
                if line.startswith(b"data:"):
                    data.append(line[5:].removeprefix(b" "))
            elif data:
                yield stamp, b"\n".join(data)
                data = []
    if rest.startswith(b"data:"):
        data.append(rest.rstrip(b"\r\n")[5:].removeprefix(b" "))
    if data:
        yield stamp, b"\n".join(data)


def _lines(text: bytes) -> tuple[list[bytes], bytes]:
    """The whole lines of `text`, and what is left. A CR at the end may be half of a line's end."""
    kept = text.endswith(b"\r")
    *lines, rest = _LINE.split(text[:-1] if kept else text)
    return lines, rest + b"\r" if kept else rest


class DoneSeen:
    """Whether a stream has said `[DONE]`, piece by piece and cheaply: the words may be cut anywhere."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b"\n"

    def __call__(self, piece: bytes) -> bool:
        window = self._tail + piece
        self._tail = window[-_TAIL:]
        return b"[DONE]" in window and _DONE_LINE.search(window) is not None
