"""What `dlmbench train` trains on: the embedded source, or a user's own text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .. import InputError
from ..models.tokenizer import TEXT_FOLDER, Tokenizer, embedded_tokenizer, load_tokenizer, read_file, shown
from ..models.training.corpus import corpus_batches, read_corpus
from ..models.training.data import Batches, SourceBatches
from ..models.training.shapes import Vocabulary
from .train_plan import TrainPlan

_ROWS = 64  # of an embedding: a multiple of this many


@dataclass(frozen=True)
class Material:
    """Batches and what belongs to them. `entropy_rate`: nats per token of the source, where that is known.

    `nats`: the source's own nats per token of ids [B, S], the least that any model can reach on them on average.
    """

    name: str
    data: Batches
    vocabulary: Vocabulary
    tokenizer: bytes
    sha256: str
    entropy_rate: float | None = None
    nats: Callable[[Tensor], float] | None = None


def material(plan: TrainPlan) -> Material:
    """The plan's data. Raises InputError for a corpus that cannot be used, or is another than when training began."""
    found = _source(plan) if plan.corpus is None else _corpus(plan, Path(plan.corpus))
    if plan.data_sha256 not in (None, found.sha256):
        raise InputError(f"{found.name}: has changed since this training began; restore it, or train in a new folder")
    return found


def _source(plan: TrainPlan) -> Material:
    from ..models.source import embedded_source
    from ..models.source.vocabulary import FOLDER

    source, recipe = embedded_source(), plan.recipe
    eos_id, mask_id = source.tokenizer.eos_id, source.tokenizer.mask_id
    assert eos_id is not None
    assert mask_id is not None

    def nats(ids: Tensor) -> float:
        return -float(source.score(ids.numpy()).log_prob.sum()) / ids.numel()

    # The grammar decides the texts; the first of them stand for it.
    drawn = source.texts(64, recipe.length, 0).astype("<i4").tobytes()
    return Material(
        name="the embedded source",
        data=SourceBatches(source, recipe.batch, recipe.length, recipe.seed),
        vocabulary=Vocabulary(source.vocab_size, eos_id, mask_id),
        tokenizer=(FOLDER / "tokenizer.json").read_bytes(),
        sha256=hashlib.sha256(drawn).hexdigest(),
        entropy_rate=source.entropy_rate,
        nats=nats,
    )


def _corpus(plan: TrainPlan, path: Path) -> Material:
    if plan.tokenizer is None:
        tokenizer, stored = embedded_tokenizer(), (TEXT_FOLDER / "tokenizer.json").read_bytes()
    else:
        place = Path(plan.tokenizer)
        tokenizer = load_tokenizer(place)
        stored = read_file(place / "tokenizer.json" if place.is_dir() else place, "a tokenizer.json")
    vocabulary, recipe = vocabulary_of(tokenizer), plan.recipe
    ids = read_corpus(path, tokenizer, vocabulary.eos_id)
    return Material(
        name=f"corpus {shown(Path(path.name))}",
        data=corpus_batches(path, ids, recipe.batch, recipe.length, recipe.seed),
        vocabulary=vocabulary,
        tokenizer=stored,
        sha256=hashlib.sha256(ids.numpy().astype("<i8").tobytes()).hexdigest(),
    )


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """The tokenizer's ids, then EOS if it has none, then the mask unless it is the last already."""
    used, eos_id, mask_id = tokenizer.vocab_size, tokenizer.eos_id, tokenizer.mask_id
    if eos_id is None:
        eos_id, used = used, used + 1
    if mask_id is None or mask_id < used - 1:
        mask_id = used
    return Vocabulary(-(-(mask_id + 1) // _ROWS) * _ROWS, eos_id, mask_id)
