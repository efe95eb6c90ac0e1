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
from .untrusted import MOST_COUNT, clean, clean_text


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

    `usage_*` are the server's counts, None where it gave none; `served` is what `dlmbench serve` tells of itself.
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
            self.fault = self._fault("malformed", str(error))
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
            self.fault = self._fault("error_event", str(said))
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
            if text is None and self._endpoint.replaces:  # it says nothing of what is shown
                text = self.shown[-1].text if self.shown else ""
            self.shown.append(Shown(at_s, text or "", hidden))
        reason = choice.get("finish_reason")
        if reason is not None:
            if not isinstance(reason, str):
                raise _MalformedError("`finish_reason` is no text")
            self.finish_reason = clean_text(self._hidden(reason), 40)

    def _hidden(self, text: str) -> str:
        return text if self._endpoint.key is None else self._endpoint.key.hide(text)

    def _fault(self, code: str, message: str) -> Fault:
        """A fault with what was said: the key is taken out before anything is cut."""
        return Fault(code, clean_text(self._hidden(message)))

    def _usage(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            raise _MalformedError("`usage` is no object")
        found: list[int | None] = []
        for name in ("prompt_tokens", "completion_tokens"):
            value = usage.get(name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (whole and 0 <= value <= MOST_COUNT):
                raise _MalformedError(f"`usage.{name}` is no count")
            found.append(value)
        self.usage = found[0], found[1]

    def _merge(self, served: dict[str, Any]) -> None:
        """What `dlmbench serve` says of itself: a stamp with each chunk, the rest once."""
        for name, value in served.items():
            if name == "sent_ns":
                self.served.setdefault("sent_ns", []).append(clean(value))
            elif name in ("received_ns", "work"):
                self.served[name] = clean(value)


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
        raise _MalformedError(f"no JSON: {text!r}") from None
    if not isinstance(found, dict):
        raise _MalformedError(f"no JSON object: {text!r}")
    return found
