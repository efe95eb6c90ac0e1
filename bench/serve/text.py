"""From tokens to the text that may be sent already: a character is sent when its last token is there."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from ...models.tokenizer import Tokenizer

_BROKEN = "\ufffd"  # what a tokenizer decodes half a character to
MASKED = "\u2591"  # how a position that holds no token yet is shown
# Tokens decoded again with each new one, so that spaces and halves of characters come out as in the whole.
_CONTEXT = 8


class Growing:
    """The text of tokens that arrive in order. `add` returns what is new and whole; `rest` what is left at the end."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._sent = 0  # tokens whose text has been sent

    def add(self, ids: Sequence[int]) -> str:
        self._ids += ids
        text = self._new()
        if text.endswith(_BROKEN):
            return ""
        self._sent = len(self._ids)
        return text

    def rest(self) -> str:
        text = self._new()
        self._sent = len(self._ids)
        return text

    def _new(self) -> str:
        before = self._ids[max(0, self._sent - _CONTEXT) : self._sent]
        known = self._tokenizer.decode(before)
        return self._tokenizer.decode(before + self._ids[self._sent :])[len(known) :]


def words(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """The tokens that are text: an end of text that was to be ignored is none."""
    return [token for token in ids if token != tokenizer.eos_id]


def canvas_text(tokenizer: Tokenizer, ids: Sequence[int | None]) -> str:
    """A canvas as text, a mark in place of every position that is still masked (None)."""
    parts: list[str] = []
    run: list[int] = []
    for token in [*ids, None]:
        if token is not None:
            run.append(token)
            continue
        if run:
            parts.append(tokenizer.decode(run))
            run = []
        parts.append(MASKED)
    return " ".join(parts[:-1]) if _spaced(tokenizer) else "".join(parts[:-1])


@functools.cache
def _spaced(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer puts spaces between tokens when it decodes (a vocabulary of whole words)."""
    several = range(min(32, tokenizer.vocab_size))
    return any(" " in tokenizer.decode([i, i]) and " " not in tokenizer.decode([i]) for i in several)
