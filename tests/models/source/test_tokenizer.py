"""Words to ids and back: nothing lost, nothing unknown let through, and the shipped files up to date."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlmbench import InputError
from dlmbench.models.source import Source
from dlmbench.models.source.grammar import Grammar
from dlmbench.models.source.vocabulary import FOLDER, token_ids, write_tokenizer
from dlmbench.models.tokenizer import load_tokenizer


def test_text_reads_as_english_and_comes_back(source: Source) -> None:
    text = "the ship (a boat [the gull]) from new york knows: “the cook {a pan} bakes”; now, salt and pepper."
    ids = source.tokenizer.encode(text)
    assert len(ids) == 31
    assert source.tokenizer.decode(ids) == text
    for row in source.texts(50, 200, 8).tolist():
        document = row[: row.index(source.tokenizer.eos_id)] if source.tokenizer.eos_id in row else row
        assert source.tokenizer.encode(source.tokenizer.decode(document)) == document


def test_ids_are_those_of_the_grammar(source: Source, grammar: Grammar) -> None:
    for word, index in token_ids(grammar.words).items():
        assert source.tokenizer.decode([index]) == word
    assert source.tokenizer.encode(" ".join(grammar.words)) == list(range(382))


def test_an_unknown_word_is_refused(source: Source) -> None:
    with pytest.raises(InputError, match=r"text: found 'zebra', which is none of the source's 384 tokens; .*; replace"):
        source.tokenizer.encode("the zebra shines")
    for control in ("<|mask|>", "<|endoftext|>"):
        with pytest.raises(InputError):
            source.tokenizer.encode(f"the {control} shines")
    assert source.tokenizer.encode("The STAR\n shines") == source.tokenizer.encode("the star shines")
    assert source.tokenizer.encode("") == []


def test_the_shipped_files_are_those_of_the_grammar(grammar: Grammar, source: Source, tmp_path: Path) -> None:
    """If this fails: python -m dlmbench.models.source --write-tokenizer models/source"""
    write_tokenizer(grammar.words, tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()
    loaded = load_tokenizer(tmp_path)
    assert (loaded.eos_id, loaded.mask_id, loaded.sha256) == (382, 383, source.tokenizer.sha256)
