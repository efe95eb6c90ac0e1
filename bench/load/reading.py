"""From what a window received to its record: replies read, tokens counted, faults named."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ... import InputError
from ...models.endpoints.client import Exchange
from ...models.endpoints.endpoint import Endpoint
from ...models.endpoints.replies import Reply, read_reply
from ...models.endpoints.tokens import tokenised
from ...models.tokenizer import Tokenizer
from ...profiles.record import Reason
from ...profiles.serving.delivery import revisions, settled
from ...profiles.serving.record import RequestRecord
from .driver import Asked, Opened

# A difference between our count and the server's that is worth a warning.
DIFFERS = 0.01


def read_window(
    number: int, opened: Opened, endpoint: Endpoint, tokenizer: Tokenizer | None, prompt_tokens: int | None
) -> list[RequestRecord]:
    """The requests of window `number`, in the order in which they were begun."""
    return [read_asked(number, asked, opened.began_ns, endpoint, tokenizer, prompt_tokens) for asked in opened.asked]


def read_asked(
    window: int,
    asked: Asked,
    began_ns: int,
    endpoint: Endpoint,
    tokenizer: Tokenizer | None,
    prompt_tokens: int | None,
) -> RequestRecord:
    """One request's record."""
    exchange = asked.exchange
    reply = read_reply(exchange, endpoint)
    ok = reply.fault is None
    output, hidden, chunks, notes = _counted(reply, tokenizer)
    tokens = output + hidden if output is not None else reply.usage_output_tokens
    return RequestRecord(
        window=window,
        number=asked.number,
        part=asked.part,
        status="ok" if ok and chunks else "failed",
        reason=None if reply.fault is None else Reason(code=reply.fault.code, message=reply.fault.message),
        http_status=exchange.status,
        due_s=(asked.due_ns - began_ns) * 1e-9,
        sent_s=(asked.sent_ns - began_ns) * 1e-9,
        headers_s=None if exchange.headers_ns is None else (exchange.headers_ns - exchange.sent_ns) * 1e-9,
        closed_s=reply.closed_s,
        reused=exchange.reused,
        retries=asked.retries,
        retry_after_s=exchange.retry_after_s,
        prompt_tokens=prompt_tokens,
        usage_prompt_tokens=reply.usage_prompt_tokens,
        output_tokens=output,
        hidden_tokens=hidden,
        usage_output_tokens=reply.usage_output_tokens,
        tokens=tokens,
        finish_reason=reply.finish_reason,
        chunks=tuple((round(at, 6), final) for at, final in chunks),
        visible_s=next((piece.at_s for piece in reply.shown if piece.text), None),
        revised=revisions([piece.text for piece in reply.shown]) if reply.replaces else 0,
        notes=reply.notes + notes,
        served=_served(reply, exchange),
    )


def _served(reply: Reply, exchange: Exchange) -> dict[str, Any]:
    """What `dlmbench serve` told: `sent_s`, when it sent each chunk since it had received the request, `added_s`, how
    much later the client's stamp is, where both are processes of one host (else the clocks have nothing in common)."""
    found = {name: value for name, value in reply.served.items() if name == "work"}
    sent, received = reply.served.get("sent_ns"), reply.served.get("received_ns")
    if not isinstance(sent, list) or not isinstance(received, int) or len(sent) != len(reply.shown):
        return found
    if not all(isinstance(at, int) for at in sent):
        return found
    found["sent_s"] = [round((at - received) * 1e-9, 6) for at in sent]
    added = [exchange.sent_ns * 1e-9 + piece.at_s - at * 1e-9 for piece, at in zip(reply.shown, sent, strict=True)]
    if exchange.sent_ns <= received and all(0 <= late < 60 for late in added):
        found["added_s"] = [round(late, 6) for late in added]
    return found


def _counted(
    reply: Reply, tokenizer: Tokenizer | None
) -> tuple[int | None, int, list[tuple[float, int]], tuple[str, ...]]:
    """Tokens shown and hidden, and how many stood for good after each chunk; None where they cannot be counted."""
    times = [piece.at_s for piece in reply.shown]
    bare = [(at, 0) for at in times]
    if tokenizer is None:
        return None, 0, bare, ()
    try:
        text, hidden = tokenised(tokenizer, reply.text), tokenised(tokenizer, reply.hidden)
    except InputError as error:
        return None, 0, bare, (f"the answer could not be counted: {error}",)
    if reply.replaces:
        stood = settled([piece.text for piece in reply.shown])
    else:
        stood = tuple(_running(len(piece.text) for piece in reply.shown))
    thought = _running(len(piece.hidden) for piece in reply.shown)
    final = [text.within(a) + hidden.within(b) for a, b in zip(stood, thought, strict=True)]
    return len(text), len(hidden), list(zip(times, final, strict=True)), ()


def _running(lengths: Iterable[int]) -> list[int]:
    total = 0
    return [total := total + length for length in lengths]


def usage_warning(requests: Iterable[RequestRecord]) -> str | None:
    """A sentence where the server counts other numbers of output tokens than the tokenizer, by more than 1 %."""
    both = [
        (request.output_tokens + request.hidden_tokens, request.usage_output_tokens)
        for request in requests
        if request.status == "ok" and request.output_tokens is not None and request.usage_output_tokens is not None
    ]
    ours, theirs = sum(a for a, _ in both), sum(b for _, b in both)
    if not ours or abs(theirs / ours - 1) <= DIFFERS:
        return None
    return (
        f"the server counted {theirs:,} output tokens, the tokenizer {ours:,} in the same answers "
        f"({100 * (theirs / ours - 1):+.1f} %): metrics use the tokenizer's; is it the model's own?"
    )
