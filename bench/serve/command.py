"""`dlmbench serve`: starts the server, says where it is, and ends it in order."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from rich.console import Console
from rich.text import Text

from ... import InputError
from ...models.endpoints.endpoint import is_loopback
from ...models.endpoints.loop import run_loop
from .app import make_app
from .backend import Backend
from .files import raise_file_limit
from .scripted import Schedule, Scripted


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What a user may ask of the server. `schedule` serves text on a schedule instead of a generator's."""

    pair: str = "small"
    generator: str = "ar"
    steps: str | None = None
    block_length: str | None = None
    weights: str | None = None
    dtype: str | None = None
    device: str = "auto"
    threads: int | None = None
    seed: int = 0
    longest: int = 4096
    waiting: int = 64
    schedule: str | None = None
    host: str = "127.0.0.1"
    port: int = 8333


def serve_command(options: ServeOptions, console: Console, ready: Callable[[dict[str, Any]], None]) -> None:
    """Serve until Ctrl-C or SIGTERM. `ready` is told URL and model once requests are taken. Raises InputError."""
    backend = _backend(options)
    if not is_loopback(options.host):
        warning = f"{options.host} can be reached from elsewhere, and this server asks nobody for a key"
        console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)
    raise_file_limit()
    run_loop(_serve(backend, options, ready))


def _backend(options: ServeOptions) -> Backend:
    if options.schedule is not None:
        return Scripted(Schedule.read(options.schedule))
    import torch

    from ...models.pairs import load_pair
    from ..plan import own_tokenizer, with_weights
    from ..tokenizers import tokenizer_of
    from .model import ModelBackend, Serving

    device = ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {device}: torch {torch.__version__} sees no CUDA device; choose cpu")
    if device != "cpu" and not device.startswith("cuda"):
        raise InputError(f"--device {device[:40]!r}: expected cpu, cuda, cuda:N or auto")
    dtype = options.dtype or ("bfloat16" if device.startswith("cuda") else "float32")
    if dtype not in ("float32", "bfloat16", "float16"):
        raise InputError(f"--dtype {dtype[:40]!r}: expected float32, bfloat16 or float16")
    pair = with_weights(load_pair(options.pair), options.weights)
    serving = Serving(
        generator=options.generator,
        steps=options.steps,
        block_length=options.block_length,
        dtype=dtype,
        device=device,
        threads=options.threads,
        seed=options.seed,
        longest=options.longest,
        waiting=options.waiting,
    )
    return ModelBackend(pair, serving, tokenizer_of(own_tokenizer((pair,))))


async def _serve(backend: Backend, options: ServeOptions, ready: Callable[[dict[str, Any]], None]) -> None:
    # A client that goes away ends its generation.
    runner = web.AppRunner(make_app(backend), access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, options.host, options.port, backlog=4096, reuse_address=True)
        try:
            await site.start()
        except (OSError, OverflowError) as error:
            why = {errno.EADDRINUSE: "somebody else has this port", errno.EACCES: "not allowed"}
            said = why.get(getattr(error, "errno", None) or 0) or getattr(error, "strerror", None) or str(error)
            raise InputError(
                f"--host {options.host} --port {options.port}: cannot be served at ({said}); --port 0 takes a free one"
            ) from None
        port = runner.addresses[0][1]
        host = f"[{options.host}]" if ":" in options.host else options.host
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ended.set)
        ready({"url": f"http://{host}:{port}/v1", "model": backend.name, "pid": os.getpid(), **backend.about()})
        await ended.wait()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)  # a second one ends it at once
    finally:
        await runner.cleanup()


def say_ready(console: Console, *, as_json: bool) -> Callable[[dict[str, Any]], None]:
    """How the server says that it takes requests: a sentence, or one line of JSON for a program that waits for it."""

    def ready(document: dict[str, Any]) -> None:
        if as_json:
            sys.stdout.write(json.dumps(document) + "\n")
            sys.stdout.flush()
        else:
            text = f"{document['model']} at {document['url']} (Ctrl-C ends it)"
            console.print(Text(text), soft_wrap=True)

    return ready
