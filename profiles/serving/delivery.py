"""One reply as a reader had it: when text became visible, when it became final, in what portions, and what peers' load
tools would have called that.

A chunk is not a token: a server may send one, a few or a whole canvas at a time, and a diffusing stream replaces what
it has shown. So everything here counts *final* tokens, those of the finished text, at the time from which they stood
and were never changed again (in a stream that only adds, the time of arrival).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median


@dataclass(frozen=True, slots=True)
class Block:
    """Chunks that arrived together: the time of the first, and the final tokens that they brought."""

    at_s: float
    tokens: int


@dataclass(frozen=True)
class Delivery:
    """A reply's chunks. `at_s` [n] are their times since the request was sent, rising; `final` [n] is how many tokens
    of the finished text stood after each and were not changed by a later one, rising to `tokens`.

    `visible_s` is when the first text was shown, `revised` how many chunks changed text that had been shown. `tokens`
    None: nobody counted them. `final` None: no tokenizer tells which chunk held which, and what needs that is None.
    """

    at_s: tuple[float, ...]
    final: tuple[int, ...] | None
    tokens: int | None
    visible_s: float
    revised: int = 0
    # Chunks closer than this are one block.
    together_s: float = 1e-3

    @property
    def latency_s(self) -> float:
        """From the request to the last chunk with text."""
        return self.at_s[-1]

    @property
    def first_final_s(self) -> float | None:
        """When the first token stood that was never changed."""
        return self.time_to(1)

    @property
    def e2e_per_token_s(self) -> float | None:
        """Latency over tokens: holds for any portions."""
        return self.latency_s / self.tokens if self.tokens else None

    @property
    def tok_s_user(self) -> float | None:
        """Tokens over latency."""
        return self.tokens / self.latency_s if self.tokens and self.latency_s > 0 else None

    def time_to(self, k: int) -> float | None:
        """When the first k tokens stood for good; None where the text has fewer, or nobody counted."""
        if self.final is None:
            return None
        return next((at for at, final in zip(self.at_s, self.final, strict=True) if final >= k), None)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The chunks in portions: a new one begins where nothing had come for longer than `together_s`."""
        final = self.final or (0,) * len(self.at_s)
        found: list[Block] = []
        before, last = 0, None
        for at, now in zip(self.at_s, final, strict=True):
            if last is None or at - last > self.together_s:
                found.append(Block(at, 0))
            found[-1] = Block(found[-1].at_s, found[-1].tokens + now - before)
            before, last = now, at
        return tuple(found)

    @property
    def block_gaps_s(self) -> tuple[float, ...]:
        """Gaps between blocks; none where there is one."""
        return tuple(b.at_s - a.at_s for a, b in itertools.pairwise(self.blocks))

    @property
    def chunk_gaps_s(self) -> tuple[float, ...]:
        """Gaps between chunks; chunks that arrived in one piece are 0 apart."""
        return tuple(b - a for a, b in itertools.pairwise(self.at_s))

    @property
    def peers(self) -> dict[str, float | None]:
        """What the field's load tools call an inter-token latency and its inverse, by the names of `metrics`.

        All of them put the first chunk's tokens into the denominator and leave its time out, or count chunks.
        """
        n, latency, ttft = self.tokens, self.latency_s, self.at_s[0]
        tpot = (latency - ttft) / (n - 1) if n is not None and n > 1 else None
        gaps = self.chunk_gaps_s
        return {
            "serving.peer_tpot_s": tpot,
            "serving.peer_itl_chunks_s": sum(gaps) / len(gaps) if gaps else None,
            "serving.peer_tpot_with_ttft_s": latency / n if n else None,
            "serving.peer_tok_s_user": 1 / tpot if tpot else None,
        }


def settled(texts: Sequence[str]) -> tuple[int, ...]:
    """For each text that was shown in turn, how many of its first characters no later one changed."""
    final = texts[-1]
    found: list[int] = []
    least = len(final)
    for text in reversed(texts):
        least = min(least, _common(text, final, least))
        found.append(least)
    return tuple(reversed(found))


def _common(a: str, b: str, most: int) -> int:
    """How many characters, up to `most`, both begin with."""
    low, high = 0, min(len(a), len(b), most)
    # Slices compare in C; a loop over characters of a long canvas would not end soon.
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def revisions(texts: Sequence[str]) -> int:
    """How many texts changed something of the one before, other than adding to it."""
    return sum(not b.startswith(a) for a, b in itertools.pairwise(texts))


def typical(values: Sequence[float]) -> float | None:
    """The median; None of none."""
    return median(values) if values else None
