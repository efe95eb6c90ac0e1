"""A user's text: windows that never touch the held-out part."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dlmbench import InputError
from dlmbench.models.tokenizer import embedded_tokenizer
from dlmbench.models.training.corpus import CorpusBatches, corpus_batches, read_corpus
from dlmbench.models.training.data import SourceBatches, seed_of


def test_windows_keep_to_their_part() -> None:
    data = CorpusBatches(torch.arange(1000), batch=64, length=10, seed=0)
    assert data.cut == 950
    seen = torch.cat([data.batches(step) for step in range(100)])
    assert seen.shape == (6400, 10)
    assert int(seen.max()) == 949  # the last window of the first part is drawn, too
    assert int(seen.min()) == 0
    assert torch.equal(seen, seen[:, :1] + torch.arange(10))
    held = data.held_out(100)
    assert held.flatten().tolist() == list(range(950, 1000))
    assert data.held_out(2)[:, 0].tolist() == [950, 990]


def test_batches_depend_on_seed_and_step_alone() -> None:
    data = CorpusBatches(torch.arange(1000), 8, 10, seed=3)
    assert torch.equal(data.batches(5), data.batches(5))
    assert not torch.equal(data.batches(5), data.batches(6))
    assert not torch.equal(data.batches(5), CorpusBatches(torch.arange(1000), 8, 10, seed=4).batches(5))


def test_a_short_text_holds_out_two_windows() -> None:
    """Of one alone, nothing could be said about the choice of texts."""
    data = CorpusBatches(torch.arange(200), batch=64, length=10, seed=0)
    assert data.cut == 180
    assert data.held_out(100)[:, 0].tolist() == [180, 190]


def test_every_document_ends(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "One day."}\n{"text": "Another."}\n')
    tokenizer = embedded_tokenizer()
    expected = [*tokenizer.encode("One day."), 4094, *tokenizer.encode("Another."), 4094]
    assert read_corpus(path, tokenizer, 4094).tolist() == expected


def test_a_short_text_is_refused() -> None:
    with pytest.raises(InputError, match=r"--corpus a\.txt: found 199 tokens, expected at least 200"):
        corpus_batches(Path("a.txt"), torch.zeros(199, dtype=torch.long), 4, 10, 0)
    corpus_batches(Path("a.txt"), torch.zeros(200, dtype=torch.long), 4, 10, 0)


def test_seeds_differ_in_every_part() -> None:
    seeds = {seed_of(*parts) for parts in [(0, "a", 1), (0, "a", 11), (0, "a1", 1), (1, "a", 1), (0, "b", 1)]}
    assert len(seeds) == 5
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_a_source_is_asked_for_rows_of_its_own_seed() -> None:
    asked = []

    class Source:
        def texts(self, rows: int, length: int, seed: int) -> object:
            asked.append((rows, length, seed))
            return torch.zeros(rows, length, dtype=torch.int32).numpy()

    data = SourceBatches(Source(), batch=4, length=6, seed=0)
    assert data.batches(0).dtype == torch.int64
    assert data.batches(1).shape == (4, 6)
    assert data.held_out(9).shape == (9, 6)
    assert [call[:2] for call in asked] == [(4, 6), (4, 6), (9, 6)]
    assert len({call[2] for call in asked}) == 3
