"""Prompts of an exact length, cut from real text.

Speed hardly depends on what a prompt says, but power, expert routing, draft acceptance and every measure of quality
do, so that requests are made of text and not of random ids. Three promises make the numbers comparable:

- a prompt has exactly the length that the cell asks for, with nothing padded;
- it is what a user could have typed: encoding its text again gives the same ids. A sequence that was cut in the middle
  of a word's bytes, or between two line breaks that form one token, is not;
- prompt number n is the same in every process, so that both sides of a pair answer the same requests.

    source = default_prompts(embedded_tokenizer())
    requests = source.batch(first=0, rows=8, length=512)  # [8, 512] ids
"""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from .. import InputError
from .tokenizer import Tokenizer, embedded_texts, read_file, shown

_JOIN = "\n\n"
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*(?=\S)")
# Chinese and Japanese put no spaces between words; any of their characters may open a prompt.
_WORD = re.compile(r"(?<!\S)\S|[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")

# Word starts considered besides the paragraphs: as many prompts as any run asks for, found quickly in any file.
_MAX_WORDS = 1 << 16
# Starts that one prompt number owns. About one cut in fifty has to be made elsewhere.
_CELL = 4
# Starts tried for one prompt before giving up. In scripts of three bytes a character, two cuts in three fail.
_TRIES = 64
# Texts that agree in so many leading bytes count as the same start.
_KEY_BYTES = 64

_Cell = tuple[int, ...]


@dataclass(frozen=True)
class PromptSource:
    """Where prompts come from: documents, joined by blank lines into one running text whose end meets its beginning.

    `sha256` is that of the file's bytes. Prompts 0, 1, 2, … start at the documents in their order, then at the other
    paragraphs, then at words inside paragraphs; the paragraphs and the words are visited in strides, so that the
    prompts of one batch come from different parts of the text. A document that is shorter than the prompt runs on into
    the next one. When all starts are used up, the numbers go round again and start at neighbouring words.
    """

    name: str
    sha256: str
    tokenizer: Tokenizer = field(repr=False)
    documents: tuple[str, ...] = field(repr=False)
    _cells_by_key: dict[int, list[_Cell]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.documents or not all(document.strip() for document in self.documents):
            raise InputError(f"{self.name}: found a document without text; expected words to make prompts of; add some")

    def batch(self, first: int, rows: int, length: int) -> list[list[int]]:
        """Prompts number `first` to `first + rows - 1`: ids [rows, length], each of which survives re-encoding.

        Length 0 gives empty prompts, for unconditional generation. Raises InputError if the text is too short for the
        length, or cannot be cut to it.
        """
        if first < 0 or rows < 0 or length < 0:
            raise ValueError(f"first, rows and length must not be negative: {first}, {rows}, {length}")
        if length == 0:
            return [[] for _ in range(rows)]
        # The text is counted only if it might be too short, for counting it takes seconds in a large file.
        if len(self._text) < 16 * length and self._held < length:
            raise InputError(
                f"{self.name}: found text of {self._held} tokens; expected at least {length} for a prompt of that "
                "length; add text or ask for shorter prompts"
            )
        cells = self._cells(min(length, _KEY_BYTES))
        return [self._prompt(number, length, cells) for number in range(first, first + rows)]

    def _prompt(self, number: int, length: int, cells: Sequence[_Cell]) -> list[int]:
        """Ids [length] from the first start that can be cut there: one of the number's own, or else a borrowed one."""
        turn, index = divmod(number, len(cells))
        own = cells[index]
        turned = (own[(turn + step) % len(own)] for step in range(len(own)))
        # The last starts of other numbers are borrowed first, since their owners hardly ever need them: two prompts in
        # one round are then not alike.
        others = [cells[(index + step) % len(cells)] for step in range(1, min(len(cells), _TRIES + 1))]
        borrowed = itertools.chain((start for cell in others for start in cell[:0:-1]), (cell[0] for cell in others))
        starts = itertools.islice(itertools.chain(turned, borrowed), _TRIES)
        for start in starts:
            ids = self._cut(start, length)
            if ids is not None:
                return ids
        raise InputError(
            f"{self.name}: found no {length} tokens in a row that encode to themselves (tokenizer "
            f"{self.tokenizer.name}); expected text that survives decoding and encoding; change the length, the text "
            "or the tokenizer"
        )

    def _cut(self, start: int, length: int) -> list[int] | None:
        """Ids [length] of the text from `start` on; None if it ends too soon or does not survive re-encoding."""
        # English has four to five characters a token. A few tokens more than needed, because the last ones of an
        # excerpt may be splinters of a word that the excerpt broke.
        characters = 5 * length + 64
        while True:
            excerpt, whole = self._excerpt(start, characters)
            ids = self.tokenizer.encode(excerpt)
            if whole or len(ids) >= length + 8:
                break
            characters *= 2
        ids = ids[:length]
        survives = len(ids) == length and self.tokenizer.encode(self.tokenizer.decode(ids)) == ids
        return ids if survives else None

    def _excerpt(self, start: int, characters: int) -> tuple[str, bool]:
        """At least `characters` characters from `start` on, round the end, and whether that is all there is."""
        piece = self._text[start : start + characters]
        missing = characters - len(piece)
        if missing <= 0 or start == 0:
            return piece, missing > 0
        return piece + _JOIN + self._text[: min(missing, start)], missing >= start

    @cached_property
    def _text(self) -> str:
        return _JOIN.join(document.strip() for document in self.documents)

    @cached_property
    def _held(self) -> int:
        """Tokens in the running text."""
        return len(self.tokenizer.encode(self._text))

    @cached_property
    def _starts(self) -> tuple[list[int], list[int], list[int]]:
        """Character offsets into the running text: of documents, of paragraphs, of words."""
        lengths = (len(document.strip()) + len(_JOIN) for document in self.documents[:-1])
        documents = list(itertools.accumulate(lengths, initial=0))
        paragraphs = [match.end() for match in _PARAGRAPH.finditer(self._text)]
        words = [match.start() for match in itertools.islice(_WORD.finditer(self._text), _MAX_WORDS)]
        return documents, paragraphs, words

    def _cells(self, key_bytes: int) -> list[_Cell]:
        """The starts in the order of the prompt numbers, in groups that belong to one number each.

        Starts followed by the same `key_bytes` bytes are kept once. A token is at least one byte, so that prompts of
        `key_bytes` tokens or more then differ. Only documents are all kept: a user's records are the user's choice.
        """
        if key_bytes in self._cells_by_key:
            return self._cells_by_key[key_bytes]
        documents, paragraphs, words = self._starts
        kept = set(documents)
        seen = {self._key(start, key_bytes) for start in documents}
        for start in itertools.chain(paragraphs, words):
            key = self._key(start, key_bytes)
            if key not in seen:
                seen.add(key)
                kept.add(start)
        first_of_document = set(documents)
        first_of_paragraph = set(paragraphs) - first_of_document
        groups: list[list[int]] = []
        for start in sorted(kept):
            if start in first_of_document or start in first_of_paragraph or len(groups[-1]) == _CELL:
                groups.append([])
            groups[-1].append(start)
        cells = [tuple(group) for group in groups]
        heads = [cell for cell in cells if cell[0] in first_of_document]
        openings = [cell for cell in cells if cell[0] in first_of_paragraph]
        inner = [cell for cell in cells if cell[0] not in first_of_document and cell[0] not in first_of_paragraph]
        self._cells_by_key[key_bytes] = [*heads, *_strided(openings), *_strided(inner)]
        return self._cells_by_key[key_bytes]

    def _key(self, start: int, key_bytes: int) -> bytes:
        return self._excerpt(start, key_bytes)[0].encode()[:key_bytes]


class SourcePrompts(PromptSource):
    """Prompts that the embedded source writes: number n is the beginning of its n-th text."""

    def batch(self, first: int, rows: int, length: int) -> list[list[int]]:
        """ids [rows, length], each from a document's start, so that the source can say what may follow."""
        from .source import embedded_source

        texts = (embedded_source().texts(1, length, seed=number) for number in range(first, first + rows))
        return [row for text in texts for row in text.tolist()]


def default_prompts(tokenizer: Tokenizer) -> PromptSource:
    """Prompts from the texts that ship with dlmbench, one document a file.

    A tokenizer that knows the embedded source's words and no others gets documents of that source.
    """
    from .source import embedded_source  # reads a grammar, which few prompts need

    source = embedded_source()
    if tokenizer.sha256 == source.tokenizer.sha256:
        return SourcePrompts("source", tokenizer.sha256, tokenizer, ("documents of the embedded source",))
    texts = [text for _, text in embedded_texts()]
    return PromptSource("default", hashlib.sha256("".join(texts).encode()).hexdigest(), tokenizer, tuple(texts))


def load_prompts(path: Path, tokenizer: Tokenizer) -> PromptSource:
    """Prompts from a user's file: plain text, or JSON Lines (`.jsonl`) with a `prompt` or a `text` in each object.

    Raises InputError, naming the file and the line, for anything that cannot be used.
    """
    place = shown(path)
    data = read_file(path, "a text file, or a .jsonl file with one prompt a line")
    if not data.strip():
        raise InputError(f"{place}: found an empty file; expected text to make prompts of; add some")
    if (nul := data.find(b"\0")) >= 0:
        raise InputError(
            f"{place}: found a NUL byte at offset {nul}; expected UTF-8 text, not a binary or UTF-16 file; convert it"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{place}: found byte 0x{data[error.start]:02x} at offset {error.start}, which is not UTF-8; expected "
            "UTF-8 text; convert the file"
        ) from None
    documents = tuple(_records(text, place)) if path.suffix.lower() == ".jsonl" else (text,)
    return PromptSource(shown(Path(path.name)), hashlib.sha256(data).hexdigest(), tokenizer, documents)


def _records(text: str, place: str) -> Iterator[str]:
    """The prompts of a JSON Lines file, blank lines skipped."""
    # Not splitlines(): a JSON string may hold U+2028 and its like as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _record(line, f"{place}, line {number}")


def _record(line: str, place: str) -> str:
    expected = 'expected an object with a text under "prompt" or "text"; correct the line'
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(f"{place}: found no valid JSON; {expected}") from None
    if not isinstance(record, dict):
        raise InputError(f"{place}: found {_kind(record)}; {expected}")
    key = next((key for key in ("prompt", "text") if key in record), None)
    if key is None:
        raise InputError(f"{place}: found {_names(record)}; {expected}")
    value = record[key]
    if not isinstance(value, str):
        raise InputError(f'{place}: found {_kind(value)} under "{key}"; {expected}')
    if not value.strip():
        raise InputError(f'{place}: found an empty text under "{key}"; {expected}')
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(f'{place}: found half of a surrogate pair under "{key}"; {expected}')
    return value


def _kind(value: object) -> str:
    """What JSON calls it."""
    names = {
        dict: "an object",
        list: "an array",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")


def _names(keys: Iterable[str]) -> str:
    """The keys of an object, escaped and not too many."""
    listed = list(itertools.islice(keys, 5))
    return f"only the keys {', '.join(ascii(key[:40]) for key in listed)}" if listed else "an object without keys"


def _strided(cells: Sequence[_Cell]) -> list[_Cell]:
    """All cells once, in steps of about 0.618 of their number: any few in a row are then spread over the whole."""
    count = len(cells)
    stride = max(1, round(count * 0.618))
    while math.gcd(stride, count) > 1:
        stride += 1
    return [cells[step * stride % count] for step in range(count)]
