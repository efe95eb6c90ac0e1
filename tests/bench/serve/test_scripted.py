"""The protocol and the schedule, on a server without a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from dlmbench import InputError
from dlmbench.bench.serve.ask import RefusedError, read_ask
from dlmbench.bench.serve.backend import Ended, Step
from dlmbench.bench.serve.scripted import Schedule, Scripted
from dlmbench.bench.serve.text import MASKED, Growing, canvas_text
from dlmbench.models.endpoints.loop import run_loop
from dlmbench.models.source import embedded_source
from dlmbench.models.tokenizer import embedded_tokenizer

SCHEDULE = Schedule(0.05, 0.02, 8)


@pytest.fixture(scope="module")
def url(serving: ModuleType) -> Iterator[str]:
    with serving.served(Scripted(SCHEDULE)) as there:
        yield there


@pytest.mark.parametrize(
    "text",
    ["", "first=1", "first=1,every=1,size=0", "first=1,every=1,size=1.5", "first=-1,every=1,size=1", "a=1",
     "first=1,every=nan,size=1", "first=1,first=1,every=1,size=1", "first=9999,every=1,size=1"],
)  # fmt: skip
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected seconds and tokens"):
        Schedule.read(text)


def test_a_schedule_is_kept() -> None:
    assert Schedule.read("first=0.5, every=0.4 ,size=64") == Schedule(0.5, 0.4, 64)
    backend = Scripted(SCHEDULE)
    ask = read_ask(json.dumps({"prompt": "x", "max_tokens": 20}).encode(), chat=False, number=3)

    async def told() -> list[Step | Ended]:
        return [happened async for happened in backend.steps(ask)]

    *steps, ended = run_loop(told())
    assert [len(step.final) for step in steps if isinstance(step, Step)] == [8, 8, 4]
    assert isinstance(ended, Ended)
    assert ended.reason == "length"
    times = [(step.at_ns - ask.received_ns) * 1e-9 for step in steps if isinstance(step, Step)]
    # Never early; how late is the machine's business.
    assert all(at >= SCHEDULE.at_s(block) for block, at in enumerate(times))


def test_models_health_and_tokenize(serving: ModuleType, url: str) -> None:
    (model,) = serving.get(url, "/models")["data"]
    assert model["id"] == "scripted"
    assert model["dlmbench"]["schedule"] == {"first_s": 0.05, "every_s": 0.02, "size": 8}
    root = url.removesuffix("/v1")
    assert serving.get(root, "/health") == {"status": "ok"}
    tokenizer = embedded_tokenizer()
    status, found = serving.post(root, "/tokenize", {"prompt": "Hello there"})
    assert (status, found["tokens"]) == (200, tokenizer.encode("Hello there"))
    assert serving.post(root, "/tokenize", {"text": 3})[0] == 400


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_both_methods_stream_and_whole(serving: ModuleType, url: str, chat: bool, stream: bool) -> None:
    asked: dict[str, Any] = {"max_tokens": 20, "seed": 3, "stream": stream, "stream_options": {"include_usage": True}}
    asked |= {"messages": [{"role": "user", "content": "Say"}]} if chat else {"prompt": "Say"}
    status, found = serving.post(url, "/chat/completions" if chat else "/completions", asked)
    assert status == 200
    if stream:
        text, usage, reason = serving.text_of(found), found[-1]["usage"], found[-2]["choices"][0]["finish_reason"]
        assert len(found) == 3 + 2  # blocks, the end, the usage
    else:
        (choice,) = found["choices"]
        text = choice["message"]["content"] if chat else choice["text"]
        usage, reason = found["usage"], choice["finish_reason"]
    tokenizer = embedded_tokenizer()
    assert len(tokenizer.encode(text)) == 20
    assert usage == {"prompt_tokens": len(tokenizer.encode("Say")), "completion_tokens": 20,
                     "total_tokens": 20 + len(tokenizer.encode("Say"))}  # fmt: skip
    assert reason == "length"


def test_usage_and_stamps_come_only_where_asked_for(serving: ModuleType, url: str) -> None:
    _, plain = serving.post(url, "/completions", {"prompt": "x", "max_tokens": 8, "stream": True})
    assert all("usage" not in chunk and "dlmbench" not in chunk for chunk in plain)
    _, told = serving.post(
        url, "/completions", {"prompt": "x", "max_tokens": 8, "stream": True, "dlmbench_stamps": True}
    )
    assert told[0]["dlmbench"]["sent_ns"] > told[-1]["dlmbench"]["received_ns"]


def test_a_diffusing_stream_shows_the_whole_canvas(serving: ModuleType, url: str) -> None:
    asked = {"prompt": "x", "max_tokens": 24, "stream": True, "diffusing": True, "seed": 1}
    _, chunks = serving.post(url, "/completions", asked)
    texts = [chunk["choices"][0]["text"] for chunk in chunks if chunk["choices"][0]["text"]]
    final = serving.text_of(serving.post(url, "/completions", asked | {"diffusing": False})[1])
    assert texts[-1] == final
    assert len(texts) == 3
    assert texts[0] != final


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "not JSON"), (b"[]", "not a JSON object"), (b"[" * 50_000, "not JSON"),
        ({"prompt": 3}, "prompt: expected"), ({"prompt": [1, -1]}, "prompt: expected"), ({}, "prompt: expected"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens: expected an integer from 1"),
        ({"prompt": "x", "max_tokens": True}, "max_tokens: exp"), ({"prompt": "x", "max_tokens": 1e9}, "max_tokens"),
        ({"prompt": "x", "temperature": "hot"}, "temperature: exp"), ({"prompt": "x", "stream": 1}, "stream: exp"),
        ({"prompt": "x", "n": 2}, "n: not supported"), ({"prompt": "x", "stop": ["a"]}, "stop: not supported"),
        ({"prompt": "x", "logprobs": 5}, "logprobs: not"), ({"prompt": "x", "stream_options": 3}, "stream_options"),
        ({"prompt": "x", "model": 3}, "model: expected"), ({"prompt": "x", "seed": -1}, "seed: expected"),
    ],
)  # fmt: skip
def test_bad_requests_are_refused_in_one_sentence(serving: ModuleType, url: str, body: Any, said: str) -> None:
    status, found = serving.post(url, "/completions", body)
    assert status == 400
    assert said in found["error"]["message"]
    assert found["error"]["type"] == "invalid_request_error"


def test_other_models_paths_methods_and_lengths(serving: ModuleType, url: str) -> None:
    assert serving.post(url, "/completions", {"prompt": "x", "model": "gpt"})[0] == 404
    assert serving.post(url, "/nothing", {})[0] == 404
    assert serving.post(url, "/models", {})[0] == 405
    status, found = serving.post(url, "/completions", {"prompt": "x", "max_tokens": 1 << 20})
    assert status == 400
    assert "tokens" in found["error"]["message"]


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}], "a\nb"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], "ab"),
    ],
)
def test_messages_are_joined(messages: Any, text: str) -> None:
    assert read_ask(json.dumps({"messages": messages}).encode(), chat=True, number=0).prompt == text


@pytest.mark.parametrize("messages", [None, [], [3], [{"content": 3}], [{"content": [{"image": 1}]}], "x"])
def test_what_are_no_messages(messages: Any) -> None:
    with pytest.raises(RefusedError, match="messages: expected"):
        read_ask(json.dumps({"messages": messages}).encode(), chat=True, number=0)


def test_text_grows_by_whole_characters() -> None:
    tokenizer = embedded_tokenizer()
    text = "naïve 𝄞 déjà vu, twice: naïve"
    growing, sent = Growing(tokenizer), ""
    for token in tokenizer.encode(text):
        new = growing.add([token])
        assert "\ufffd" not in new
        sent += new
        assert text.startswith(sent)
    assert sent + growing.rest() == text
    words = embedded_source().tokenizer
    ids = embedded_source().texts(1, 12, seed=1)[0].tolist()
    grown = Growing(words)
    assert "".join([*(grown.add([token]) for token in ids), grown.rest()]) == words.decode(ids)


def test_a_canvas_shows_what_is_still_masked() -> None:
    tokenizer = embedded_tokenizer()
    ids = tokenizer.encode("one two")
    assert canvas_text(tokenizer, [*ids, None, None]) == f"one two{MASKED}{MASKED}"
    words = embedded_source().tokenizer
    first, second = words.encode(words.decode([5, 6]))
    assert canvas_text(words, [first, None, second]) == f"{words.decode([5])} {MASKED} {words.decode([6])}"
    assert canvas_text(words, [None]) == MASKED
