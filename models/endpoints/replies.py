"""What a reply said and when: text as it came to be visible, the server's own counts, and why it stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .client import Exchange
from .endpoint import Endpoint
from .faults import Fault
from .sse import DONE, events


@dataclass(frozen=True, slots=True)
class Shown:
    """A chunk that changed what a reader sees: at `at_s` since the request was sent, `text` was added, or replaced all
    that had been shown. `hidden` is text that counts and is not shown (a model's reasoning).
    """

    at_s: float
    text: str
    hidden: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply as read. `closed_s` is when it was known to be whole; `text` is what stands at the end.

    `usage_*` are the server's counts, None where it gave none. `stamps_s` are the server's own send times of the chunks
    in `shown`, since it received the request, where the server is `dlmbench serve` and told them.
    """

    shown: tuple[Shown, ...] = ()
    text: str = ""
    hidden: str = ""
    replaces: bool = False
    streamed: bool = True
    closed_s: float = 0.0
    finish_reason: str | None = None
    usage_prompt_tokens: int | None = None
    usage_output_tokens: int | None = None
    served: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    fault: Fault | None = None


def read_reply(exchange: Exchange, endpoint: Endpoint) -> Reply:
    """Make a reply of what an exchange received. A reply with a fault keeps what came before it."""
    reader = _Reader(exchange, endpoint)
    if exchange.fault is None or exchange.pieces:
        reader.read()
    fault = exchange.fault or reader.fault
    if fault is not None and endpoint.key is not None:
        fault = Fault(fault.code, endpoint.key.hide(fault.message))
    shown, replaces = tuple(reader.shown), endpoint.replaces and reader.streamed
    text = (shown[-1].text if shown else "") if replaces else "".join(piece.text for piece in shown)
    hidden = "".join(piece.hidden for piece in shown)
    if fault is None and not text and not hidden:
        fault = Fault("empty", f"finish reason {reader.finish_reason!r}")
    return Reply(
        shown=shown,
        text=text,
        hidden=hidden,
        replaces=replaces,
        streamed=reader.streamed,
        closed_s=(exchange.end_ns - exchange.sent_ns) * 1e-9,
        finish_reason=reader.finish_reason,
        usage_prompt_tokens=reader.usage[0],
        usage_output_tokens=reader.usage[1],
        served=reader.served,
        notes=tuple(dict.fromkeys(reader.notes)),
        fault=fault,
    )


class _MalformedError(Exception):
    """The reply is not what the protocol says."""


class _Reader:
    """Reads one exchange; what it has found so far stands when it meets a fault."""

    def __init__(self, exchange: Exchange, endpoint: Endpoint) -> None:
        self._exchange, self._endpoint = exchange, endpoint
        self.streamed = exchange.content_type == "text/event-stream"
        self.shown: list[Shown] = []
        self.finish_reason: str | None = None
        self.usage: tuple[int | None, int | None] = (None, None)
        self.served: dict[str, Any] = {}
        self.notes: list[str] = []
        self.fault: Fault | None = None

    def read(self) -> None:
        try:
            if self.streamed:
                self._stream(self._exchange.pieces)
            else:
                self._whole(self._exchange.pieces)
        except UnicodeDecodeError as error:
            self.fault = Fault("encoding", f"byte 0x{error.object[error.start]:02x} is not UTF-8")
        except _MalformedError as error:
            self.fault = Fault("malformed", str(error)[:300])
        except RecursionError:
            self.fault = Fault("malformed", "JSON nested too deep")

    def _stream(self, pieces: Sequence[tuple[int, bytes]]) -> None:
        done = False
        for stamp, data in events(pieces):
            text = data.decode("utf-8")
            if text.strip() == DONE:
                done = True
                break
            self._chunk(self._since(stamp), _object(text))
            if self.fault is not None:
                return
        if not done and self.finish_reason is None:
            self.fault = Fault(
                "truncated", f"after {len(self.shown)} chunks with text, without a finish reason or [DONE]"
            )
        elif not done:
            self.notes.append("the stream ended without [DONE]")

    def _whole(self, pieces: Sequence[tuple[int, bytes]]) -> None:
        if self._endpoint.stream:
            self.notes.append("asked for a stream, the server answered at once")
        stamp = pieces[-1][0] if pieces else self._exchange.end_ns
        self._chunk(self._since(stamp), _object(b"".join(piece for _, piece in pieces).decode("utf-8")))

    def _since(self, stamp: int) -> float:
        return (stamp - self._exchange.sent_ns) * 1e-9

    def _chunk(self, at_s: float, chunk: dict[str, Any]) -> None:
        if (error := chunk.get("error")) is not None:
            said = error.get("message") if isinstance(error, dict) else error
            self.fault = Fault("error_event", " ".join(str(said).split())[:300])
            return
        if isinstance(served := chunk.get("dlmbench"), dict):
            self._merge(served)
        if (usage := chunk.get("usage")) is not None:
            self._usage(usage)
        choices = chunk.get("choices", [])
        if not isinstance(choices, list):
            raise _MalformedError("`choices` is no list")
        for choice in choices:
            if not isinstance(choice, dict):
                raise _MalformedError("a choice is no object")
            if choice.get("index", 0) != 0:
                self.notes.append("the server sent more than one choice; the first is measured")
                continue
            self._choice(at_s, choice)

    def _choice(self, at_s: float, choice: dict[str, Any]) -> None:
        text, hidden = _texts(choice)
        if text or hidden:
            if self.finish_reason is not None:
                self.notes.append("text came after the finish reason")
            self.shown.append(Shown(at_s, text or "", hidden))
        reason = choice.get("finish_reason")
        if reason is not None:
            if not isinstance(reason, str):
                raise _MalformedError("`finish_reason` is no text")
            self.finish_reason = reason[:40]

    def _usage(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            raise _MalformedError("`usage` is no object")
        found = []
        for name in ("prompt_tokens", "completion_tokens"):
            value = usage.get(name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise _MalformedError(f"`usage.{name}` is no count")
            found.append(value)
        self.usage = found[0], found[1]

    def _merge(self, served: dict[str, Any]) -> None:
        """What `dlmbench serve` says of itself: a stamp with each chunk, the rest once."""
        for name, value in served.items():
            if name == "sent_ns" and isinstance(value, int):
                self.served.setdefault("sent_ns", []).append(value)
            else:
                self.served[name] = value


def _texts(choice: dict[str, Any]) -> tuple[str | None, str]:
    """The text of a choice that is shown (None: it says nothing of it) and the text that is not."""
    if "text" in choice:
        return _text(choice["text"]), ""
    holder = choice.get("delta", choice.get("message"))
    if holder is None:
        return None, ""
    if not isinstance(holder, dict):
        raise _MalformedError("a choice's delta is no object")
    hidden = holder.get("reasoning_content", holder.get("reasoning"))
    return _text(holder.get("content")), (_text(hidden) or "")


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise _MalformedError("a choice's text is no text")
    # Half a surrogate pair can be written in JSON and is no text; a reader is shown a replacement character.
    return value if value is None else value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        raise _MalformedError(f"no JSON: {text[:80]!r}") from None
    if not isinstance(found, dict):
        raise _MalformedError(f"no JSON object: {text[:80]!r}")
    return found
