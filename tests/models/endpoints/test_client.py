"""The client against servers that are slow, broken or hostile: every fault under its name, none of them a hang."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from types import ModuleType
from typing import Any

import pytest

from dlmbench.models.endpoints.client import Client, Limits
from dlmbench.models.endpoints.endpoint import Endpoint
from dlmbench.models.endpoints.faults import FAULTS
from dlmbench.models.endpoints.loop import run_loop
from dlmbench.models.endpoints.replies import read_reply


def outcome(wire: ModuleType, answer: Any, **given: Any) -> tuple[str | None, str, str]:
    """Code, message and text of one reply."""
    (_, reply), *_ = wire.asked(answer, **given)
    return (reply.fault.code if reply.fault else None), (reply.fault.message if reply.fault else ""), reply.text


def test_a_good_stream_and_a_connection_that_is_used_again(wire: ModuleType) -> None:
    (first, reply), (second, _) = wire.asked(wire.stream(*wire.GOOD), times=2)
    assert (reply.text, reply.finish_reason, reply.fault) == ("Hello world", "stop", None)
    assert [piece.text for piece in reply.shown] == ["Hello", " world"]
    assert 0 < reply.shown[0].at_s <= reply.shown[1].at_s <= reply.closed_s
    assert (first.reused, second.reused) == (False, True)


def test_times_are_those_of_arrival(wire: ModuleType) -> None:
    (_, reply), *_ = wire.asked(wire.stream(wire.GOOD[0], 0.3, *wire.GOOD[1:]))
    assert 0.25 < reply.shown[1].at_s - reply.shown[0].at_s < 5


def test_one_answer_at_once(wire: ModuleType) -> None:
    body = {"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "length"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 1}}  # fmt: skip
    (_, reply), *_ = wire.asked(wire.whole("200 OK", json.dumps(body).encode()), stream=False)
    assert (reply.text, reply.finish_reason, reply.streamed) == ("Hi", "length", False)
    assert (reply.usage_prompt_tokens, reply.usage_output_tokens) == (3, 1)


def test_a_stream_that_was_asked_for_and_not_given_is_noted(wire: ModuleType) -> None:
    body = json.dumps({"choices": [{"text": "Hi", "finish_reason": "stop"}]}).encode()
    (_, reply), *_ = wire.asked(wire.whole("200 OK", body), style="completions")
    assert reply.fault is None
    assert reply.notes == ("asked for a stream, the server answered at once",)


@pytest.mark.parametrize(
    ("status", "code"),
    [("401 Unauthorized", "http_401"), ("403 Forbidden", "http_403"), ("404 Not Found", "http_404"),
     ("429 Too Many Requests", "http_429"), ("500 Internal Server Error", "http_500"), ("503 Busy", "http_503")],
)  # fmt: skip
def test_refusals_are_named_by_their_status_and_never_repeat_the_key(wire: ModuleType, status: str, code: str) -> None:
    body = f'{{"error": {{"message": "bad key {wire.SECRET} \\u001b[31m"}}}}'.encode()
    found, message, _ = outcome(wire, wire.whole(status, body))
    assert found == code
    assert wire.SECRET not in message
    assert "[key]" in message


@pytest.mark.parametrize("before", range(270, 310, 3))
def test_a_key_is_taken_out_before_a_message_is_cut(wire: ModuleType, before: int) -> None:
    echo = "x" * before + wire.SECRET + " /" + wire.SECRET.replace("/", "\\/")
    for answer in (
        wire.whole("401 Unauthorized", echo.encode()),
        wire.stream(wire.event({"error": {"message": echo}})),
        wire.stream(wire.event(echo.encode())),
        wire.whole("307 Moved", b"", f"Location: http://{echo}/v1"),
        wire.stream(wire.event(wire.text_chunk("", wire.SECRET)), wire.DONE),
    ):
        _, message, _ = outcome(wire, answer)
        # Not even the beginning of it.
        assert wire.SECRET[:9] not in message


def test_retry_after_is_kept(wire: ModuleType) -> None:
    for header, seconds in (
        ("Retry-After: 7", 7.0),
        ("Retry-After: Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("X: y", None),
    ):
        (exchange, _), *_ = wire.asked(wire.whole("429 Too Many Requests", b"{}", header))
        assert exchange.retry_after_s == seconds


def test_redirects_are_not_followed(wire: ModuleType) -> None:
    seen: list[bytes] = []
    found, message, _ = outcome(
        wire, wire.whole("307 Temporary Redirect", b"", "Location: http://evil.example/v1"), seen=seen
    )
    assert (found, len(seen)) == ("redirect", 1)
    assert "evil.example" in message


def test_a_connection_that_breaks_off(wire: ModuleType) -> None:
    found, _, text = outcome(wire, wire.stream(wire.GOOD[0], end=False))
    assert (found, text) == ("reset", "Hello")
    found, message, text = outcome(wire, wire.stream(*wire.GOOD[:2]))
    assert (found, text) == ("truncated", "Hello world")
    assert "after 2 chunks" in message


def test_a_stream_without_done_but_with_a_finish_reason_is_whole(wire: ModuleType) -> None:
    (_, reply), *_ = wire.asked(wire.stream(*wire.GOOD[:3]))
    assert reply.fault is None
    assert reply.notes == ("the stream ended without [DONE]",)


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"{nonsense", "malformed"), (b"[1, 2]", "malformed"), (b'{"choices": 3}', "malformed"),
     (b'{"choices": [3]}', "malformed"), (b'{"choices": [{"delta": {"content": 4}}]}', "malformed"),
     (b'{"choices": [{"delta": 4}]}', "malformed"), (b'{"choices": [], "usage": 5}', "malformed"),
     (b'{"usage": {"completion_tokens": -1}}', "malformed"), (b"[" * 100_000, "malformed"),
     (b'{"choices": [{"finish_reason": 1, "delta": {}}]}', "malformed"), (b'{"x": "\xff"}', "encoding"),
     (b'{"error": {"message": "out of memory"}}', "error_event"),
     (b'{"error": "plain"}', "error_event")],
)  # fmt: skip
def test_what_a_stream_should_not_hold(wire: ModuleType, data: bytes, code: str) -> None:
    found, _, text = outcome(wire, wire.stream(wire.GOOD[0], wire.event(data), wire.DONE))
    assert (found, text) == (code, "Hello")


def test_streams_without_text_other_choices_and_late_text(wire: ModuleType) -> None:
    assert outcome(wire, wire.stream(*wire.GOOD[2:]))[0] == "empty"
    second = {"choices": [{"index": 1, "delta": {"content": "other"}}]}
    (_, reply), *_ = wire.asked(wire.stream(wire.event(second), *wire.GOOD))
    assert reply.text == "Hello world"
    assert "more than one choice" in reply.notes[0]
    (_, reply), *_ = wire.asked(wire.stream(wire.GOOD[2], *wire.GOOD[:2], wire.DONE))
    assert reply.text == "Hello world"
    assert reply.notes == ("text came after the finish reason",)


def test_hidden_reasoning_counts_apart(wire: ModuleType) -> None:
    thought = {"choices": [{"index": 0, "delta": {"reasoning_content": "hm "}}]}
    (_, reply), *_ = wire.asked(wire.stream(wire.event(thought), *wire.GOOD))
    assert (reply.hidden, reply.text) == ("hm ", "Hello world")


def test_a_diffusing_stream_replaces(wire: ModuleType) -> None:
    shown = [wire.event(wire.text_chunk(text)) for text in ("xx xx", "He xx", "He is")]
    (_, reply), *_ = wire.asked(wire.stream(*shown, *wire.GOOD[2:]), replaces=True, diffusing="diffusing")
    assert reply.text == "He is"
    assert [piece.text for piece in reply.shown] == ["xx xx", "He xx", "He is"]


def test_a_stream_that_was_compressed_all_the_same(wire: ModuleType) -> None:
    head = wire.EVENTS.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
    assert outcome(wire, wire.stream(wire.gzipped(b"".join(wire.GOOD)), head=head)) == (None, "", "Hello world")
    assert outcome(wire, wire.stream(b"this is not gzip", head=head))[0] == "encoding"


def test_events_cut_in_the_middle_of_a_character(wire: ModuleType) -> None:
    data = wire.event(json.dumps(wire.text_chunk("é𝄞"), ensure_ascii=False).encode())
    pieces = [data[i : i + 1] for i in range(len(data))]
    assert outcome(wire, wire.stream(*pieces, *wire.GOOD[2:]))[2] == "é𝄞"


def test_a_slow_stream_and_a_silent_one_end_at_the_limit(wire: ModuleType) -> None:
    begin = time.monotonic()
    limits = Limits(timeout_s=0.4)
    assert outcome(wire, wire.stream(wire.GOOD[0], 30.0), limits=limits)[::2] == ("timeout", "Hello")
    endless = [part for _ in range(500) for part in (wire.GOOD[0], 0.01)]
    assert outcome(wire, wire.stream(*endless), limits=limits)[0] == "timeout"
    assert time.monotonic() - begin < 20


def test_a_huge_stream_is_cut_off(wire: ModuleType) -> None:
    limits = Limits(timeout_s=20, reply_b=1 << 16)
    assert (
        outcome(wire, wire.stream(*([wire.event(wire.text_chunk("x" * 4000))] * 40)), limits=limits)[0] == "too_large"
    )


def test_a_server_that_stays_open_after_done_holds_nobody_up(wire: ModuleType) -> None:
    begin = time.monotonic()
    (_, reply), *_ = wire.asked(wire.stream(*wire.GOOD, 30.0), limits=Limits(timeout_s=20))
    assert reply.fault is None
    assert time.monotonic() - begin < 15


def test_what_is_no_http_at_all(wire: ModuleType) -> None:
    async def garbage(writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x16\x03\x01 what?\r\n\r\n")

    assert outcome(wire, garbage)[0] in ("malformed", "reset")


def test_nobody_there_no_such_host_and_no_encryption(wire: ModuleType) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    async def code(url: str) -> str | None:
        endpoint = Endpoint(url, "m")
        async with Client(endpoint, Limits(timeout_s=5)) as client:
            fault = read_reply(await client.ask(b"{}"), endpoint).fault
            return fault.code if fault else None

    assert run_loop(code(f"http://127.0.0.1:{port}/v1")) == "refused"
    assert run_loop(code("http://no-such-host.invalid/v1")) == "dns"

    async def plain() -> str | None:
        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            return await code(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")

    assert run_loop(plain()) == "tls"


def test_every_fault_has_a_meaning() -> None:
    assert all(words and words[0].islower() for words in FAULTS.values())
