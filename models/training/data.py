"""Batches of token ids, a function of seed and step: every model sees the same ones, and so does a resumed run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class Batches(Protocol):
    """Where the tokens come from."""

    def batches(self, step: int) -> Tensor:
        """Ids [B, S] int64 of step `step`, the same at every call."""

    def held_out(self, rows: int) -> Tensor:
        """Ids [rows, S] int64 that no step trains on, the same at every call."""


class Texts(Protocol):
    """A source that any number of texts can be drawn from (`models.source` is one)."""

    def texts(self, rows: int, length: int, seed: int) -> Any:
        """An array [rows, length] of ids; each row begins at a document's start."""


@dataclass(frozen=True)
class SourceBatches:
    """Texts drawn afresh at every step; nothing is ever seen twice but what the source itself repeats."""

    source: Texts
    batch: int
    length: int
    seed: int

    def batches(self, step: int) -> Tensor:
        """Ids [B, S]."""
        return self._drawn(self.batch, f"step {step}")

    def held_out(self, rows: int) -> Tensor:
        """Ids [rows, S] of a seed that no step has."""
        return self._drawn(rows, "held out")

    def _drawn(self, rows: int, what: str) -> Tensor:
        drawn = self.source.texts(rows, self.length, seed_of(self.seed, what))
        return torch.as_tensor(drawn).to(torch.int64)


def seed_of(*parts: int | str) -> int:
    """A seed below 2^63 that depends on all of `parts`, unlike for any others."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
