"""A local generator behind the protocol: one generation at a time, its commits sent as they happen.

The generator runs in a thread of its own. What it announces to its observer is read back at once, which a measurement
would never do: serving needs the tokens, and their price is part of what a client sees.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ... import InputError
from ...models.catalog import Context, NetworkSource, build
from ...models.generator import Generator, Phase, Request, Settings, Shape
from ...models.names import BUILT_IN, RANDOM
from ...models.pairs import Pair
from ...models.tokenizer import Tokenizer
from .ask import Ask, RefusedError
from .backend import Ended, Happening, Step


@dataclass(frozen=True, slots=True)
class Serving:
    """What a generator is asked with: T and the block length relative to L ("L/4", "4"), as in a suite; None: the
    generator's own. `longest` bounds prompt and answer together, `waiting` how many requests may stand in line.
    """

    generator: str
    steps: str | None
    block_length: str | None
    dtype: str
    device: str
    threads: int | None
    seed: int = 0
    longest: int = 4096
    waiting: int = 64


class _GoneError(Exception):
    """The client has gone away: the generation ends at its next announcement."""


class ModelBackend:
    """Serves one of a pair's sides. Requests wait in line: a batch of one, whatever the load."""

    def __init__(self, pair: Pair, serving: Serving, tokenizer: Tokenizer) -> None:
        side = pair.ar if _side(serving.generator) == "ar" else pair.diffusion
        other = pair.diffusion if side is pair.ar else pair.ar
        for expression in (serving.steps, serving.block_length):
            _part(expression or "L", 1)
        self._serving, self._config = serving, side.backbone
        self._random = side.weights == RANDOM
        partner = NetworkSource(other.backbone, other.weights)
        dtype = getattr(torch, serving.dtype)
        self._context = Context(side.backbone, side.weights, dtype, serving.device, serving.seed, partner=partner)
        self._generator: Generator = build(serving.generator, self._context)
        self._pair, self._weights = pair.name, side.weights
        self.tokenizer = tokenizer
        self.name = f"{pair.name}-{serving.generator}"
        self._line = asyncio.Lock()
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, "dlmbench-generate", initializer=self._begin_thread)

    def _begin_thread(self) -> None:
        if self._serving.threads is not None:
            torch.set_num_threads(self._serving.threads)

    def about(self) -> dict[str, Any]:
        """The generator and what it runs on."""
        serving = self._serving
        return {
            "kind": "generator",
            "side": self._generator.side,
            "pair": self._pair,
            "generator": serving.generator,
            "steps": serving.steps,
            "block_length": serving.block_length,
            "weights": "random" if self._random else "trained or loaded",
            "dtype": serving.dtype,
            "device": serving.device,
            "parameters": self._config.total_parameters,
            "batch": 1,
        }

    def prompt_tokens(self, ask: Ask) -> int:
        return len(self._prompt(ask))

    def _prompt(self, ask: Ask) -> list[int]:
        if isinstance(ask.prompt, tuple):
            if any(token >= self._config.vocab_size for token in ask.prompt):
                raise RefusedError(
                    400, "invalid_request_error", f"prompt: an id is not below {self._config.vocab_size}"
                )
            return list(ask.prompt)
        try:
            return self.tokenizer.encode(ask.prompt)
        except (InputError, TypeError) as error:
            raise RefusedError(400, "invalid_request_error", f"prompt: {error}") from None

    async def steps(self, ask: Ask) -> Happening:
        """Raises RefusedError for what the generator cannot do, and where too many wait."""
        prompt = self._prompt(ask)
        if len(prompt) + ask.tokens > self._serving.longest:
            message = (
                f"prompt and answer of {len(prompt) + ask.tokens} tokens: this server takes {self._serving.longest}"
            )
            raise RefusedError(400, "invalid_request_error", message)
        if self._waiting >= self._serving.waiting:
            raise RefusedError(429, "rate_limit_error", f"{self._waiting} requests wait already", {"Retry-After": "1"})
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Step | Ended | BaseException] = asyncio.Queue()

        def tell(happened: Step | Ended | BaseException) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, happened)

        observer = _Teller(tell, ask.tokens, diffusing=ask.diffusing)
        self._waiting += 1
        work = asyncio.create_task(self._turn(prompt, ask, observer, tell))
        work.add_done_callback(self._left)
        try:
            while True:
                happened = await queue.get()
                if isinstance(happened, BaseException):
                    raise happened
                yield happened
                if isinstance(happened, Ended):
                    return
        finally:
            # A generation that nobody waits for ends at its next announcement, or never begins.
            observer.gone.set()
            if not observer.begun:
                work.cancel()

    async def _turn(self, prompt: list[int], ask: Ask, observer: _Teller, tell: Any) -> None:
        """Wait in line, then generate. A reader that is slow, or has gone, holds nobody up: what is generated for it
        waits for it."""
        async with self._line:
            observer.begun = True
            await asyncio.get_running_loop().run_in_executor(self._thread, self._run, prompt, ask, observer, tell)

    def _left(self, _: asyncio.Task[None]) -> None:
        self._waiting -= 1

    def _run(self, prompt: list[int], ask: Ask, observer: _Teller, tell: Any) -> None:
        """One generation, in the thread."""
        try:
            tell(self._generated(prompt, ask, observer))
        except _GoneError:
            tell(Ended("cancelled", {}))
        except InputError as error:
            tell(RefusedError(400, "invalid_request_error", str(error)))
        except (torch.OutOfMemoryError, MemoryError) as error:
            tell(RefusedError(503, "server_error", f"out of memory: {' '.join(str(error).split())[:200]}"))
        except Exception as error:
            tell(RefusedError(500, "server_error", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"))

    def _generated(self, prompt: list[int], ask: Ask, observer: _Teller) -> Ended:
        settings, length = self._settings(ask)
        shape = Shape(1, len(prompt), length)
        self._generator.prepare(shape, settings)
        ids = torch.tensor([prompt], dtype=torch.int64, device=self._serving.device).view(1, -1)
        eos = None if ask.ignore_eos else self._config.eos_token_id
        observer.begin(eos)
        with torch.inference_mode():
            tokens = self._generator.generate(Request(ids, length, settings, ask.seed % (1 << 63)), observer)
        answer = tokens[0].tolist()[: ask.tokens]
        reason = "length"
        if eos is not None and eos in answer:
            answer, reason = answer[: answer.index(eos)], "stop"
        observer.finish(answer)
        return Ended(reason, {"nfe": observer.forwards, "canvas_tokens": length})

    def _settings(self, ask: Ask) -> tuple[Settings, int]:
        """The settings of a generation, and its length: whole blocks, of which what is beyond the answer is dropped."""
        policy: Any = "fixed" if ask.ignore_eos else "natural"
        if self._generator.side == "ar":
            return Settings(temperature=ask.temperature, length_policy=policy), ask.tokens
        length = size = ask.tokens
        block = steps = None
        if self._serving.block_length is not None:
            block = size = min(_part(self._serving.block_length, length), length)
            length = -(-length // size) * size
        if self._serving.steps is not None:
            # As many in each block: T and L are whole multiples of the number of blocks.
            steps = max(1, round(_part(self._serving.steps, length) * size / length)) * (length // size)
        return Settings(temperature=ask.temperature, length_policy=policy, steps=steps, block_length=block), length

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


@dataclass(slots=True)
class _Teller:
    """An observer that tells what it sees as steps: the tokens that follow those already final, and the canvas."""

    tell: Any
    length: int
    diffusing: bool
    gone: threading.Event = field(default_factory=threading.Event)
    begun: bool = False
    forwards: int = 0
    _ids: list[int | None] = field(default_factory=list)
    _committed: list[bool] = field(default_factory=list)
    _final: int = 0
    _eos: int | None = None
    _stopped: bool = False

    def begin(self, eos: int | None) -> None:
        self._eos = eos
        self._ids, self._committed = [None] * self.length, [False] * self.length
        self._final, self._stopped = 0, False

    @contextmanager
    def forward(
        self, network: str, phase: Phase, rows: int, q_len: int, kv_len: int, logit_rows: int, mask: str
    ) -> Iterator[None]:
        """See `models.generator.Observer`."""
        if self.gone.is_set():
            raise _GoneError
        self.forwards += network == "target"
        yield

    def write(
        self, row_mask: Tensor | None, token_ids: Tensor, step: int, *, offset: int = 0, committed: bool = True
    ) -> None:
        """See `models.generator.Observer`."""
        tokens = token_ids[0].tolist()
        written = [True] * len(tokens) if row_mask is None else row_mask[0].tolist()
        for place, (token, here) in enumerate(zip(tokens, written, strict=True), offset):
            if here and place < self.length:
                self._ids[place] = token
                self._committed[place] = self._committed[place] or committed
        self._advance(time.monotonic_ns())

    def finish(self, answer: list[int]) -> None:
        """What the generator returned stands, whatever it announced."""
        if self._final < len(answer) or self.diffusing:
            new = tuple(answer[self._final :])
            self._final = len(answer)
            self.tell(Step(time.monotonic_ns(), new, tuple(answer) if self.diffusing else None))

    def _advance(self, now: int) -> None:
        new: list[int] = []
        while self._final < self.length and self._committed[self._final] and not self._stopped:
            token = self._ids[self._final]
            assert token is not None
            if token == self._eos:
                self._stopped = True
                break
            new.append(token)
            self._final += 1
        if new or self.diffusing:
            self.tell(Step(now, tuple(new), self._canvas() if self.diffusing else None))

    def _canvas(self) -> tuple[int | None, ...]:
        end = self._ids.index(self._eos) if self._eos is not None and self._eos in self._ids else self.length
        return tuple(self._ids[:end])


def _part(expression: str, length: int) -> int:
    """An axis entry of a suite ("L/4", "8") at L, rounded up: lengths come from clients, and L/4 need not be whole."""
    match = re.fullmatch(r"L(?:/([1-9][0-9]{0,8}))?|([1-9][0-9]{0,8})", expression)
    if match is None:
        raise InputError(f"{expression[:40]!r}: expected a positive integer, L or L/n")
    return int(match[2]) if match[2] else -(-length // int(match[1] or 1))


def _side(generator: str) -> str:
    entry = BUILT_IN.get(generator.partition(":")[0])
    if entry is None:
        raise InputError(f"--generator {generator!r}: expected one that ships; see dlmbench list generators")
    return entry.side
