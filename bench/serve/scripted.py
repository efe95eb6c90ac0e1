"""A server without a model whose every time is known beforehand: the truth that a load tool is held against.

    first=0.5,every=0.4,size=64        blocks of 64 tokens, the first after 0.5 s, then one every 0.4 s
    first=0.1,every=0.00625,size=1     AR: a token every 6.25 ms

Any number of requests runs at once, each on its own schedule, and a time is a time since the request was received: what
is late once is not late for good.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from ... import InputError
from ...models.prompts import default_prompts
from ...models.tokenizer import Tokenizer, embedded_tokenizer
from .ask import Ask
from .backend import Ended, Happening, Step


@dataclass(frozen=True, slots=True)
class Schedule:
    """Block i (from 0) of `size` tokens is sent `first_s` + i x `every_s` seconds after the request was received."""

    first_s: float
    every_s: float
    size: int

    @classmethod
    def read(cls, text: str) -> Schedule:
        """From `first=S,every=S,size=N`. Raises InputError."""
        found: dict[str, float] = {}
        for part in text.split(","):
            match = re.fullmatch(r"\s*(first|every|size)\s*=\s*([0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?)\s*", part)
            if match is None or match[1] in found:
                raise InputError(f"--schedule {text[:80]!r}: {part[:40]!r} is not understood; {_WANTED}")
            found[match[1]] = float(match[2])
        if set(found) != {"first", "every", "size"} or found["size"] < 1 or found["size"] % 1:
            raise InputError(f"--schedule {text[:80]!r}: {_WANTED}")
        if max(found["first"], found["every"]) > 3600:
            raise InputError(f"--schedule {text[:80]!r}: more than an hour between blocks; {_WANTED}")
        return cls(found["first"], found["every"], int(found["size"]))

    def at_s(self, block: int) -> float:
        """When block number `block` is sent."""
        return self.first_s + block * self.every_s

    def blocks(self, tokens: int) -> int:
        """How many blocks so many tokens need."""
        return -(-tokens // self.size)


_FEW = 16  # requests at once that may keep a processor busy until their moment comes
_CLOCK_NS = 1_500_000
_WANTED = "expected seconds and tokens, as first=0.5,every=0.4,size=64"


class Scripted:
    """Answers with text that ships, on a schedule."""

    name = "scripted"

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.tokenizer: Tokenizer = embedded_tokenizer()
        # Cut from real text at places where decoding and encoding agree, so that counting an answer's tokens again
        # gives the number that was sent.
        self._source = default_prompts(self.tokenizer)
        self._answers: dict[tuple[int, int], tuple[int, ...]] = {}
        self._open = 0

    def about(self) -> dict[str, Any]:
        """The schedule."""
        schedule = self.schedule
        return {
            "kind": "scripted",
            "side": "ar" if schedule.size == 1 else "diffusion",
            "schedule": {"first_s": schedule.first_s, "every_s": schedule.every_s, "size": schedule.size},
        }

    def prompt_tokens(self, ask: Ask) -> int:
        return len(self.tokenizer.encode(ask.prompt)) if isinstance(ask.prompt, str) else len(ask.prompt)

    def answer(self, number: int, tokens: int) -> tuple[int, ...]:
        """`tokens` ids of text that encode to themselves; a few different ones take turns."""
        key = (number % 16, tokens)
        if key not in self._answers:
            (ids,) = self._source.batch(key[0], 1, tokens)
            self._answers[key] = tuple(ids)
        return self._answers[key]

    async def steps(self, ask: Ask) -> Happening:
        self._open += 1
        try:
            async with aclosing(self._on_time(ask)) as happening:
                async for happened in happening:
                    yield happened
        finally:
            self._open -= 1

    async def _on_time(self, ask: Ask) -> Happening:
        begin = ask.received_ns
        ids = self.answer(ask.seed, ask.tokens)
        noise = random.Random(ask.seed) if ask.diffusing else None
        for block in range(self.schedule.blocks(len(ids))):
            await _until(begin + round(self.schedule.at_s(block) * 1e9), exactly=self._open <= _FEW)
            done = min((block + 1) * self.schedule.size, len(ids))
            canvas = None
            if noise is not None:
                canvas = [*ids[:done], *self._noise(ids[done:], ids, noise)]
            yield Step(time.monotonic_ns(), ids[block * self.schedule.size : done], canvas)
        yield Ended("length", {"blocks": self.schedule.blocks(len(ids))})

    def _noise(self, wanted: Sequence[int], ids: Sequence[int], draw: random.Random) -> list[int | None]:
        """What stands where nothing is final yet: tokens from anywhere in the text, others at every step. The first of
        them is none that a reader could take for the right one."""
        found: list[int | None] = [draw.choice(ids) for _ in wanted]
        if wanted:
            right = self.tokenizer.decode([wanted[0]])
            wrong = [token for token in ids if not self.tokenizer.decode([token]).startswith(right)]
            found[0] = draw.choice(wrong) if wrong else None
        return found

    async def close(self) -> None: ...


async def _until(at_ns: int, *, exactly: bool) -> None:
    """Sleep until a moment of `time.monotonic_ns`. The loop wakes up to a millisecond late, or early and then sleeps
    one more: `exactly` does not sleep through the last of it, which only a few may do at once."""
    early = _CLOCK_NS if exactly else 0
    while (left := at_ns - early - time.monotonic_ns()) > 0:
        await asyncio.sleep(max(left * 1e-9, 1e-3))
    while exactly and time.monotonic_ns() < at_ns:
        await asyncio.sleep(0)
