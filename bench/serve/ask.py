"""What a client asks for, read from a request's JSON; whatever is wrong with it is one sentence for the client."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

DEFAULT_TOKENS = 64
# What changes the meaning of an answer and is not known here; an answer that ignored it would be wrong.
_UNKNOWN = ("tools", "functions", "response_format", "logprobs", "top_logprobs", "echo", "suffix", "best_of", "stop")
_HARMLESS: tuple[Any, ...] = (None, False, 0, [], "", {"type": "text"})


class RefusedError(Exception):
    """A request that is not carried out: the HTTP status, OpenAI's type of the error, and one sentence."""

    def __init__(self, status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.headers = status, kind, message, headers or {}

    def document(self) -> dict[str, Any]:
        """The body, as OpenAI's servers write it."""
        return {"error": {"message": self.message, "type": self.kind, "param": None, "code": None}}


@dataclass(frozen=True, slots=True)
class Ask:
    """A request: `prompt` as text or token ids, at most `tokens` new tokens. `stamps`: the answer tells its own times.

    With `diffusing` the text of each chunk replaces what was sent before. With `ignore_eos` exactly `tokens` come.
    """

    chat: bool
    model: str | None
    prompt: str | tuple[int, ...]
    tokens: int
    temperature: float
    seed: int
    stream: bool
    usage: bool
    ignore_eos: bool
    diffusing: bool
    stamps: bool
    received_ns: int


def read_ask(body: bytes, *, chat: bool, number: int, received_ns: int | None = None) -> Ask:
    """The request in `body`, received at `received_ns` (`time.monotonic_ns`; None: now). Raises RefusedError (400).
    `number` seeds a request that names no seed."""
    received = time.monotonic_ns() if received_ns is None else received_ns
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise _bad("the body is not JSON") from None
    if not isinstance(fields, dict):
        raise _bad("the body is not a JSON object")
    for name in _UNKNOWN:
        if fields.get(name) not in _HARMLESS:
            raise _bad(f"{name}: not supported by this server")
    if _whole(fields, "n", 1, 1, 128) != 1:
        raise _bad("n: not supported by this server; send as many requests")
    limit = "max_tokens" if fields.get("max_completion_tokens") is None else "max_completion_tokens"
    options = fields.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise _bad("stream_options: expected an object")
    stream = _flag(fields, "stream")
    return Ask(
        chat=chat,
        model=_model(fields.get("model")),
        prompt=_messages(fields.get("messages")) if chat else _prompt(fields.get("prompt")),
        tokens=_whole(fields, limit, DEFAULT_TOKENS, 1, 1 << 20),
        temperature=_number(fields, "temperature", 0.0, 0.0, 100.0),
        seed=_whole(fields, "seed", number, 0, (1 << 63) - 1),
        stream=stream,
        usage=not stream or bool((options or {}).get("include_usage")),
        ignore_eos=_flag(fields, "ignore_eos"),
        diffusing=stream and _flag(fields, "diffusing"),
        stamps=_flag(fields, "dlmbench_stamps"),
        received_ns=received,
    )


def _bad(message: str) -> RefusedError:
    return RefusedError(400, "invalid_request_error", message)


def _model(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise _bad("model: expected a text")
    return value


def _flag(fields: dict[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise _bad(f"{name}: expected true or false")
    return bool(value)


def _whole(fields: dict[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _bad(f"{name}: expected an integer from {least} to {most}")
    return value


def _number(fields: dict[str, Any], name: str, default: float, least: float, most: float) -> float:
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise _bad(f"{name}: expected a number from {least:g} to {most:g}")
    return float(value)


def _prompt(value: Any) -> str | tuple[int, ...]:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in value):
        return tuple(value)
    raise _bad("prompt: expected a text or an array of token ids")


def _messages(value: Any) -> str:
    """The contents of all messages, a line each: the models that ship know no chat template."""
    if not isinstance(value, list) or not value:
        raise _bad("messages: expected an array of messages")
    texts = []
    for message in value:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            parts = [part.get("text") if isinstance(part, dict) else None for part in content]
            texts_of = [part for part in parts if isinstance(part, str)]
            content = "".join(texts_of) if len(texts_of) == len(parts) else None
        if not isinstance(content, str):
            raise _bad("messages: expected objects with a text under content")
        texts.append(content)
    return "\n".join(texts)
