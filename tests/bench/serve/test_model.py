"""Local generators behind the protocol: the very tokens they generate, as they commit them; limits; clients that go."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch

from dlmbench import InputError
from dlmbench.bench.plan import with_weights
from dlmbench.bench.serve.ask import Ask, RefusedError, read_ask
from dlmbench.bench.serve.backend import Ended, Step
from dlmbench.bench.serve.model import ModelBackend, Serving
from dlmbench.models.autoregressive import Autoregressive
from dlmbench.models.catalog import Context, build
from dlmbench.models.endpoints.loop import run_loop
from dlmbench.models.generator import Request, Settings, Shape, Silent
from dlmbench.models.pairs import load_pair
from dlmbench.models.source import embedded_source

TOKENIZER = embedded_source().tokenizer


def backend(generator: str = "ar", **fields: Any) -> ModelBackend:
    given: dict[str, Any] = {"steps": None, "block_length": None, "dtype": "float32", "device": "cpu", "threads": 1}
    return ModelBackend(with_weights(load_pair("small"), None), Serving(generator, **(given | fields)), TOKENIZER)


def ask(**fields: Any) -> Ask:
    given: dict[str, Any] = {"prompt": prompt(), "max_tokens": 12, "ignore_eos": True, "seed": 5}
    return read_ask(json.dumps(given | fields).encode(), chat=False, number=0)


def prompt(length: int = 8) -> list[int]:
    found: list[int] = embedded_source().texts(1, length, seed=3)[0].tolist()
    return found


def told(server: ModelBackend, asked: Ask) -> tuple[list[Step], Ended]:
    async def run() -> list[Step | Ended]:
        found = [happened async for happened in server.steps(asked)]
        await server.close()
        return found

    *steps, ended = run_loop(run())
    assert isinstance(ended, Ended)
    return [step for step in steps if isinstance(step, Step)], ended


def generated(generator: str, length: int, **settings: Any) -> list[int]:
    side = with_weights(load_pair("small"), None)
    spec = side.ar if generator == "ar" else side.diffusion
    made = build(generator, Context(spec.backbone, spec.weights, torch.float32, "cpu", 0))
    chosen = Settings(**settings)
    made.prepare(Shape(1, 8, length), chosen)
    ids = torch.tensor([prompt()])
    found: list[int] = made.generate(Request(ids, length, chosen, 5), Silent())[0].tolist()
    return found


@pytest.mark.parametrize(
    ("generator", "steps", "block", "settings"),
    [
        ("ar", None, None, {}),
        ("masked-diffusion", "L/4", None, {"steps": 3}),
        ("block-diffusion", None, "4", {"block_length": 4}),
        ("block-diffusion", "L/2", "4", {"block_length": 4, "steps": 6}),
    ],
)
@pytest.mark.parametrize("diffusing", [False, True])
def test_what_is_served_is_what_is_generated(
    generator: str, steps: str | None, block: str | None, settings: dict[str, Any], diffusing: bool
) -> None:
    server = backend(generator, steps=steps, block_length=block)
    happened, ended = told(server, ask(stream=True, diffusing=diffusing, temperature=1.0))
    wanted = generated(generator, 12, temperature=1.0, **settings)
    assert [token for step in happened for token in step.final] == wanted
    assert (ended.reason, ended.work["canvas_tokens"]) == ("length", 12)
    assert [step.at_ns for step in happened] == sorted(step.at_ns for step in happened)
    if diffusing:
        assert list(happened[-1].canvas or ()) == wanted
        assert any(None in (step.canvas or ()) for step in happened)
    elif generator == "ar":
        assert [len(step.final) for step in happened] == [1] * 12


def test_lengths_that_are_no_whole_blocks_are_generated_whole_and_cut() -> None:
    happened, ended = told(backend("block-diffusion", block_length="8"), ask(max_tokens=11))
    assert sum(len(step.final) for step in happened) == 11
    assert ended.work["canvas_tokens"] == 16


def test_an_answer_ends_at_the_end_of_text_unless_told_otherwise() -> None:
    for seed in range(50):
        whole, other = told(backend(), ask(max_tokens=96, ignore_eos=True, temperature=1.0, seed=seed))
        every = [token for step in whole for token in step.final]
        if TOKENIZER.eos_id in every:
            break
    free, ended = told(backend(), ask(max_tokens=96, ignore_eos=False, temperature=1.0, seed=seed))
    assert [token for step in free for token in step.final] == every[: every.index(TOKENIZER.eos_id)]
    assert (ended.reason, other.reason) == ("stop", "length")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompt": "this is not in its vocabulary"}, "prompt: text: found .not."),
        ({"prompt": [10_000]}, "an id is not below"),
        ({"max_tokens": 5000}, "this server takes 4096"),
        ({"temperature": 1e-9}, "temperature"),
    ],
)
def test_what_cannot_be_served_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        told(backend(), ask(**fields))


def test_generators_and_steps_that_are_none() -> None:
    with pytest.raises(InputError, match="expected one that ships"):
        backend("nonsense")
    with pytest.raises(InputError, match="expected a positive integer, L or L/n"):
        backend("masked-diffusion", steps="L*2")


@contextmanager
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """AR generations stop after their first token until released."""
    go = threading.Event()
    real = Autoregressive.generate

    def generate(self: Autoregressive, request: Request, observer: Any) -> Any:
        class Held:
            def forward(self, *given: Any) -> Any:
                return observer.forward(*given)

            def write(self, *given: Any, **named: Any) -> None:
                observer.write(*given, **named)
                go.wait(30)

        return real(self, request, Held())

    monkeypatch.setattr(Autoregressive, "generate", generate)
    yield go.set
    go.set()


def test_requests_wait_in_line_and_too_many_are_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    server = backend(waiting=2)

    async def run() -> None:
        with held(monkeypatch) as release:
            first, second = server.steps(ask()), server.steps(ask())
            await anext(first)
            waiting = asyncio.ensure_future(anext(second))
            await asyncio.sleep(0.05)
            with pytest.raises(RefusedError) as caught:
                await anext(server.steps(ask()))
            assert (caught.value.status, caught.value.headers) == (429, {"Retry-After": "1"})
            assert not waiting.done()
            release()
            async for _ in first:
                pass
            await waiting
            await second.aclose()
        await server.close()

    run_loop(run())


def test_a_client_that_goes_away_ends_its_generation(monkeypatch: pytest.MonkeyPatch, serving: ModuleType) -> None:
    """The next request is served, long before the abandoned one of many tokens could have ended."""
    import http.client

    counted = []
    real = Autoregressive.generate

    def generate(self: Autoregressive, request: Request, observer: Any) -> Any:
        try:
            return real(self, request, observer)
        finally:
            counted.append(observer.forwards)

    monkeypatch.setattr(Autoregressive, "generate", generate)
    with serving.served(backend()) as url:
        connection = http.client.HTTPConnection(url.split("/")[2], timeout=30)
        asked = {"prompt": prompt(), "max_tokens": 3000, "stream": True, "ignore_eos": True}
        connection.request("POST", "/v1/completions", json.dumps(asked))
        answer = connection.getresponse()
        assert answer.read(40)
        answer.close()
        connection.close()
        begin = time.monotonic()
        status, found = serving.post(url, "/completions", {"prompt": prompt(), "max_tokens": 4, "ignore_eos": True})
        assert (status, found["usage"]["completion_tokens"]) == (200, 4)
        assert time.monotonic() - begin < 60
    assert counted[0] < 3000


def test_an_error_in_the_middle_of_a_stream_is_told_in_it(monkeypatch: pytest.MonkeyPatch, serving: ModuleType) -> None:
    def generate(self: Autoregressive, request: Request, observer: Any) -> Any:
        observer.write(None, torch.tensor([[7]]), 0, offset=0)
        time.sleep(0.1)
        raise RuntimeError("the device fell over")

    monkeypatch.setattr(Autoregressive, "generate", generate)
    with serving.served(backend()) as url:
        import urllib.request

        body = json.dumps({"prompt": prompt(), "max_tokens": 4, "stream": True}).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{url}/completions", data=body), timeout=30) as answer:
            text = answer.read().decode()
    assert "the device fell over" in text
    assert "[DONE]" not in text
