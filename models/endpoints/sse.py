"""Server-sent events from pieces of bytes, each event with the time at which its last byte had arrived.

The format is that of the HTML standard, section 9.2: lines end in CR, LF or both, an empty line ends an event, a line
that begins with a colon is a comment, several `data` lines of one event are joined by line feeds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_LINE = re.compile(rb"\r\n|\n|\r")
DONE = "[DONE]"
_DONE_LINE = re.compile(rb"[\r\n]data: ?\[DONE\]")
# The longest piece of a line that says [DONE], less one byte.
_TAIL = 14


def events(pieces: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """(stamp, data) of every event in `pieces` of (stamp, bytes); an event that lacks its empty line at the end too.

    Servers are not alike in whether the last event has one, so that whoever reads the data decides whether it is whole.
    """
    # The beginning of a line, in the pieces in which it came: joined once, however many they are.
    begun: list[bytes] = []
    data: list[bytes] = []
    stamp = 0
    for stamp, piece in pieces:
        if b"\n" not in piece and b"\r" not in piece and not (begun and begun[-1].endswith(b"\r")):
            begun.append(piece)
            continue
        text = b"".join([*begun, piece])
        # A CR at the end may be half of a line's end.
        kept = text.endswith(b"\r")
        *lines, rest = _LINE.split(text[:-1] if kept else text)
        begun = [rest + b"\r"] if kept else [rest]
        for line in lines:
            if line:
                if line.startswith(b"data:"):
                    data.append(line[5:].removeprefix(b" "))
            elif data:
                yield stamp, b"\n".join(data)
                data = []
    last = b"".join(begun).rstrip(b"\r\n")
    if last.startswith(b"data:"):
        data.append(last[5:].removeprefix(b" "))
    if data:
        yield stamp, b"\n".join(data)


class DoneSeen:
    """Whether a stream has said `[DONE]`, piece by piece and cheaply: the words may be cut anywhere."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b"\n"

    def __call__(self, piece: bytes) -> bool:
        window = self._tail + piece
        self._tail = window[-_TAIL:]
        return b"[DONE]" in window and _DONE_LINE.search(window) is not None
