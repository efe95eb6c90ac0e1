"""What stands behind the protocol: something that commits tokens over time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ...models.tokenizer import Tokenizer
from .ask import Ask


@dataclass(frozen=True, slots=True)
class Step:
    """Something happened at `at_ns` (`time.monotonic_ns`): `final` are tokens that follow those of earlier steps and
    will not change any more; `canvas` is all that could be shown now, None for positions that hold nothing yet.
    """

    at_ns: int
    final: tuple[int, ...] = ()
    canvas: Sequence[int | None] | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The last thing that happens: why, in OpenAI's words, and what the server knows of its work."""

    reason: str
    work: dict[str, Any]


Happening = AsyncGenerator[Step | Ended, None]


class Backend(Protocol):
    """Serves requests. `about` says what it is, for `/v1/models`."""

    name: str
    tokenizer: Tokenizer

    def about(self) -> dict[str, Any]: ...

    def prompt_tokens(self, ask: Ask) -> int:
        """Tokens of the request's prompt. Raises RefusedError for a prompt that cannot be served."""
        ...

    def steps(self, ask: Ask) -> Happening:
        """What happens, as it happens; closing the iterator ends the work."""
        ...

    async def close(self) -> None: ...
