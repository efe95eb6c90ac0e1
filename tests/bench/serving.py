"""A server of ours in a thread of the test, so that the client's commands can be called as they are."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

from dlmbench.bench.serve.app import make_app
from dlmbench.bench.serve.backend import Backend


@contextmanager
def served(backend: Backend) -> Iterator[str]:
    """The base URL of a running server; it has ended when the block has."""
    ready, url = threading.Event(), ""
    loop = asyncio.new_event_loop()
    end = asyncio.Event()

    async def run() -> None:
        nonlocal url
        runner = web.AppRunner(make_app(backend), access_log=None, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        ready.set()
        await end.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(30)
        loop.close()


def post(url: str, path: str, document: Any) -> tuple[int, Any]:
    """Status and JSON of a request; a stream as the list of its chunks."""
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    request = urllib.request.Request(f"{url}{path}", data=data, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read().decode()
            if answer.headers["Content-Type"].startswith("text/event-stream"):
                parts = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
                assert parts[-1] == "[DONE]"
                return answer.status, [json.loads(part) for part in parts[:-1]]
            return answer.status, json.loads(text)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def get(url: str, path: str) -> Any:
    with urllib.request.urlopen(f"{url}{path}", timeout=60) as answer:
        return json.loads(answer.read())


def text_of(chunks: list[Any]) -> str:
    """The text of a stream that adds."""
    parts = []
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        parts += [choice["text"] if "text" in choice else choice["delta"].get("content", "")]
    return "".join(parts)
