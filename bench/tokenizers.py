"""Which tokenizer a run or a demo speaks, by a reference that a worker process understands too."""

from __future__ import annotations

from pathlib import Path

from ..models.tokenizer import EMBEDDED_VOCAB_SIZE, Tokenizer, embedded_tokenizer, load_tokenizer

EMBEDDED, SOURCE = "embedded", "source"


def tokenizer_of(reference: str) -> Tokenizer:
    """The tokenizer of the embedded texts, that of the embedded source, or the one in a file or folder.

    Raises InputError where that cannot be read.
    """
    if reference == EMBEDDED:
        return embedded_tokenizer()
    if reference == SOURCE:
        from ..models.source import embedded_source  # reads a grammar

        return embedded_source().tokenizer
    return load_tokenizer(Path(reference))


def default_tokenizer(vocabulary: int) -> str:
    """The one that ships and fits a model of so many ids: the source's few words where all 4096 do not."""
    return EMBEDDED if vocabulary >= EMBEDDED_VOCAB_SIZE else SOURCE
