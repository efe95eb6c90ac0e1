"""The protocol: `/v1/models`, `/v1/completions`, `/v1/chat/completions`, `/tokenize`, `/health`, over aiohttp.

A stream sends a chunk for each step that has text for a reader. Tokens that are committed out of order are held back
until those before them are there, since what was sent cannot be taken back; a `diffusing` stream sends the whole canvas
at every step instead. With `dlmbench_stamps` each chunk tells when it was sent, on the host's monotonic clock.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, Protocol

from aiohttp import web

from ... import InputError, __version__
from ...models.tokenizer import Tokenizer
from .ask import Ask, RefusedError, read_ask
from .backend import Backend, Ended, Happening, Step
from .text import Growing, canvas_text, words

# Prompts of a million tokens fit.
_BODY_B = 64 << 20
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(backend: Backend) -> web.Application:
    """The application that serves `backend`."""
    server = _Server(backend)
    app = web.Application(client_max_size=_BODY_B, middlewares=[_in_words])
    app.add_routes(
        [
            web.get("/health", server.health),
            web.get("/v1/models", server.models),
            web.post("/v1/completions", server.completions),
            web.post("/v1/chat/completions", server.chat),
            web.post("/tokenize", server.tokenize),
            web.post("/detokenize", server.detokenize),
        ]
    )

    async def end(_: web.Application) -> None:
        await backend.close()

    app.on_cleanup.append(end)
    return app


@web.middleware
async def _in_words(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Every refusal as OpenAI's servers write it."""
    try:
        return await handler(request)
    except RefusedError as error:
        return web.json_response(error.document(), status=error.status, headers=error.headers)
    except InputError as error:
        refused = RefusedError(400, "invalid_request_error", str(error))
        return web.json_response(refused.document(), status=400)
    except web.HTTPException as error:
        refused = RefusedError(error.status, "invalid_request_error", error.reason)
        return web.json_response(refused.document(), status=error.status)


class _Server:
    """The handlers of one backend."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._numbers = itertools.count()
        self._created = int(time.time())

    async def health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def models(self, _: web.Request) -> web.Response:
        tokenizer = self._backend.tokenizer
        about = {
            "version": __version__,
            "tokenizer": {"name": tokenizer.name, "sha256": tokenizer.sha256},
            **self._backend.about(),
        }
        model = {"id": self._backend.name, "object": "model", "created": self._created, "owned_by": "dlmbench"}
        return web.json_response({"object": "list", "data": [model | {"dlmbench": about}]})

    async def tokenize(self, request: web.Request) -> web.Response:
        try:
            prompt = (await request.json())["prompt"]
            ids = self._backend.tokenizer.encode(prompt)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RefusedError(400, "invalid_request_error", "prompt: expected a text") from None
        strings = [self._backend.tokenizer.spelling(token) for token in ids]
        return web.json_response({"count": len(ids), "tokens": ids, "token_strs": strings})

    async def detokenize(self, request: web.Request) -> web.Response:
        try:
            ids = (await request.json())["tokens"]
            text = self._backend.tokenizer.decode(ids)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise RefusedError(400, "invalid_request_error", "tokens: expected an array of token ids") from None
        return web.json_response({"prompt": text})

    async def completions(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=False)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=True)

    async def _answer(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        received = time.monotonic_ns()
        number = next(self._numbers)
        ask = read_ask(await request.read(), chat=chat, number=number, received_ns=received)
        if ask.model is not None and ask.model != self._backend.name:
            message = f"model {ask.model[:80]!r}: not here; this server has {self._backend.name!r}"
            raise RefusedError(404, "invalid_request_error", message)
        shape = _Shape(ask, f"{'chatcmpl' if chat else 'cmpl'}-{number}", self._created, self._backend.name)
        prompt_tokens = self._backend.prompt_tokens(ask)
        async with aclosing(self._backend.steps(ask)) as steps:
            # What is refused is refused before a stream has begun.
            first = await anext(steps)
            if not ask.stream:
                return await self._whole(shape, first, steps, prompt_tokens, received)
            return await self._stream(request, shape, first, steps, prompt_tokens, received)

    async def _whole(
        self, shape: _Shape, first: Step | Ended, steps: Happening, prompt_tokens: int, received: int
    ) -> web.Response:
        ids: list[int] = []
        happened = first
        while not isinstance(happened, Ended):
            ids += happened.final
            happened = await anext(steps)
        text = self._backend.tokenizer.decode(words(self._backend.tokenizer, ids))
        document = shape.whole(text, happened.reason) | {"usage": _usage(prompt_tokens, len(ids))}
        if shape.ask.stamps:
            document["dlmbench"] = {"received_ns": received, "work": happened.work, "sent_ns": time.monotonic_ns()}
        return web.json_response(document)

    async def _stream(
        self,
        request: web.Request,
        shape: _Shape,
        first: Step | Ended,
        steps: Happening,
        prompt_tokens: int,
        received: int,
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        text: _Text = _Replacing(self._backend.tokenizer) if shape.ask.diffusing else _Adding(self._backend.tokenizer)
        stream = _Stream(response, shape)
        try:
            count, happened = 0, first
            while not isinstance(happened, Ended):
                count += len(happened.final)
                await stream.send(text.after(happened))
                happened = await anext(steps)
            await stream.send(text.rest())
            await stream.end(happened, _usage(prompt_tokens, count), received)
        except RefusedError as error:  # too late for a status
            await stream.write(error.document())
        await response.write_eof()
        return response


class _Text(Protocol):
    """What a reader is sent: the text of a chunk after a step (empty: none), and what is left at the end."""

    def after(self, step: Step) -> str: ...

    def rest(self) -> str: ...


class _Adding:
    """Text that is only added to."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._growing, self._tokenizer = Growing(tokenizer), tokenizer

    def after(self, step: Step) -> str:
        return self._growing.add(words(self._tokenizer, step.final))

    def rest(self) -> str:
        return self._growing.rest()


class _Replacing:
    """The whole canvas, whenever it has changed."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._shown = tokenizer, ""

    def after(self, step: Step) -> str:
        if step.canvas is None:
            return ""
        ids = [token for token in step.canvas if token is None or token != self._tokenizer.eos_id]
        text = canvas_text(self._tokenizer, ids)
        changed, self._shown = text != self._shown, text
        return text if changed else ""

    def rest(self) -> str:
        return ""


class _Stream:
    """Writes chunks as server-sent events."""

    def __init__(self, response: web.StreamResponse, shape: _Shape) -> None:
        self._response, self._shape, self._count = response, shape, 0

    async def send(self, text: str) -> None:
        """A chunk of text, if there is any."""
        if not text:
            return
        chunk = self._shape.chunk(text, first=not self._count)
        self._count += 1
        if self._shape.ask.stamps:
            chunk["dlmbench"] = {"sent_ns": time.monotonic_ns()}
        await self.write(chunk)

    async def end(self, ended: Ended, usage: dict[str, int], received: int) -> None:
        """Why the stream ends, what it used, and that it is whole."""
        last = self._shape.end(ended.reason)
        if self._shape.ask.stamps:
            last["dlmbench"] = {"received_ns": received, "work": ended.work}
        lines = [last]
        if self._shape.ask.usage:
            lines.append(self._shape.base() | {"choices": [], "usage": usage})
        await self._response.write(b"".join(map(_event, lines)) + b"data: [DONE]\n\n")

    async def write(self, document: dict[str, Any]) -> None:
        await self._response.write(_event(document))


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def _usage(prompt: int, answer: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


class _Shape:
    """The envelopes of one answer: chat or text, whole or in chunks."""

    def __init__(self, ask: Ask, name: str, created: int, model: str) -> None:
        self.ask = ask
        self._name, self._created, self._model = name, created, model

    def base(self) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.ask.stream else "chat.completion"
        return {
            "id": self._name,
            "object": kind if self.ask.chat else "text_completion",
            "created": self._created,
            "model": self._model,
        }

    def chunk(self, text: str, *, first: bool) -> dict[str, Any]:
        """A piece of a stream."""
        if not self.ask.chat:
            return self.base() | {"choices": [{"index": 0, "text": text, "finish_reason": None}]}
        delta = {"role": "assistant", "content": text} if first else {"content": text}
        return self.base() | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}

    def end(self, reason: str) -> dict[str, Any]:
        """The piece that says why a stream ends. It has no text."""
        if not self.ask.chat:
            return self.base() | {"choices": [{"index": 0, "text": "", "finish_reason": reason}]}
        return self.base() | {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}

    def whole(self, text: str, reason: str) -> dict[str, Any]:
        """An answer in one document."""
        if not self.ask.chat:
            return self.base() | {"choices": [{"index": 0, "text": text, "finish_reason": reason}]}
        message = {"role": "assistant", "content": text}
        return self.base() | {"choices": [{"index": 0, "message": message, "finish_reason": reason}]}
