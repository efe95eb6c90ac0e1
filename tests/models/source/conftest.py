"""The embedded source, its grammar, and a function from a text to its ids."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dlmbench.models.source import Source, embedded_source
from dlmbench.models.source.grammar import Grammar
from dlmbench.models.source.notation import GRAMMAR_FILE, read_grammar


@pytest.fixture(scope="session")
def source() -> Source:
    return embedded_source()


@pytest.fixture(scope="session")
def grammar() -> Grammar:
    return read_grammar(GRAMMAR_FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def ids_of(source: Source) -> Callable[[str], np.ndarray]:
    """`ids_of(text)`: ids [1, S]; the sign / in the text stands for the end of a document."""

    def encode(text: str) -> np.ndarray:
        parts = [source.tokenizer.encode(part) for part in text.split("/")]
        ids = parts[0]
        for part in parts[1:]:
            ids = [*ids, source.tokenizer.eos_id, *part]
        return np.array([ids])

    return encode
