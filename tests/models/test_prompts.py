import hashlib
import json
import re
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from dlmbench import InputError
from dlmbench.models.prompts import PromptSource, default_prompts, load_prompts
from dlmbench.models.tokenizer import EOS, MASK, Tokenizer, embedded_texts, embedded_tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return embedded_tokenizer()


@pytest.fixture(scope="module")
def default() -> PromptSource:
    return default_prompts(embedded_tokenizer())


def source(*documents: str) -> PromptSource:
    return PromptSource("given", "0" * 64, embedded_tokenizer(), documents)


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def jsonl(path: Path, *records: object) -> Path:
    return written(path, "".join(json.dumps(record) + "\n" for record in records))


@pytest.mark.parametrize("length", [1, 7, 32, 512, 2048])
def test_default_prompts_are_exact_and_survive_encoding(default: PromptSource, length: int) -> None:
    prompts = default.batch(first=0, rows=24, length=length)
    assert [len(prompt) for prompt in prompts] == [length] * 24
    for prompt in prompts:
        assert default.tokenizer.encode(default.tokenizer.decode(prompt)) == prompt


@pytest.mark.parametrize("length", [7, 32, 100])
def test_two_thousand_default_prompts_differ(default: PromptSource, length: int) -> None:
    prompts = default.batch(first=0, rows=2000, length=length)
    assert len({tuple(prompt) for prompt in prompts}) == 2000


def test_a_prompt_depends_on_its_number_alone(default: PromptSource) -> None:
    again = default_prompts(embedded_tokenizer())
    assert again.batch(first=37, rows=3, length=64) == default.batch(first=30, rows=20, length=64)[7:10]


def test_the_default_prompts_begin_with_each_text(default: PromptSource) -> None:
    texts = embedded_texts()
    prompts = default.batch(first=0, rows=len(texts), length=16)
    for prompt, (_, text) in zip(prompts, texts, strict=True):
        assert text.startswith(default.tokenizer.decode(prompt))


def test_the_default_prompts_are_excerpts_that_start_at_words(default: PromptSource) -> None:
    running = "\n\n" + "\n\n".join(text.strip() for _, text in embedded_texts())
    for prompt in default.batch(first=0, rows=500, length=12):
        text = default.tokenizer.decode(prompt)
        assert not text[0].isspace()
        if text in running:  # all but those that run round the end
            assert re.search(r"\s" + re.escape(text), running)


def test_a_batch_comes_from_different_parts(default: PromptSource) -> None:
    # Sixteen prompts in a row behind the eleven openings: if they came in order, most would overlap.
    texts = [default.tokenizer.decode(prompt) for prompt in default.batch(first=11, rows=16, length=32)]
    files = {name for text in texts for name, content in embedded_texts() if text in content}
    assert len(files) >= 8


def test_default_hash_is_that_of_the_texts(default: PromptSource) -> None:
    content = "".join(text for _, text in embedded_texts()).encode()
    assert (default.name, default.sha256) == ("default", hashlib.sha256(content).hexdigest())


def test_length_zero_is_unconditional(default: PromptSource) -> None:
    assert default.batch(first=5, rows=3, length=0) == [[], [], []]
    assert default.batch(first=5, rows=0, length=9) == []


@pytest.mark.parametrize(("first", "rows", "length"), [(-1, 1, 1), (0, -1, 1), (0, 1, -1)])
def test_negative_numbers_are_refused(default: PromptSource, first: int, rows: int, length: int) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        default.batch(first, rows, length)


def test_plain_text_starts_at_its_paragraphs(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = written(tmp_path / "p.txt", "\n\nThe water is.\r\n\r\nFor the river.\n \t\n\n  We have bread.\n")
    prompts = load_prompts(path, tokenizer).batch(first=0, rows=3, length=3)
    # The beginning first, then the other paragraphs.
    assert tokenizer.decode(prompts[0]) == "The water is"
    assert {tokenizer.decode(prompt) for prompt in prompts[1:]} == {"For the river", "We have bread"}


def test_plain_text_runs_on_over_blank_lines_and_round_the_end(tokenizer: Tokenizer) -> None:
    text = "One is here.\n\nTwo is there."
    prompts = source(text).batch(first=0, rows=2, length=len(tokenizer.encode(text)))
    assert tokenizer.decode(prompts[0]) == text
    assert tokenizer.decode(prompts[1]).startswith("Two is there.\n\nOne is")


def test_numbers_beyond_the_text_start_at_other_words(tokenizer: Tokenizer) -> None:
    # Five words: the first four belong to prompt 0, the fifth to prompt 1; prompt 2 starts the second round.
    prompts = source("one two three four five").batch(first=0, rows=5, length=2)
    assert [tokenizer.decode(prompt) for prompt in prompts][::2] == ["one two", "two three", "three four"]


def test_a_record_is_a_prompt(tmp_path: Path, tokenizer: Tokenizer) -> None:
    records = [{"prompt": "Name a river.", "text": "no"}, {"text": "Name a wind."}, {"prompt": "Name a sea."}]
    prompts = load_prompts(jsonl(tmp_path / "p.jsonl", *records), tokenizer).batch(first=0, rows=3, length=4)
    expected = [tokenizer.encode(text)[:4] for text in ("Name a river.", "Name a wind.", "Name a sea.")]
    assert prompts == expected


def test_records_with_one_template_are_all_kept(tmp_path: Path, tokenizer: Tokenizer) -> None:
    template = "Translate the following sentence into plain and simple language, and keep all of the numbers: "
    records = [{"prompt": template + word + " is here."} for word in ("water", "bread", "light")]
    length = len(tokenizer.encode(template.strip())) + 1
    prompts = load_prompts(jsonl(tmp_path / "p.jsonl", *records), tokenizer).batch(first=0, rows=3, length=length)
    assert [tokenizer.decode(prompt).split()[-1] for prompt in prompts] == ["water", "bread", "light"]


def test_short_records_are_joined_in_order(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = jsonl(tmp_path / "p.JSONL", {"text": "One."}, {"text": "Two."}, {"text": "Three is more."})
    prompts = load_prompts(path, tokenizer).batch(first=0, rows=2, length=8)
    assert prompts[0] == tokenizer.encode("One.\n\nTwo.\n\nThree is more.")[:8]
    assert prompts[1] == tokenizer.encode("Two.\n\nThree is more.\n\nOne.")[:8]


def test_line_separators_inside_a_record_do_not_end_it(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = written(tmp_path / "p.jsonl", '\n{"text": "one\u2028two\x85three"}\r\n\n')
    assert load_prompts(path, tokenizer).documents == ("one\u2028two\x85three",)


def test_the_source_names_its_file(tmp_path: Path, tokenizer: Tokenizer) -> None:
    loaded = load_prompts(written(tmp_path / "p.txt", b"\xef\xbb\xbfone two"), tokenizer)
    assert (loaded.name, loaded.sha256) == ("p.txt", hashlib.sha256(b"\xef\xbb\xbfone two").hexdigest())
    assert loaded.documents == ("one two",)  # the byte order mark is no text


def test_control_tokens_and_escapes_in_a_file_are_text(tmp_path: Path, tokenizer: Tokenizer) -> None:
    text = f"Forget {MASK} all {EOS} of \x1b[2J this"
    loaded = load_prompts(written(tmp_path / "p.txt", text), tokenizer)
    length = len(tokenizer.encode(text))
    for prompt in loaded.batch(first=0, rows=8, length=length):
        assert not {tokenizer.eos_id, tokenizer.mask_id} & set(prompt)
    assert tokenizer.decode(loaded.batch(first=0, rows=1, length=length)[0]) == text


def test_a_cut_inside_a_character_is_made_elsewhere(tokenizer: Tokenizer) -> None:
    # Each of these characters takes three tokens, so that four tokens from the first or the second end inside one.
    # From the third on, they are its three and " a".
    (prompt,) = source("語語語 a語語").batch(first=0, rows=1, length=4)
    assert tokenizer.decode(prompt) == "語 a"


def test_a_text_that_the_tokenizer_cannot_write_is_an_error(tmp_path: Path) -> None:
    # All three words become [UNK], whose decoded form "[UNK]" is an unknown word again, but in three pieces.
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.save(str(tmp_path / "tokenizer.json"))
    lossy = PromptSource("given", "0" * 64, load_tokenizer(tmp_path), ("x y z",))
    with pytest.raises(InputError, match="given: found no 2 tokens in a row that encode to themselves"):
        lossy.batch(first=0, rows=1, length=2)


@given(
    documents=st.lists(st.text(min_size=1).filter(lambda text: bool(text.strip())), min_size=1, max_size=4),
    first=st.integers(0, 50),
    length=st.integers(1, 40),
)
def test_any_text_gives_exact_prompts_or_says_why_not(documents: list[str], first: int, length: int) -> None:
    given_source = source(*documents)
    try:
        prompts = given_source.batch(first, 3, length)
    except InputError as error:
        assert re.search(r"given: found (text of \d+ tokens|no \d+ tokens in a row)", str(error))  # noqa: PT017
        return
    for prompt in prompts:
        assert len(prompt) == length
        assert given_source.tokenizer.encode(given_source.tokenizer.decode(prompt)) == prompt


def test_a_text_that_is_too_short_says_by_how_much(tmp_path: Path, tokenizer: Tokenizer) -> None:
    loaded = load_prompts(written(tmp_path / "p.txt", "The water is on the table"), tokenizer)
    with pytest.raises(InputError, match=r"p\.txt: found text of 6 tokens; expected at least 7 for a prompt"):
        loaded.batch(first=0, rows=1, length=7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found an empty file"),
        (b" \n\t\n", "found an empty file"),
        ("\u2003\n".encode(), "found a document without text"),
        (b"abc\0def", "found a NUL byte at offset 3"),
        ("abc".encode("utf-16"), "found a NUL byte at offset 3"),
        (b"caf\xe9 au lait", "found byte 0xe9 at offset 3, which is not UTF-8"),
    ],
)
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, tokenizer: Tokenizer, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_prompts(written(tmp_path / "p.txt", content), tokenizer)
    assert "p.txt: " in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "found no valid JSON"),
        ("[" * 100_000, "found no valid JSON"),
        ("9" * 10_000, "found no valid JSON"),
        ("[1]", "found an array"),
        ('"text"', "found a string"),
        ("3", "found a number"),
        ("null", "found null"),
        ("{}", "found an object without keys"),
        ('{"question": 1, "\\u001b[2J": 2}', r"found only the keys 'question', '\\x1b\[2J'"),
        ('{"prompt": 3.5}', 'found a number under "prompt"'),
        ('{"text": null}', 'found null under "text"'),
        ('{"text": ["a"]}', 'found an array under "text"'),
        ('{"text": false}', 'found a boolean under "text"'),
        ('{"prompt": {}}', 'found an object under "prompt"'),
        ('{"text": " \\n"}', 'found an empty text under "text"'),
        ('{"text": "a \\ud800 b"}', 'found half of a surrogate pair under "text"'),
    ],
)
def test_a_bad_record_is_named_by_its_line(tmp_path: Path, tokenizer: Tokenizer, line: str, message: str) -> None:
    path = written(tmp_path / "p.jsonl", '{"text": "good"}\n\n' + line + "\n")
    with pytest.raises(InputError, match=r"p\.jsonl, line 3: " + message) as caught:
        load_prompts(path, tokenizer)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < len(str(path)) + 200


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"none\.txt: no such file; expected a text file, or a \.jsonl file"):
        load_prompts(tmp_path / "none.txt", tokenizer)
    with pytest.raises(InputError, match="found a directory; expected a text file"):
        load_prompts(tmp_path, tokenizer)


def test_a_source_without_documents_is_refused() -> None:
    with pytest.raises(InputError, match="given: found a document without text"):
        source()


@pytest.mark.parametrize("text", ["\n" * 200_000 + "a b", "a" * 200_000, ("a" + " " * 1000) * 200])
def test_monotonous_text_is_read_in_linear_time(text: str) -> None:
    # A pattern that backtracks would need minutes for any of these.
    assert source(text).batch(first=0, rows=1, length=1)
