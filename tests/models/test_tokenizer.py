import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from dlmbench import InputError
from dlmbench.models.tokenizer import (
    EOS,
    MASK,
    TEXT_FOLDER,
    embedded_texts,
    embedded_tokenizer,
    load_tokenizer,
    read_file,
    train_embedded,
)

HOSTILE = st.sampled_from(
    [EOS, MASK, "<|", "|>", "mask", "\x1b[2J", "\x00", "é", "語", "🙂", "  ", "\n\n", "\r\n", "a"]
)


def word_level(folder: Path, added: list[dict[str, Any]] | None = None, **rules: Any) -> Path:
    """A tokenizer of three words, a=0, b=1, [UNK]=2, and the added tokens; returns its tokenizer.json."""
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    document = json.loads(backend.to_str()) | rules
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    document["added_tokens"] = [flags | token for token in added or []]
    folder.mkdir(exist_ok=True)
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(document))
    return file


def test_the_embedded_vocabulary_ends_with_eos_and_mask() -> None:
    tokenizer = embedded_tokenizer()
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.mask_id) == (4096, 4094, 4095)
    assert tokenizer.decode([4094, 4095]) == "<|endoftext|><|mask|>"


def test_the_embedded_hash_is_that_of_the_shipped_file() -> None:
    data = (TEXT_FOLDER / "tokenizer.json").read_bytes()
    assert embedded_tokenizer().sha256 == hashlib.sha256(data).hexdigest()


def test_training_again_gives_the_shipped_file(tmp_path: Path) -> None:
    out = tmp_path / "again.json"
    train_embedded((text for _, text in embedded_texts()), out)
    assert hashlib.sha256(out.read_bytes()).hexdigest() == embedded_tokenizer().sha256


def test_training_on_too_little_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the texts yield 2\d\d tokens, not 4096: add text"):
        train_embedded(["one two three"], tmp_path / "small.json")
    assert not (tmp_path / "small.json").exists()


@given(st.one_of(st.text(), st.lists(HOSTILE).map("".join)))
def test_any_text_comes_back_and_never_as_a_control_token(text: str) -> None:
    tokenizer = embedded_tokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= token < 4094 for token in ids)


def test_every_byte_has_a_token() -> None:
    # Code points up to 0x10FFFF reach every byte that occurs in UTF-8: 0x00-0x7F, 0x80-0xBF, 0xC2-0xF4.
    text = "".join(chr(code) for code in (*range(0x800), *range(0x800, 0x110000, 251)) if not 0xD800 <= code < 0xE000)
    assert embedded_tokenizer().decode(embedded_tokenizer().encode(text)) == text


def test_common_words_are_single_tokens() -> None:
    assert len(embedded_tokenizer().encode("The water is on the table")) == 6


def test_half_a_surrogate_pair_is_not_text() -> None:
    with pytest.raises(TypeError):
        embedded_tokenizer().encode("\ud800")


def test_an_id_without_a_token_shows_nothing() -> None:
    tokenizer = embedded_tokenizer()
    assert tokenizer.decode([*tokenizer.encode("sea"), 4096]) == "sea"


def test_a_folder_and_its_file_are_the_same_tokenizer(tmp_path: Path) -> None:
    file = word_level(tmp_path / "tiny")
    assert load_tokenizer(tmp_path / "tiny") == load_tokenizer(file)
    assert load_tokenizer(file).name == "tiny"
    assert load_tokenizer(file).vocab_size == 3
    assert load_tokenizer(file).encode("b a c") == [1, 0, 2]


def test_a_lone_tokenizer_names_no_control_tokens(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(word_level(tmp_path, [{"id": 3, "content": "<e>", "special": True}]))
    assert (tokenizer.eos_id, tokenizer.mask_id) == (None, None)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"tokenizer_config.json": {"eos_token": "<e>", "mask_token": {"content": "<m>"}}}, (3, 4)),
        ({"special_tokens_map.json": {"eos_token": {"content": "<e>"}, "mask_token": "<m>"}}, (3, 4)),
        ({"generation_config.json": {"eos_token_id": [3, 0]}, "config.json": {"mask_token_id": 9}}, (3, 9)),
        ({"tokenizer_config.json": {"eos_token": "<e>"}, "config.json": {"eos_token_id": 0}}, (3, None)),
        ({"tokenizer_config.json": {"eos_token": "<unknown>"}, "config.json": {"eos_token_id": 0}}, (0, None)),
        ({"config.json": {"eos_token_id": None, "mask_token_id": True}}, (None, None)),
        ({"config.json": {"eos_token_id": [], "mask_token_id": -1}}, (None, None)),
    ],
)
def test_control_tokens_are_read_from_the_neighbours(
    tmp_path: Path, files: dict[str, object], expected: tuple[int | None, int | None]
) -> None:
    added = [{"id": 3, "content": "<e>", "special": True}, {"id": 4, "content": "<m>", "special": True}]
    word_level(tmp_path, added)
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.eos_id, tokenizer.mask_id) == expected


def test_a_mask_that_is_not_flagged_as_special_is_still_not_read_from_text(tmp_path: Path) -> None:
    word_level(tmp_path, [{"id": 3, "content": "<m>", "special": False}])
    assert load_tokenizer(tmp_path).encode("a <m> b") == [0, 3, 1]  # nothing says that it is the mask
    (tmp_path / "config.json").write_text('{"mask_token_id": 3}')
    assert load_tokenizer(tmp_path).encode("a <m> b") == [0, 2, 2, 2, 1]  # "<", "m", ">" are unknown words


def test_a_control_token_that_is_also_an_ordinary_piece_is_spelt(tmp_path: Path) -> None:
    # The Viterbi search of a Unigram model prefers the piece "</s>" (score 0) to its letters (-5 each).
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("<", -5.0), ("/", -5.0), ("s", -5.0), (">", -5.0)]
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, 0, False))
    backend.add_special_tokens(["</s>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"eos_token_id": 1}')
    assert load_tokenizer(tmp_path).encode("s</s>s") == [4, 2, 3, 4, 5, 4]


def test_truncation_and_padding_of_whoever_saved_it_are_ignored(tmp_path: Path) -> None:
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    padding |= {"pad_type_id": 0, "pad_token": "a"}
    tokenizer = load_tokenizer(word_level(tmp_path, truncation=truncation, padding=padding))
    assert tokenizer.encode("a b a b") == [0, 1, 0, 1]


def test_nothing_is_added_by_a_post_processor(tmp_path: Path) -> None:
    post = {"type": "BertProcessing", "sep": ["b", 1], "cls": ["a", 0]}
    assert load_tokenizer(word_level(tmp_path, post_processor=post)).encode("b") == [1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "tokenizer.json: not a tokenizer"),
        (b"{}", "tokenizer.json: not a tokenizer"),
        (b"\xff\xfe", "tokenizer.json: not a tokenizer"),
    ],
)
def test_a_broken_tokenizer_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[1]", "{", "[" * 100_000])
def test_a_broken_neighbour_is_named(tmp_path: Path, content: str) -> None:
    word_level(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json: not a JSON object"):
        load_tokenizer(tmp_path)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tokenizer\.json: no such file; expected a tokenizer\.json, or a folder"):
        load_tokenizer(tmp_path)


def test_a_file_that_is_not_regular_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    with pytest.raises(InputError, match="pipe: found not a regular file; expected a text"):
        read_file(tmp_path / "pipe", "a text")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that exists and cannot be read")
def test_an_unreadable_file_says_why() -> None:
    # Even the superuser gets an error here: address 0 is not mapped.
    with pytest.raises(InputError, match=r"mem: cannot be read \(Input/output error\); expected a text"):
        read_file(Path("/proc/self/mem"), "a text")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_forbidden_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secret").chmod(0)
    with pytest.raises(InputError, match="secret: no permission to read it"):
        read_file(tmp_path / "secret", "a text")


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "x" * 300, "nul\0"])
def test_a_hostile_path_gives_one_harmless_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        load_tokenizer(tmp_path / name)
    assert str(caught.value).isprintable()


def test_the_command_needs_one_argument() -> None:
    command = [sys.executable, "-m", "dlmbench.models.tokenizer"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("usage: python -m dlmbench.models.tokenizer OUT.json")


def test_neither_torch_nor_transformers_is_imported() -> None:
    program = "import sys, dlmbench.models.prompts; print({'torch', 'transformers'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
