"""Prompts of an exact length for a load, and the tokenizer that counts prompts and answers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ... import InputError
from ...models.endpoints.endpoint import Endpoint
from ...models.endpoints.server_tokenizer import server_tokenizer
from ...models.prompts import PromptSource, default_prompts, load_prompts
from ...models.tokenizer import Tokenizer, embedded_tokenizer
from ...profiles.serving.record import Tokens
from ..tokenizers import EMBEDDED, SOURCE, tokenizer_of
from .targets import Target

SERVER = "server"
# Bodies made before a window opens; a load that sends more begins anew with the first, which the record says.
POOL = 4096
ASKED_POOL = 256  # where the server cuts them, at three questions a prompt


@dataclass(frozen=True, slots=True)
class Counting:
    """The tokenizer that counts answers, None where none is known; and the prompts, cut to length by that tokenizer or,
    where there is none, by the one that ships.
    """

    tokenizer: Tokenizer | None
    prompts: PromptSource
    why: str = ""

    def record(self) -> Tokens:
        """How tokens are counted."""
        if self.tokenizer is None:
            return Tokens(name=None, why=self.why, prompts_cut_by=self.prompts.tokenizer.name)
        return Tokens(name=self.tokenizer.name, sha256=self.tokenizer.sha256 or None)


def counting_of(reference: str | None, prompts: Path | None, targets: list[Target]) -> Counting:
    """What `--tokenizer` and `--prompts` name; without the former, the tokenizer that all of the servers say they have,
    if it is one that ships. Raises InputError.
    """
    tokenizer, why = None, ""
    if reference == SERVER:
        tokenizer = _of_the_server(targets)
    elif reference is not None:
        tokenizer = tokenizer_of(reference)
    else:
        tokenizer = _theirs(targets)
        why = "" if tokenizer else "no --tokenizer was given: answers are counted by the server alone"
    cutting = tokenizer or embedded_tokenizer()
    source = default_prompts(cutting) if prompts is None else load_prompts(prompts, cutting)
    return Counting(tokenizer, source, why)


def _of_the_server(targets: list[Target]) -> Tokenizer:
    """The tokenizer that the first server answers with: both are measured on the same prompts."""
    target = targets[0]
    if target.preset.tokenize is None:
        raise InputError(f"--tokenizer server: {target.preset.title} has none to be asked; give a tokenizer.json")
    return server_tokenizer(target.endpoint, target.preset.tokenize)


def _theirs(targets: list[Target]) -> Tokenizer | None:
    """The tokenizer that ships and that every server names as its own."""
    told = [target.about.get("tokenizer") for target in targets]
    named = {str(each.get("sha256")) if isinstance(each, dict) else None for each in told}
    for reference in (EMBEDDED, SOURCE):
        tokenizer = tokenizer_of(reference)
        if named == {tokenizer.sha256}:
            return tokenizer
    return None


@dataclass(slots=True)
class Pool:
    """The request bodies of a window, by number; they come again when it sends more. `sha256`: of all of them."""

    bodies: list[bytes]
    repeated: bool = False

    def __call__(self, number: int) -> bytes:
        self.repeated = self.repeated or number >= len(self.bodies)
        return self.bodies[number % len(self.bodies)]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(b"".join(self.bodies)).hexdigest()


@dataclass(slots=True)
class Bodies:
    """Request bodies of an endpoint, made beforehand. `first` is the number of the next window's first prompt."""

    endpoint: Endpoint
    counting: Counting
    prompt_tokens: int
    output_tokens: int
    temperature: float | None
    send_ids: bool
    first: int = 0

    def window(self, expected: int | None) -> Pool:
        """The bodies of a window that sends `expected` requests (None: nobody knows)."""
        most = POOL if self.counting.prompts.tokenizer.sha256 else ASKED_POOL
        count = min(expected or most, most)
        pool = Pool([self._body(self.first + number) for number in range(count)])
        self.first += count
        return pool

    def _body(self, number: int) -> bytes:
        (ids,) = self.counting.prompts.batch(number, 1, self.prompt_tokens)
        prompt: str | list[int] = ids if self.send_ids else self.counting.prompts.tokenizer.decode(ids)
        return self.endpoint.body(prompt, self.output_tokens, self.temperature)


def check_prompts(counting: Counting, length: int) -> None:
    """Raise InputError, before anything is sent, where no prompt of that length can be cut."""
    try:
        counting.prompts.batch(0, 1, length)
    except InputError as error:
        raise InputError(f"--prompt-tokens {length}: {error}") from None
