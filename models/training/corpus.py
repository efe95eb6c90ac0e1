"""Batches from a user's own text, the last part of it held out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ... import InputError
from ..prompts import load_prompts
from ..tokenizer import Tokenizer, shown
from .data import seed_of

HELD_OUT_SHARE = 0.05


@dataclass(frozen=True)
class CorpusBatches:
    """Windows of `length` tokens that begin anywhere in the first part of `ids` [n]; held-out ones lie in the rest."""

    ids: Tensor
    batch: int
    length: int
    seed: int

    @property
    def cut(self) -> int:
        """Where the held-out part begins: its share of the text, but two windows at least."""
        return len(self.ids) - max(2 * self.length, int(HELD_OUT_SHARE * len(self.ids)))

    def batches(self, step: int) -> Tensor:
        """Ids [B, S]."""
        random = np.random.default_rng(seed_of(self.seed, f"step {step}"))
        return self._windows(random.integers(0, self.cut - self.length + 1, self.batch))

    def held_out(self, rows: int) -> Tensor:
        """Ids [n, S], n at most `rows`: windows spread over the held-out part, that do not overlap."""
        count = min(rows, (len(self.ids) - self.cut) // self.length)
        return self._windows(np.linspace(self.cut, len(self.ids) - self.length, count).astype(np.int64))

    def _windows(self, starts: np.ndarray) -> Tensor:
        return self.ids[torch.from_numpy(starts)[:, None] + torch.arange(self.length)]


def read_corpus(path: Path, tokenizer: Tokenizer, eos_id: int) -> Tensor:
    """Ids [n] of the texts in a file (plain text, or .jsonl), each ended by EOS. Raises InputError."""
    documents = load_prompts(path, tokenizer).documents
    return torch.tensor([token for text in documents for token in (*tokenizer.encode(text), eos_id)])


def corpus_batches(path: Path, ids: Tensor, batch: int, length: int, seed: int) -> CorpusBatches:
    """Batches of the ids [n] of file `path`; InputError for a text of fewer than 20 windows."""
    least = 20 * length
    if len(ids) < least:
        raise InputError(
            f"--corpus {shown(path)}: found {len(ids)} tokens, expected at least {least} for windows of {length}; "
            "add text, or choose a smaller --length"
        )
    return CorpusBatches(ids, batch, length, seed)
